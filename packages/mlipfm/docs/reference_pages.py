"""Write the reference pages from the code: commands, Python functions, quantities, label checks, model checks, contract rules and the glossary."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_origin

import typer
from mlipfm_data.label_checks.findings import CODES
from mlipfm_eval.check import MODEL_CHECKS
from mlipfm_interfaces.cli import app
from mlipfm_interfaces.quantities import QUANTITIES
from mlipfm_interfaces.testing.contracts import CONTRACTS

GLOSSARY = Path(__file__).parents[3] / ".github" / "GLOSSARY.md"

#: What the Python reference shows, and so what is public: a package by its `__all__`, a module by its definitions without underscore, or by those
#: that are named behind its colon. `tests/test_public_names.py` holds guides, examples and outside plug-ins to it.
PYTHON = {
    "structures": ["mlipfm_interfaces.structure", "mlipfm_interfaces.theory", "mlipfm_interfaces.batch", "mlipfm_interfaces.units",
                   "mlipfm_interfaces.elements: number symbol"],
    "potentials": ["mlipfm_interfaces.potential", "mlipfm_interfaces.checkpoint", "mlipfm_interfaces.derivatives",
                   "mlipfm_interfaces.foreign: open_foreign", "mlipfm_models"],
    "plug-ins": ["mlipfm_interfaces.protocols", "mlipfm_interfaces.raw_frame", "mlipfm_interfaces.plugins",
                 "mlipfm_interfaces.benchmark: BenchmarkResult LabelledSet OpenModel", "mlipfm_interfaces.seeds: stream",
                 "mlipfm_interfaces.cli: main", "mlipfm_interfaces.testing.closed_forms: ClosedFormConfig Morse noble_gas",
                 "mlipfm_interfaces.testing.potential_rules: check_potential"],
    "errors": ["mlipfm_interfaces.errors"],
    "data": ["mlipfm_data", "mlipfm_data.conformers: conformers", "mlipfm_data.tblite_labeler: TbliteLabeler", "mlipfm_data.labeling: label_all",
             "mlipfm_data.normal_modes: normal_modes hessian_by_differences forces_of", "mlipfm_data.store.describe: describe"],
    "training": ["mlipfm_train", "mlipfm_train.optimizers: adamw", "mlipfm_train.recipe: Optimizer", "mlipfm_distill"],
    "dynamics": ["mlipfm_md"],
    "evaluation": ["mlipfm_eval", "mlipfm_interfaces.metrics"],
}  # fmt: skip


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    lines = [[str(cell).replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows]
    names = list(head)
    return "\n".join("| " + " | ".join(row) + " |" for row in [names, ["---"] * len(names), *lines]) + "\n"


def _commands(command: Any, context: Any, path: list[str]) -> Iterator[str]:
    """Yield the help text of a command and of those below it."""
    if len(path) > 1:
        yield f"{'#' * len(path)} {' '.join(path)}\n\n```text\n{command.get_help(context)}\n```\n"
    for name in getattr(command, "list_commands", lambda context: [])(context):
        child = command.get_command(context, name)
        yield from _commands(child, child.make_context(name, [], parent=context, resilient_parsing=True), [*path, name])


def command_page() -> str:
    """Return the page of all commands, as `--help` prints them."""
    root = typer.main.get_command(app)
    context = root.make_context("mlipfm", [], resilient_parsing=True, terminal_width=96, max_content_width=96)
    return "# Commands\n\nWhat `mlipfm COMMAND --help` prints.\n\n" + "\n".join(_commands(root, context, ["mlipfm"]))


def public_names(entry: str) -> tuple[Any, list[str]]:
    """Return (module, names) of an entry of `PYTHON`, names in the order of `__all__`, of the entry or of the source."""
    path, _, named = entry.partition(":")
    module = importlib.import_module(path)
    if named:
        return module, named.split()
    names = getattr(module, "__all__", None)
    if names is None:
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == path]
        names = [name for name in own if not name.startswith("_")]
    return module, list(names)


def _directives(module: Any, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (directive, name) of the functions and classes among `names`."""
    for name in names:
        value = getattr(module, name)
        if inspect.isclass(value):
            yield "autoexception" if issubclass(value, Exception) else "autoclass", name
        elif callable(value) and not get_origin(value):  # no type such as dict[str, float]
            yield "autofunction", name


def python_page(title: str, modules: Iterable[str]) -> str:
    """Return a page of docstrings in reStructuredText."""
    text = f"{title.capitalize()}\n{'=' * len(title)}\n"
    for entry in modules:
        module, names = public_names(entry)
        path = module.__name__
        text += f"\n{path}\n{'-' * len(path)}\n\n.. automodule:: {path}\n   :no-members:\n\n"
        for directive, name in _directives(module, names):
            members = "   :members:\n" if directive == "autoclass" else ""
            text += f".. {directive}:: {path}.{name}\n{members}\n"
    return text


def quantity_page() -> str:
    """Return the table of quantities with units and signs."""
    rows = (
        (f"`{q.key}`", " x ".join(map(str, q.shape)) or "number", q.layout, q.unit, "yes" if q.extensive else "", q.meaning)
        for q in QUANTITIES.values()
    )
    return "# Quantities\n\nShapes are per entry: of a system, of an atom, of a pair of atoms.\n\n" + table(
        ("key", "shape", "entry of", "unit", "extensive", "definition and sign"), rows
    )


def check_page() -> str:
    """Return the page of label checks, model checks and contract rules, in the words that the checks themselves carry."""
    labels = table(("code", "what the label check found"), ((f"`{code}`", words) for code, words in CODES.items()))
    models = table(("check", "what must hold", "needs"), ((f"`{c.name}`", c.statement, c.needs or "") for c in MODEL_CHECKS))
    contracts = "".join(
        f"### {name}\n\n" + table(("rule", "what must hold"), ((f"`{rule.name}`", rule.statement) for rule in rules)) + "\n"
        for name, rules in CONTRACTS.items()
    )
    return (
        "# What each check means\n\n"
        "## Label checks\n\nPrinted by `mlipfm data check-labels` and, for the units and signs of a file, by `mlipfm data import`.\n\n"
        + labels
        + "\n"
        "## Model checks\n\nPrinted by `mlipfm check`. A check with an entry in the last column fails only models "
        "that declare this property; for other models the value is measured and printed.\n\n" + models + "\n"
        "## Contract rules\n\nEvery plug-in must pass the rules of its interface; `mlipfm dev contracts` lists them and "
        "`mlipfm_interfaces.testing.contract_suites` has them as pytest classes.\n\n" + contracts
    )


def write_reference_pages(folder: Path) -> None:
    """Write all pages to `folder`; files that have not changed are left alone, so that only what changed is built again."""
    pages = {
        "commands.md": command_page(),
        "quantities.md": quantity_page(),
        "checks.md": check_page(),
        "glossary.md": GLOSSARY.read_text(encoding="utf-8").split("## Names still to change")[0],
        **{f"python-{title}.rst": python_page(title, modules) for title, modules in PYTHON.items()},
    }
    folder.mkdir(exist_ok=True)
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
