"""Build every package as a wheel and prove that each one stands alone.

A workspace hides two mistakes: a dependency that only a neighbour declares, and an internal dependency without bounds. So each
wheel's METADATA and its list of files are read (no test material, no large data), then the wheel is installed into an empty
environment with nothing but what it declares, all its modules are imported, and every entry point it announces is loaded. A
module may miss only what an extra of its own package brings.

Usage: .venv/bin/python tools/check_wheels.py [--only NAME] [--keep FOLDER]
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "mlipfm"
#: Names of files and folders that belong into tests; `testing` is the kit for authors of plug-ins and stays.
TEST_NAMES = re.compile(
    r"tests?|conftest\.py|test_.*|.*_test\.py|(.*_)?(violators|counterexamples)\.py|plant(ed|ing).*|faults\.py|kills\.py|evidence\..*"
)
#: Bytes of a data file in a wheel, and of the weights of released models.
LARGEST, WEIGHTS = 200_000, 10_000_000
RELEASED = re.compile(r"/released/[^/]+\.safetensors$")
LOWER, UPPER = {">", ">=", "==", "~="}, {"<", "<=", "==", "~="}


def metadata_faults(text: str) -> list[str]:
    """What is wrong with a wheel's METADATA, one line each: no version, or an internal dependency not bounded on both sides."""
    metadata = HeaderParser().parsestr(text)
    faults = [] if metadata["Version"] else [f"{metadata['Name']}: no version"]
    for requirement in map(Requirement, metadata.get_all("Requires-Dist", [])):
        if not requirement.name.startswith(PREFIX):
            continue
        operators = {specifier.operator for specifier in requirement.specifier}
        if not (operators & LOWER and operators & UPPER):
            faults.append(f"{metadata['Name']}: `{requirement}` needs a lower and an upper bound, such as {requirement.name}>=0.1,<0.2")
    return faults


def test_material(files: dict[str, int]) -> list[str]:
    """Return the files of a wheel (path -> bytes) that no user needs, one line each: tests and what is made for them, and data above `LARGEST`."""
    faults = []
    for path, size in files.items():
        if any(TEST_NAMES.fullmatch(part) for part in path.split("/")):
            faults.append(f"{path} is test material: move it to tests/")
        elif not path.endswith((".py", ".so", "RECORD")) and size > (limit := WEIGHTS if RELEASED.search(path) else LARGEST):
            faults.append(f"{path} has {size} bytes, a wheel holds data files of at most {limit}")
    return faults


def build(folder: Path) -> dict[str, Path]:
    """Build the wheels of all packages into `folder`; distribution name -> wheel."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    for project in sorted(ROOT.glob("packages/*/pyproject.toml")):
        if "scikit_build_core" in project.read_text():
            take_compiled(folder)
            continue
        done = subprocess.run(command, cwd=project.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            raise SystemExit(f"{project.parent.name} does not build:\n{done.stdout}")
    return {canonicalize_name(wheel.name.split("-")[0]): wheel for wheel in sorted(folder.glob("*.whl"))}


def take_compiled(folder: Path) -> None:
    """Copy the wheel of the compiled kernels that the set-up has built; where there is no compiler it has built none, which is said."""
    tool = str(ROOT / "tools" / "build_kernels")
    subprocess.run([tool], check=True, stdout=subprocess.PIPE)
    where = Path(subprocess.run([tool, "--where"], check=True, text=True, stdout=subprocess.PIPE).stdout.strip())
    made = list(where.glob("*.whl"))
    if not made:
        print("mlipfm-kernels       left out: no C++ compiler", flush=True)
    for wheel in made:
        shutil.copy(wheel, folder)


def files_of(wheel: Path) -> dict[str, int]:
    """Return the files of a wheel with their sizes in bytes."""
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.file_size for entry in archive.infolist()}


def metadata_of(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return archive.read(name).decode()


def fault_alone(name: str, wheels: dict[str, Path], folder: Path) -> str:
    """Install one wheel into an empty environment and try it there; the reason if it fails, else nothing."""
    uv, environment = str(ROOT / "tools" / "uv"), folder / "environment"
    internal = folder / "internal.txt"  # the wheels just built, never a registry's packages of the same names
    internal.write_text("".join(f"{other} @ {wheel.as_uri()}\n" for other, wheel in wheels.items()))
    pins = ["--constraints", str(ROOT / "constraints.txt"), "--constraints", str(internal)]
    python = str(environment / "bin" / "python")
    steps = [
        [uv, "venv", "--quiet", "--python", sys.executable, str(environment)],
        [uv, "pip", "install", "--quiet", "--python", python, *pins, str(wheels[name])],
        [python, str(ROOT / "tools" / "try_distribution.py"), name],
    ]
    for step in steps:
        done = subprocess.run(step, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            return done.stdout.strip()
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", help="try only this package, such as mlipfm-data; all are built")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="leave the wheels here")
    arguments = parser.parse_args()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        wheels = build((arguments.keep or Path(scratch, "wheels")).resolve())
        if arguments.only and arguments.only not in wheels:
            parser.error(f"no package {arguments.only}; there are {', '.join(wheels)}")
        for wheel in wheels.values():
            faults += metadata_faults(metadata_of(wheel)) + test_material(files_of(wheel))
        for name in [arguments.only] if arguments.only else list(wheels):
            start = time.monotonic()
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                fault = fault_alone(name, wheels, Path(folder))
            print(f"{name:20} {time.monotonic() - start:5.1f} s  {'FAILED' if fault else 'ok'}", flush=True)
            faults += [f"{name}: {fault}"] if fault else []
    for fault in faults:
        print(f"\n{fault}", file=sys.stderr)
    print(f"wheels: {len(wheels)} built, " + (f"{len(faults)} faults" if faults else "no faults"))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
