"""What the READMEs and the pages of the documentation show works.

The Python of a README runs, and every `mlipfm` line is a command with options that exist. The blocks of a documentation page run one after the
other in an empty folder; the front matter of the page names the tier that runs it (`tier`) and what is shortened for the test (`shorten`).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from mlipfm_data import StoreWriter, export_extxyz
from mlipfm_interfaces.checkpoint import save_potential
from mlipfm_interfaces.cli import app
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_models import build_potential

ROOT = Path(__file__).parents[1]
READMES = sorted(
    [ROOT / "README.md", *ROOT.glob("packages/*/README.md"), *ROOT.glob("tools/*/README.md"), ROOT / ".github" / "CONTRIBUTING.md"]
)
DOCS = ROOT / "packages" / "mlipfm" / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("guides/*.md"), *DOCS.glob("extend/*.md")])

#: Long work made short.
SHORTER = {"steps=2000": "steps=2", "steps=10000": "steps=2"}

ETHANOL = np.array([[1.17, -0.37, 0.0], [0.0, 0.56, 0.0], [-1.19, -0.22, 0.0], [-1.95, 0.38, 0.0], [2.09, 0.21, 0.0], [1.13, -1.02, 0.88],
                    [1.13, -1.02, -0.88], [0.06, 1.19, 0.89], [0.06, 1.19, -0.89]])  # fmt: skip
RECIPE = """format: 1
potential: {name: painn, backbone: {channels: 4, layers: 1}}
data: {train: [data/train], valid: [data/valid]}
steps: 4
evaluate_every: 2
checkpoint_every: 2
"""


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of every fenced block."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


@pytest.fixture
def material(tmp_path, monkeypatch):
    """A folder with the files that READMEs speak of: rattled ethanol labelled by an untrained model, with noise."""
    model = build_potential("painn", {"elements": ["H", "C", "O"], "levels": ["gfn2-xtb"], "backbone": {"channels": 4, "layers": 1}})
    rng = np.random.default_rng(0)
    bare = [Structure([6, 6, 8, 1, 1, 1, 1, 1, 1], ETHANOL + rng.normal(scale=0.03, size=(9, 3)), level="gfn2-xtb") for _ in range(48)]
    frames = [
        s.replace(
            labels={key: value + rng.normal(scale=0.01, size=np.shape(value)) for key, value in labels.items()},
            total_charge=0,
            spin_multiplicity=1,
            provenance=Provenance(group=f"t{k % 4}", index=k, licence="CC0-1.0"),
        )
        for k, (s, labels) in enumerate(zip(bare, evaluate(model, bare, ("energy", "forces")), strict=True))
    ]
    for k, name in enumerate(("train", "valid", "test", "geometries")):
        with StoreWriter(tmp_path / "data" / name, name=name) as writer:
            for s in frames[12 * k : 12 * k + 12]:
                writer.add(s)
    for name in ("model.safetensors", "run/best.safetensors", "runs/finetuned/best.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save_potential(tmp_path / name, model, {"licences": ["CC0-1.0"]})
    export_extxyz([s.replace(level=None) for s in frames[:4]], tmp_path / "set.xyz")
    (tmp_path / "set.xyz").write_text((tmp_path / "set.xyz").read_text().replace("REF_energy", "E_dft"))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


PYTHON = [(path, k, text) for path in READMES for k, (language, text) in enumerate(blocks(path)) if language == "python"]


@pytest.mark.ci
@pytest.mark.parametrize(("path", "text"), [pytest.param(p, t, id=f"{p.parent.name}-{k}") for p, k, t in PYTHON])
def test_python_in_a_readme_runs(path, text, material):
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    exec(compile(text, str(path), "exec"), {"__name__": "readme"})


def commands(command: Any, path: tuple[str, ...] = ("mlipfm",)) -> Iterator[tuple[str, str]]:
    """(name, help text) of every command and group."""
    yield " ".join(path), command.help or ""
    context = typer.Context(command)
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        child = command.get_command(context, name)
        if not child.hidden:  # old names are
            yield from commands(child, (*path, name))


HELP = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", HELP)
def test_help_of_every_command_shows_an_example(name):
    assert re.search(r"Examples?:\s+mlipfm", HELP[name])


def lines() -> Iterator[tuple[str, list[str]]]:
    """(where, words) of every line of a block, a table cell or an example of a help text that begins with `mlipfm`."""
    for name, text in HELP.items():
        for line in re.findall(r"^ *(?:Example: )?(mlipfm .*)$", text, re.MULTILINE):
            yield f"--help of {name}: {line}", shlex.split(line.split(" > ")[0])[1:]
    for path in [*READMES, *PAGES]:
        text = path.read_text(encoding="utf-8")
        fenced = [line for language, block in blocks(path) if language in ("", "bash") for line in block.splitlines()]
        inline = re.findall(r"`((?:\.venv/bin/)?mlipfm [^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
        for line in [*fenced, *inline]:
            words = shlex.split(line.split(" #")[0].split(" > ")[0].removeprefix(".venv/bin/"))
            if words[:1] == ["mlipfm"] and "..." not in line:
                yield f"{path.parent.name if path.name == 'README.md' else path.stem}: {line}", words[1:]


@pytest.mark.ci
@pytest.mark.parametrize("words", [pytest.param(words, id=where) for where, words in lines()])
def test_command_in_a_readme_exists_with_its_options(words):
    """A line that a README prints is parsed as far as its arguments: no command or option in it is unknown."""
    command = typer.main.get_command(app)
    context = command.make_context("mlipfm", [], resilient_parsing=True)
    while hasattr(command, "get_command") and words and not words[0].startswith("-"):
        child = command.get_command(context, words[0])
        assert child is not None, f"no command {words[0]!r}"
        context, command, words = child.make_context(words[0], [], resilient_parsing=True), child, words[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help", "--debug"}
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in known, f"{word} is no option; there are {sorted(known)}"


def page_script(text: str, page: Path) -> str:
    """One bash script of the blocks of a page: bash and Python run, a block with a caption becomes the file of that name, other blocks are output."""
    script = ["set -euo pipefail"]
    for kind, caption, code in re.findall(
        r"^```(?:\{code-block\} )?(\w+)\n(?::caption: (\S+)\n\n?)?(.*?)^```$", text, re.MULTILINE | re.DOTALL
    ):
        if caption:
            script.append(f"mkdir -p {Path(caption).parent} && cat > {caption} <<'END_OF_FILE'\n{code}END_OF_FILE")
        elif kind == "bash":
            script.append(code)
        elif kind == "python":
            script.append(f"python - <<'END_OF_FILE'\n{code}END_OF_FILE")
    return "\n".join(script).replace("$DOCS", str(page.parent))


def runnable_pages() -> Iterator[Any]:
    """Pages whose front matter names the tier that runs them, with the mark of that tier."""
    for page in PAGES:
        found = re.match(r"---\n(.*?)\n---\n(.*)", page.read_text(encoding="utf-8"), re.DOTALL)
        front = yaml.safe_load(found[1]) if found else {}
        if found and "tier" in front:
            yield pytest.param(page, front.get("shorten", {}), found[2], id=page.stem, marks=getattr(pytest.mark, front["tier"]))


@pytest.mark.parametrize(("page", "shorten", "text"), list(runnable_pages()))
def test_page_runs_from_top_to_bottom(page, shorten, text, tmp_path):
    """`MLIPFM_DOCS_FULL=1` runs the page as it stands."""
    for long, short in shorten.items():
        assert long in text, f"{page.name} has no {long!r} to shorten"
        text = text if os.environ.get("MLIPFM_DOCS_FULL") else text.replace(long, short)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", page_script(text, page)], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{page.name} stopped:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.full
@pytest.mark.parametrize("notebook", sorted(DOCS.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    copy = shutil.copy(notebook, tmp_path)  # a notebook runs in the folder it lies in
    done = subprocess.run([sys.executable, "-m", "jupyter", "execute", str(copy)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
