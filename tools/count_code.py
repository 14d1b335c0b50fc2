"""Count lines of code of each package: lines that carry a token, without blank lines, comments and docstrings.

`python tools/count_code.py` prints a line for each package and the sum; `--files` also every file.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

PACKAGES = Path(__file__).resolve().parents[1] / "packages"
_EMPTY = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING}


def code_lines(text: str) -> int:
    """Return the number of lines of Python source that carry code. Raises `SyntaxError`: the text is no Python."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {line for token in tokens if token.type not in _EMPTY for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        for part in body if isinstance(body, list) else ():
            if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str):
                lines -= set(range(part.lineno, (part.end_lineno or part.lineno) + 1))
    return len(lines)


def count(packages: Path = PACKAGES) -> dict[Path, int]:
    """Return the lines of code of every module under `packages`/*/src."""
    return {path: code_lines(path.read_text("utf-8")) for path in sorted(packages.glob("*/src/**/*.py"))}


def main() -> None:
    parser = argparse.ArgumentParser(description="Count lines of code without blank lines, comments and docstrings.")
    parser.add_argument("--files", action="store_true", help="print every file, too")
    parser.add_argument("--packages", type=Path, default=PACKAGES, help="folder of the packages [default: of this repository]")
    options = parser.parse_args()
    sums: Counter[str] = Counter()
    for path, lines in count(options.packages).items():
        relative = path.relative_to(options.packages)
        sums[relative.parts[0]] += lines
        if options.files:
            print(f"{lines:7d} {relative}")
    for name, lines in sums.items():
        print(f"{lines:7d} {name}")
    print(f"{sum(sums.values()):7d} all")


if __name__ == "__main__":
    main()
