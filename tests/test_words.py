"""One word for each thing: docstrings, messages, help texts, READMEs and guides have none of the words that the glossary has replaced."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Words of which every use is dialect, with the word of `.github/GLOSSARY.md`. Names in `backticks` and strings of one word are code.
REPLACED = {
    "stated|unstated": "given, not given", "told": "given, distinguished, reported", "worth": "name what is gained", "asked for": "requested",
    "without a word": "silently", "sees": "gets, has, finds", "mends?": "hint", "heaps?": "cluster", "verdicts?": "outcome, finding",
    "lone (?:atom|ion)s?": "isolated", "census|survey": "statistics", "judge[sd]?|judging": "check, evaluate",
    "held(?![ -]out)": "fixed, kept, passed", "came of": "became of", "honest|honesty": "reproducible",
    "oracles?": "labeller, reference", "seams?": "interface",
}  # fmt: skip
#: Values that stand in JSON, words of an old name, and a word of HTML: they do not change.
KEPT = {"not stated", "no group stated", "Store.census is an old name: use structure_table", "verdict bad"}


def prose_of(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of docstrings and of strings of several words in Python source; names of attributes in front of a colon are code."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip() and node.value.strip() not in KEPT:
            yield node.lineno, re.sub(r"`[^`]*`|(?:^\s+|(?<=\. ))\w+(?:, \w+)*: ", " ", node.value, flags=re.MULTILINE)


def found_in(texts: Iterator[tuple[object, str]]) -> list[str]:
    """Every replaced word in the texts, with the place and the word of the glossary."""
    patterns = {re.compile(rf"\b(?:{old})\b", re.IGNORECASE): new for old, new in REPLACED.items()}
    return [f"{place}: {hit[0]!r}: {new}" for place, text in texts for pattern, new in patterns.items() for hit in pattern.finditer(text)]


def test_a_replaced_word_is_noticed_in_docstrings_messages_and_help_and_not_in_code():
    planted = '''
def f(told, worth):
    """Return what is stated.

    Attributes:
        told: of the `census`.
    """
    raise ValueError(f"{told} was judged by the heap")
    return {"stated": worth}
'''
    assert sorted(hit.split(": ")[1] for hit in found_in(prose_of(planted))) == ["'heap'", "'judged'", "'stated'"]


@pytest.mark.parametrize("package", sorted(path.name for path in (ROOT / "packages").iterdir() if (path / "src").is_dir()))
def test_docstrings_messages_and_help_have_the_words_of_the_glossary(package):
    files = sorted((ROOT / "packages" / package / "src").rglob("*.py"))
    assert files
    texts = ((f"{file.name}:{line}", text) for file in files for line, text in prose_of(file.read_text(encoding="utf-8")))
    assert found_in(texts) == []


def test_readmes_and_guides_have_the_words_of_the_glossary():
    pages = [
        ROOT / "README.md",
        *ROOT.glob("packages/*/README.md"),
        *ROOT.glob("packages/mlipfm/docs/*.md"),
        *ROOT.glob("packages/mlipfm/docs/guides/*.md"),
    ]
    assert len(pages) > 20
    texts = ((page.relative_to(ROOT), re.sub(r"```.*?```|`[^`]*`", " ", page.read_text(encoding="utf-8"), flags=re.S)) for page in pages)
    assert found_in(texts) == []
