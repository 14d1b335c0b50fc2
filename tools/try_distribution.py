"""Import all modules of one installed distribution and load its entry points. Standard library only: check_wheels.py runs this in
the environment under test.

Usage: python try_distribution.py NAME
"""

import importlib
import importlib.util
import pkgutil
import re
import sys
from importlib.metadata import Distribution, distribution


def extras_of(installed: Distribution) -> set[str]:
    """Names of the packages that only the extras of a distribution bring, spelled as modules."""
    optional = [line for line in installed.requires or [] if "extra ==" in line]
    names = {re.split(r"[^\w-]", line, maxsplit=1)[0].replace("-", "_").lower() for line in optional}
    return names | {"yaml"} if "pyyaml" in names else names  # the one whose module is called otherwise


def missing_module(error: BaseException | None) -> str | None:
    """Name of the module whose absence an error, or what it came from, reports."""
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__ or error.__context__
    return error.name if error else None


def import_all(package: str, may_miss: set[str]) -> list[str]:
    """Import a package and all its modules, except `__main__`; what went wrong, one line each."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return [f"the wheel holds no package `{package}`"]
    faults = []
    modules = pkgutil.walk_packages(spec.submodule_search_locations, f"{package}.", onerror=lambda name: None)
    for name in [package, *(module.name for module in modules)]:
        if name.endswith("__main__"):
            continue
        try:
            importlib.import_module(name)
        except Exception as error:
            missing = missing_module(error)
            if missing is None:
                faults.append(f"{name} does not import: {error!r}")
            elif missing.split(".")[0].lower() not in may_miss:
                faults.append(f"{name} needs `{missing}`, which is not installed with what the package declares")
    return faults


def main(name: str) -> int:
    installed = distribution(name)
    faults = import_all(name.replace("-", "_"), extras_of(installed))
    for entry_point in installed.entry_points:
        try:
            entry_point.load()
        except Exception as error:  # whatever a plug-in raises, the report names the plug-in
            faults.append(f"entry point {entry_point.group}:{entry_point.name} = {entry_point.value} does not load: {error!r}")
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
