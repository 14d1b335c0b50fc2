"""Resolve all dependencies anew and write the versions to constraints.txt and to [tool.uv] of pyproject.toml.

`uv sync` reads constraints only from pyproject.toml, other installers only from a file, hence both. Each package gets one
version, the one for the oldest Python: two would split the resolution before torch is chosen, and uv then passes over a local
CPU wheel. torch keeps its version or takes the one given; what only its CUDA build brings is not pinned.

Usage: .venv/bin/python tools/update_constraints.py [--torch VERSION]
"""

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "constraints.txt"
CUDA_ONLY = ("torch==", "triton==", "nvidia-", "cuda-")
LIST = re.compile(r"^constraint-dependencies = \[.*?^\]\n", re.MULTILINE | re.DOTALL)


def with_constraints(pyproject: str, pins: list[str]) -> str:
    """The text of a pyproject.toml with its `constraint-dependencies` replaced by `pins`."""
    items = "".join(f'    "{pin}",\n' for pin in pins)
    return LIST.sub(f"constraint-dependencies = [\n{items}]\n", pyproject)


def resolved(torch: str) -> dict[str, Version]:
    """Version of every package but torch, resolved in a copy of the workspace that pins torch alone."""
    with tempfile.TemporaryDirectory() as folder:
        for path in [ROOT / "pyproject.toml", *ROOT.glob("packages/*/pyproject.toml")]:
            copy = Path(folder) / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        root = Path(folder) / "pyproject.toml"
        root.write_text(with_constraints(root.read_text(), [f"torch=={torch}"]))
        plain = ["--no-hashes", "--no-header", "--no-annotate", "--no-emit-workspace"]
        export = [str(ROOT / "tools" / "uv"), "export", "--quiet", "--all-packages", "--all-extras", *plain]
        lines = subprocess.run(export, cwd=folder, check=True, text=True, stdout=subprocess.PIPE).stdout.splitlines()
    pins = [line.split(" ;")[0].strip().split("==") for line in lines if not line.startswith(CUDA_ONLY)]
    return {name: min(Version(version) for other, version in pins if other == name) for name, _ in pins}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", metavar="VERSION", help="pin torch to this version")
    before = FILE.read_text().splitlines() if FILE.exists() else []
    torch = parser.parse_args().torch or next(line for line in before if line.startswith("torch==")).removeprefix("torch==")
    pins = sorted(f"{name}=={version}" for name, version in {**resolved(torch), "torch": torch}.items())
    FILE.write_text("\n".join(pins) + "\n")
    pyproject = ROOT / "pyproject.toml"
    pyproject.write_text(with_constraints(pyproject.read_text(), pins))
    print(f"{len(pins)} versions, {len(set(pins) - set(before))} of them new; now run tools/setup and the tests")


if __name__ == "__main__":
    main()
