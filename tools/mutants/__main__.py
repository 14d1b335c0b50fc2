"""`python tools/mutants [--only NAME] [--package PACKAGE] [--list] [--again] [--results FILE]`: plant mistakes, see whether the tests notice.

Exit status: 0; 1 if fewer than 95 % are noticed; 2 for a list that does not fit the source, or a name that is not in it.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)  # a folder that Python runs stands first itself; its modules are those of the package `mutants`


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="tools/mutants", description=__doc__, allow_abbrev=False)
    made.add_argument("--only", action="append", metavar="NAME", help="this mutant (may be repeated)")
    made.add_argument("--package", metavar="PACKAGE", help="those of one package, for instance mlipfm-train")
    made.add_argument("--list", action="store_true", help="print the mutants with the facts they break, run nothing")
    made.add_argument(
        "--again", action="store_true", help="also those whose result still holds: neither their file nor their tests changed"
    )
    made.add_argument(
        "--results", type=Path, default=HERE / "results.json", metavar="FILE", help="default: results.json beside this program"
    )
    return made


def main(arguments: list[str]) -> int:
    """See the module."""
    from mutants.planting import MutantError, read_mutants
    from mutants.running import run_all, table

    options = parser().parse_args(arguments)
    try:
        mutants = read_mutants(options.only, options.package)
    except MutantError as error:
        print(f"tools/mutants: {error}", file=sys.stderr)
        return 2
    if options.list:
        for mutant in mutants:
            print(f"{mutant.package:18s} {mutant.name}\n    {mutant.fact}")
        return 0
    results = run_all(mutants, options.results, again=options.again)
    print(table(mutants, results))
    return 0 if sum(results[m.name].killed for m in mutants) >= 0.95 * len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
