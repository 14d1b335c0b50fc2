"""The list of mutants: one TOML file for each package, and copies of the source with one line changed."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import shutil
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


class MutantError(Exception):
    """The list does not fit the source, or a name is not in it."""


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        name: in the whole list, once. package: folder below `packages`.
        file: inside the package's import folder. old, new: text that occurs there once, and what it becomes.
        tests: files below the package's `tests` (or from the root, if they start with `tests/` or `packages/`) that stand beside it.
        fact: what is true of the source and false of the mutant.
    """

    name: str
    package: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    fact: str

    @property
    def module(self) -> str:
        """Name of the package's import folder."""
        return self.package.replace("-", "_")

    @property
    def source(self) -> Path:
        """The file as it is."""
        return ROOT / "packages" / self.package / "src" / self.module / self.file

    @property
    def test_paths(self) -> list[Path]:
        """The test files."""
        beside = ROOT / "packages" / self.package / "tests"
        return [ROOT / t if t.startswith(("tests/", "packages/")) else beside / t for t in self.tests]

    def mutated(self) -> str:
        """Text of the file with the mistake.

        Raises:
            MutantError: no such file or test, `old` does not occur exactly once, or what results is no Python.
        """
        missing = [path for path in (self.source, *self.test_paths) if not path.is_file()]
        if missing:
            raise MutantError(f"{self.name}: there is no {missing[0].relative_to(ROOT)}")
        text = self.source.read_text()
        if text.count(self.old) != 1:
            raise MutantError(f"{self.name}: {self.old!r} occurs {text.count(self.old)} times in {self.source.relative_to(ROOT)}, not once")
        if self.old == self.new:
            raise MutantError(f"{self.name}: nothing is changed")
        mutated = text.replace(self.old, self.new)
        try:
            ast.parse(mutated)
        except SyntaxError as error:  # every test would notice it
            raise MutantError(f"{self.name}: what results is no Python: {error}") from None
        return mutated

    def state(self) -> str:
        """Hash of all that decides the result: the mistake, the file it is in, the tests."""
        parts = [self.old, self.new, self.source.read_text(), *(path.read_text() for path in self.test_paths)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def read_mutants(only: Sequence[str] | None = None, package: str | None = None) -> list[Mutant]:
    """All mutants by package, or those asked for; every one of them applies.

    Raises:
        MutantError: a name twice or not known, a mistake that does not apply.
    """
    mutants = [
        Mutant(package=path.stem, **{**entry, "tests": tuple(entry["tests"])})
        for path in sorted((HERE / "lists").glob("*.toml"))
        for entry in tomllib.loads(path.read_text())["mutant"]
    ]
    names = [mutant.name for mutant in mutants]
    for name in names:
        if names.count(name) > 1:
            raise MutantError(f"{name} is in the list twice")
    for wanted in only or ():
        if wanted not in names:
            raise MutantError(f"{wanted!r} is not in the list (--list shows it)")
    if package is not None and package not in {mutant.package for mutant in mutants}:
        raise MutantError(f"no mutant is in a package {package!r}")
    chosen = [m for m in mutants if (not only or m.name in only) and package in (None, m.package)]
    for mutant in chosen:
        mutant.mutated()
    return chosen


def plant(mutant: Mutant, folder: Path) -> Path:
    """A folder below `folder` that holds the package with the mistake, to stand first on PYTHONPATH; the source is not touched."""
    home = folder / mutant.name
    shutil.copytree(mutant.source.parents[len(Path(mutant.file).parts) - 1], home / mutant.module)
    target = home / mutant.module / mutant.file
    for stale in (target.parent / "__pycache__").glob(f"{target.stem}.*.pyc"):
        stale.unlink()
    target.write_text(mutant.mutated())
    installed = importlib.util.find_spec(mutant.module)
    for compiled in (
        Path(str(installed.origin)).parent.glob("*.so") if installed else ()
    ):  # of a package that is not installed from its source
        (home / mutant.module / compiled.name).symlink_to(compiled)
    return home
