"""`python tools/bench NAME [--quick] [--json FILE] [--threads N]`: measure, print, append one JSON object per figure. `table` renders them."""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)  # a folder that Python runs stands first itself; its modules are those of the package `bench`

#: Measurements that `all` runs, and the modules that make them.
MODULES = {
    "import": "imports", "data": "storage", "label": "labeling", "infer": "inference", "kernel": "kernel", "products": "compiled_parts",
    "train": "training",
}  # fmt: skip

#: What a command gives: figures, which are printed and appended to --json, or lines, which are printed; or an exit status.
Found = Iterable[Any] | int
Options = argparse.Namespace
Argument = tuple[tuple[str, ...], dict[str, Any]]


@dataclass(frozen=True)
class Command:
    """A command with its arguments, or with actions that are commands. What it runs is imported once the number of threads is known."""

    help: str | None = None
    run: Callable[[Options], Found] | None = None
    arguments: tuple[Argument, ...] = ()
    actions: Mapping[str, "Command"] = field(default_factory=dict)

    def add_to(self, parsers: Any, name: str) -> None:
        made = parsers.add_parser(name, allow_abbrev=False, **({} if self.help is None else {"help": self.help}))
        for names, settings in self.arguments:
            made.add_argument(*names, **settings)
        made.set_defaults(run=self.run)
        if self.actions:
            below = made.add_subparsers(dest="action", required=True)
            for action, command in self.actions.items():
                command.add_to(below, action)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="tools/bench", description=__doc__, allow_abbrev=False)
    names = made.add_subparsers(dest="name", required=True)
    for name, command in COMMANDS.items():
        command.add_to(names, name)
    return made


def main(arguments: list[str]) -> int:
    """Exit status: 0, 2 for what is refused, or that of the first part of `all` that failed."""
    options = parser().parse_args(arguments)
    if options.name not in ("table", "all", "3bpa"):
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read when the libraries are loaded
            os.environ[variable] = str(getattr(options, "threads", 1))
    found = options.run(options)
    if isinstance(found, int):
        return found
    from bench.figures import append, line

    for item in found:
        print(item if isinstance(item, str) else line(item), flush=True)
        if not isinstance(item, str) and options.json:
            append(options.json, item)
    return 0


def _refuse(reason: object) -> int:
    print(f"bench: {reason}", file=sys.stderr)
    return 2


def _measure(options: Options) -> Found:
    return import_module(f"bench.{MODULES[options.name]}").measure(options.threads, options.quick)


def _all(options: Options) -> Found:
    """Each measurement in a process of its own."""
    for name in MODULES:
        command = [sys.executable, str(HERE), name, "--threads", str(options.threads)] + ["--quick"] * options.quick
        if options.json_folder:
            options.json_folder.mkdir(parents=True, exist_ok=True)
            command += ["--json", str(options.json_folder / f"{name}.json")]
        status = subprocess.run(command).returncode
        if status:
            print(f"bench: {name} failed with exit status {status}", file=sys.stderr)
            return status
    return 0


def _table(options: Options) -> Found:
    from bench.table import render

    try:
        return [render(options.results)]
    except (OSError, ValueError) as error:
        return _refuse(error)


def _duplicates(options: Options) -> Found:
    from bench import duplicates

    if next(duplicates.real(options.folder), None) is None:
        return _refuse(f"{options.folder}: holds no file that a reader knows; give a folder of unpacked data sets")
    found = duplicates.measure(options.folder, options.count, options.workers)
    print(json.dumps(found, indent=1))
    return duplicates.figures(found)


def _alarms(options: Options) -> Found:
    from bench import alarms

    return alarms.table(alarms.measure(options.records, options.folder, options.seeds, first=options.first))


def _learning(options: Options) -> Found:
    from bench import learning

    names = [options.one] if options.action == "one" else options.names
    if unknown := [name for name in names if name not in learning.NAMES]:
        return _refuse(f"unknown: {', '.join(unknown)}; known: {', '.join(learning.NAMES)}")
    if options.action == "run":
        return learning.run(options.folder, names)
    learning.one(options.one)
    return 0


def _learning_figures(options: Options) -> Found:
    from bench.learning_figures import drawn, figures

    found = list(figures())
    if options.json:
        options.json.unlink(missing_ok=True)
    if options.svg:
        options.svg.write_text(drawn(), encoding="utf-8")
    return found


def _mace_torch(options: Options) -> Found:
    from bench import mace_steps

    return _refuse("--steps is a number from 1 on") if options.steps < 1 else mace_steps.measure(options.steps)


def _front(options: Options) -> Found:
    from bench import front, front_figures

    if options.action == "run":
        front.run(options.folder, front_figures.RESULTS / "cells.jsonl")
    elif options.action == "costs":
        front.measure_costs(front_figures.RESULTS / "cells.jsonl", front_figures.RESULTS / "costs.jsonl")
    elif options.action == "lammps":
        front.run_lammps(front_figures.RESULTS / "lammps.jsonl")
    else:
        if options.svg:
            options.svg.write_text(front_figures.drawn(), encoding="utf-8")
        return [*front_figures.options_table(), "", *front_figures.published_table()]
    return 0


def _finetune(options: Options) -> Found:
    from bench import finetune

    results = HERE / "results" / "finetune.jsonl"
    if options.action == "run":
        finetune.run(options.folder, results)
    return finetune.table(results)


def _pretraining(options: Options) -> Found:
    from mlipfm_interfaces.errors import MlipfmError

    from bench import pretraining, pretraining_report

    try:
        if options.action == "plan":
            chosen = {"arms": options.arm, "tasks": options.task, "sizes": options.size, "seeds": range(options.seeds)}
            given: dict[str, Any] = {key: tuple(value) for key, value in chosen.items() if value is not None}
            given |= {"pretrain_minutes": options.pretrain_minutes, "minutes": options.minutes}
            plan = pretraining.Plan(str(options.sets.resolve()), **given)
            plan.write(options.folder)
            return plan.lines()
        if options.action == "report":
            return pretraining_report.report(options.folder)
        pretraining.run(options.folder, options.seed)
    except MlipfmError as error:
        return _refuse(error)
    return 0


def _ablations(options: Options) -> Found:
    from bench import ablations

    ablations.run(options.folder, options.sets, options.only or list(ablations.ABLATIONS))
    return ablations.table(ablations.lines(options.folder))


def _hessian(options: Options) -> Found:
    from bench import hessian

    hessian.run(options.folder, options.start, options.steps, options.seeds)
    return hessian.table(hessian.lines(options.folder))


def _mol_small(options: Options) -> Found:
    from bench import mol_small

    if options.action == "measure":
        return mol_small.measure(options.model, options.folder, options.stores, picoseconds=options.ps)
    return map(str, mol_small.judges(options.folder, options.files))


def _quickstart(options: Options) -> Found:
    from bench.quickstart import figures

    return figures(options.folder)


def _strategies(options: Options) -> Found:
    from bench.strategies import deviations, table

    worst = deviations(options.folder, options.strategy)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text("".join(json.dumps(line) + "\n" for line in worst))
    return [table(worst)]


def _graph_parallel(options: Options) -> Found:
    from bench import graph_steps

    if options.one:
        return [str(graph_steps.one(options.one, options.steps))]
    if options.ranks < 2 or options.steps < 1:
        return _refuse("--ranks is a number from 2 on, --steps one from 1 on")
    return graph_steps.measure(options.ranks, options.steps)


def argument(*names: str, **settings: Any) -> Argument:
    """Return what `add_argument` is called with."""
    return names, settings


def folder(text: str | None = None) -> Argument:
    return argument("folder", type=Path, help=text)


def file(option: str, text: str) -> Argument:
    return argument(option, type=Path, metavar="FILE", help=text)


def number(option: str, default: int, text: str, metavar: str | None = None) -> Argument:
    return argument(option, type=int, default=default, metavar=metavar, help=f"{text} (default {default})")


def several(option: str, text: str, kind: type = str, metavar: str = "NAME") -> Argument:
    return argument(option, action="append", type=kind, metavar=metavar, help=text)


JSON = file("--json", "append one JSON object per figure")
SETS = argument("--sets", type=Path, required=True, help="folder of the unpacked sets")
MEASURED = (
    argument("--quick", action="store_true", help="fewer repeats; ends within 60 s"),
    number("--threads", 1, "of the numerical libraries"),
)

COMMANDS = {
    **{name: Command(None, _measure, (*MEASURED, JSON)) for name in MODULES},
    "all": Command("one after the other", _all, (
        *MEASURED, argument("--json-folder", type=Path, metavar="FOLDER", help="append to NAME.json in this folder"),
    )),
    "duplicates": Command("find planted copies among real structures (4 minutes)", _duplicates, (
        folder("searched for files that a reader knows"), number("--count", 100000, "structures"), number("--workers", 2, "processes"), JSON,
    )),
    "alarms": Command("false alarms of `mlipfm data check-labels` in right sets (half an hour; resumes)", _alarms, (
        argument("folder", type=Path, nargs="?", help="of public data sets, in whose parts alarms are counted too"),
        argument("--records", type=Path, required=True, metavar="FILE", help="one line of JSON for each set; what is there is not done again"),
        number("--seeds", 4, "sets of each kind"),
        number("--first", 0, "of their seeds; thresholds were chosen on 0 to 3", "SEED"),
    )),
    "3bpa": Command("train every backbone on 3BPA, beside mace-torch (hours; resumes)", actions={
        "run": Command("train and test, in the cache folder", _learning, (
            folder("with train_300K.xyz and test_300K_nequip.npz"),
            argument("names", nargs="*", metavar="NAME", help="a backbone, `mace-long` (two hours), or `mace-torch 0.3.16` (default: all)"),
        )),
        "one": Command(None, _learning, (argument("one", metavar="NAME"),)),
        "figures": Command("what is complete", _learning_figures, (
            file("--json", "write the figures in place of those that are there"), file("--svg", "draw the learning curves"),
        )),
    }),
    "mace-torch": Command("training steps of `mace` and of mace-torch in turns (3 minutes)", _mace_torch, (
        number("--steps", 40, "of each"), JSON,
    )),
    "front": Command("error against cost of the options of `density` (hours; resumes)", actions={
        "run": Command("train and test every variant; what is in the results is not done again", _front, (
            folder("with the sets ethanol_ccsdt, 3bpa, mlearn and water_dpmd"),
        )),
        "costs": Command("what every variant costs with the compiled kernels", _front),
        "lammps": Command("errors and cost of the potentials that come with LAMMPS, on the same structures", _front),
        "figures": Command("tables of what is complete", _front, (file("--svg", "draw error against cost"),)),
    }),
    "finetune": Command("modes of fine-tuning with 10, 50 and 500 labels (an hour; resumes)", actions={
        "run": Command("train and test every cell; what is in the results is not done again", _finetune, (
            folder("with the sets 3bpa, acetylacetone and h2coo_caspt2"),
        )),
        "figures": Command("the table of what is complete", _finetune),
    }),
    "pretraining": Command("does pre-training help? (days as planned by default; resumes)", actions={
        "plan": Command("write the settings, and say what they cost", _pretraining, (
            folder("of the comparison"), SETS, several("--arm", "may be repeated (default: all)"),
            several("--task", "may be repeated (default: all)"),
            several("--size", "labels of a task; may be repeated (default: 50 and 500)", int, "N"),
            number("--seeds", 3, "number of seeds", "N"),
            argument("--pretrain-minutes", type=float, default=10.0, help="of one core (default 10)"),
            argument("--minutes", type=float, default=3.0, help="of fine-tuning on one core (default 3)"),
        )),
        "run": Command("train every cell that is not there", _pretraining, (
            folder(), several("--seed", "only its cells; may be repeated (default: all)", int, "N"),
        )),
        "report": Command("table, report.json and report.png", _pretraining, (folder(),)),
    }),
    "ablations": Command("what parts of training do, on 3BPA (an hour; resumes)", _ablations, (
        folder("of the runs"), SETS, several("--only", "rotations, curl or direct-first; may be repeated (default: all)"),
    )),
    "hessian": Command("what labels of a teacher's Hessian give a student (an hour; resumes)", _hessian, (
        folder("of `mlipfm distill --hessian-rows N --hessian-products N`"),
        argument("--start", type=Path, required=True, help="file that the distillation started from"),
        number("--steps", 2000, "of every training"), number("--seeds", 3, "number of seeds", "N"),
    )),
    "mol-small": Command("the released model on molecules that no generated set contains", actions={
        "judges": Command("GFN2-xTB geometries at 300 K of the 50 molecules (10 minutes; resumes)", _mol_small, (
            folder("of the reference"), argument("files", type=Path, nargs="*", help="whose geometries are labelled by GFN2-xTB too"),
        )),
        "measure": Command("errors, stability and speed of a model", _mol_small, (
            argument("model", help="a checkpoint, or the name of a released model"), folder("of the reference"),
            argument("stores", type=Path, nargs="*", help="further labelled stores, whose errors are printed by level, charge and kind too"),
            argument("--ps", type=float, default=100.0, help="dynamics of each molecule (default 100; 0: none)"), JSON,
        )),
    }),
    "quickstart": Command("the figures of a finished `mlipfm quickstart`", _quickstart, (folder("of the quickstart"), JSON)),
    "strategies": Command("table: every strategy against one process (5 minutes; resumes)", _strategies, (
        folder("for what the ranks compute; what is there is not computed again"),
        argument("--strategy", action="append", metavar="NAME", default=[], help="this one only; may be repeated (default: all)"),
        file("--json", "write one JSON object per strategy, number of processes and case"),
    )),
    "graph-parallel": Command("steps of one large structure that processes share (2 minutes)", _graph_parallel, (
        number("--ranks", 2, "processes"), number("--steps", 10, "of each"),
        argument("--one", metavar="MODEL", help=argparse.SUPPRESS), JSON,
    )),
    "table": Command("Markdown from result files", _table, (
        argument("--results", type=Path, default=HERE / "results", metavar="FOLDER"),
    )),
}  # fmt: skip


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # of `... | head`: ends without a traceback
    sys.exit(main(sys.argv[1:]))
