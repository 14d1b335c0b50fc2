"""`quickstart FOLDER`: the figures of a quickstart's result records as rows of the benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mlipfm.results import Results

from bench.figures import Figure, figure

#: What a model is compared with.
PEERS = {"finetuned": "from-scratch", "student": "student-without-teacher"}


def figures(folder: Path) -> Iterator[Figure]:
    """Yield errors with those of the peer, ratios, dynamics, speeds and seconds; what could not be measured has no row."""
    results = Results.read(folder)
    reference = results.of("speed").get("reference")
    for name, record in results.records.items():
        kind, _, model = name.partition("-")
        peer = PEERS.get(model)
        for m in record["metrics"] if kind in ("evaluation", "comparison", "dynamics", "speed") else []:
            if m["value"] is None or "element" in m or m.get("key") == "ood_ratio":
                continue
            what = ", ".join([m["name"], *([m["set"]] if "set" in m else []), record["details"].get("title") or model])
            theirs: list[float] = []
            if kind == "evaluation" and peer and (other := results.error(peer, m["set"], m["key"])):
                theirs = [other["value"]]
            elif kind == "speed" and reference and model != "reference":
                peer, theirs = "GFN2-xTB", reference["details"]["steps_per_second"]
            values = record["details"].get("steps_per_second", [m["value"]])
            yield figure("quickstart", what, m["unit"], values, 1, peer if theirs else None, theirs)
    for name, value in json.loads((folder / "quickstart.json").read_bytes())["seconds"].items():
        yield figure("quickstart", f"seconds, {name}", "s", [value], 1)
