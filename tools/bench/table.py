"""Tables for a README from committed result files: of each figure the last that was appended."""

from __future__ import annotations

from pathlib import Path

from bench.figures import Figure, read, short

HEAD = "| what | median [quartiles] | unit | repeats, threads | compared with | its value | ratio | commit |\n|---|---|---|---|---|---|---|---|"


def render(folder: Path) -> str:
    """Markdown: one table for each bench, in the order of the file names.

    Raises:
        ValueError: a line that is no figure. FileNotFoundError: no result files.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise FileNotFoundError(f"no result files in {folder}; make them with `python tools/bench all --json-folder {folder}`")
    newest = {(f.bench, f.name, f.threads): f for path in files for f in read(path)}
    benches = list(dict.fromkeys(bench for bench, _, _ in newest))
    return "\n\n".join("\n".join([f"**{b}**", "", HEAD, *(_row(f) for f in newest.values() if f.bench == b)]) for b in benches)


def _row(f: Figure) -> str:
    peer = [f.peer, short(f.peer_value), short(f.ratio)] if f.peer and f.peer_value is not None and f.ratio is not None else ["", "", ""]
    cells = [f.name, f"{short(f.value)} [{short(f.q1)}, {short(f.q3)}]", f.unit, f"{f.n}, {f.threads}", *peer, f.commit]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
