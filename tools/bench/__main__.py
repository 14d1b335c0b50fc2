"""`python tools/bench NAME [--quick] [--json FILE] [--threads N]`: measure, print, append one JSON object per figure. `table` renders them."""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the rest is imported once the number of threads is known
    from bench.figures import Figure

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)  # a folder that Python runs stands first itself; its modules are those of the package `bench`

NAMES = ("import", "data", "label", "infer", "kernel", "products", "train")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="tools/bench", description=__doc__, allow_abbrev=False)
    names = made.add_subparsers(dest="name", required=True)
    measured = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    measured.add_argument("--quick", action="store_true", help="fewer repeats; ends within 60 s")
    measured.add_argument("--threads", type=int, default=1, help="of the numerical libraries (default 1)")
    for name in NAMES:
        one = names.add_parser(name, parents=[measured], allow_abbrev=False)
        one.add_argument("--json", type=Path, metavar="FILE", help="append one JSON object per figure")
    everything = names.add_parser("all", parents=[measured], help="one after the other", allow_abbrev=False)
    everything.add_argument("--json-folder", type=Path, metavar="FOLDER", help="append to NAME.json in this folder")
    same = names.add_parser("duplicates", help="find planted copies among real structures (4 minutes)", allow_abbrev=False)
    same.add_argument("folder", type=Path, help="searched for files that a reader knows")
    same.add_argument("--count", type=int, default=100_000, help="structures (default 100000)")
    same.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    same.add_argument("--json", type=Path, metavar="FILE", help="append one JSON object per figure")
    quiet = names.add_parser(
        "alarms", help="false alarms of `mlipfm data check-labels` in right sets (half an hour; resumes)", allow_abbrev=False
    )
    quiet.add_argument("folder", type=Path, nargs="?", help="of public data sets, in whose parts alarms are counted too")
    quiet.add_argument(
        "--records", type=Path, required=True, metavar="FILE", help="one line of JSON for each set; what is there is not done again"
    )
    quiet.add_argument("--seeds", type=int, default=4, help="sets of each kind (default 4)")
    quiet.add_argument("--first", type=int, default=0, metavar="SEED", help="of their seeds; thresholds were chosen on 0 to 3 (default 0)")
    learning = names.add_parser("3bpa", help="train every backbone on 3BPA, beside mace-torch (hours; resumes)", allow_abbrev=False)
    actions = learning.add_subparsers(dest="action", required=True)
    training = actions.add_parser("run", help="train and test, in the cache folder", allow_abbrev=False)
    training.add_argument("folder", type=Path, help="with train_300K.xyz and test_300K_nequip.npz")
    training.add_argument(
        "names", nargs="*", metavar="NAME", help="a backbone, `mace-long` (two hours), or `mace-torch 0.3.16` (default: all)"
    )
    actions.add_parser("one").add_argument("one", metavar="NAME")
    told = actions.add_parser("figures", help="what is complete", allow_abbrev=False)
    told.add_argument("--json", type=Path, metavar="FILE", help="write the figures in place of those that are there")
    told.add_argument("--svg", type=Path, metavar="FILE", help="draw the learning curves")
    peer = names.add_parser("mace-torch", help="training steps of `mace` and of mace-torch in turns (3 minutes)", allow_abbrev=False)
    peer.add_argument("--steps", type=int, default=40, help="of each (default 40)")
    peer.add_argument("--json", type=Path, metavar="FILE", help="append one JSON object per figure")
    front = names.add_parser("front", help="error against cost of the options of `density` (hours; resumes)", allow_abbrev=False)
    fronts = front.add_subparsers(dest="action", required=True)
    trained = fronts.add_parser("run", help="train and test every variant; what is in the results is not done again", allow_abbrev=False)
    trained.add_argument("folder", type=Path, help="with the sets ethanol_ccsdt, 3bpa, mlearn and water_dpmd")
    fronts.add_parser("costs", help="what every variant costs with the compiled kernels", allow_abbrev=False)
    fronts.add_parser("lammps", help="errors and cost of the potentials that come with LAMMPS, on the same structures", allow_abbrev=False)
    shown = fronts.add_parser("figures", help="tables of what is complete", allow_abbrev=False)
    shown.add_argument("--svg", type=Path, metavar="FILE", help="draw error against cost")
    tuned = names.add_parser("finetune", help="modes of fine-tuning with 10, 50 and 500 labels (an hour; resumes)", allow_abbrev=False)
    modes = tuned.add_subparsers(dest="action", required=True)
    every = modes.add_parser("run", help="train and test every cell; what is in the results is not done again", allow_abbrev=False)
    every.add_argument("folder", type=Path, help="with the sets 3bpa, acetylacetone and h2coo_caspt2")
    modes.add_parser("figures", help="the table of what is complete", allow_abbrev=False)
    helped = names.add_parser("pretraining", help="does pre-training help? (days as planned by default; resumes)", allow_abbrev=False)
    phases = helped.add_subparsers(dest="action", required=True)
    planned = phases.add_parser("plan", help="write the settings, and say what they cost", allow_abbrev=False)
    planned.add_argument("folder", type=Path, help="of the comparison")
    planned.add_argument("--sets", type=Path, required=True, help="folder of the unpacked sets")
    planned.add_argument("--arm", action="append", metavar="NAME", help="may be repeated (default: all)")
    planned.add_argument("--task", action="append", metavar="NAME", help="may be repeated (default: all)")
    planned.add_argument("--size", action="append", type=int, metavar="N", help="labels of a task; may be repeated (default: 50 and 500)")
    planned.add_argument("--seeds", type=int, default=3, metavar="N", help="number of seeds (default 3)")
    planned.add_argument("--pretrain-minutes", type=float, default=10.0, help="of one core (default 10)")
    planned.add_argument("--minutes", type=float, default=3.0, help="of fine-tuning on one core (default 3)")
    filled = phases.add_parser("run", help="train every cell that is not there", allow_abbrev=False)
    filled.add_argument("folder", type=Path)
    filled.add_argument("--seed", action="append", type=int, metavar="N", help="only its cells; may be repeated (default: all)")
    phases.add_parser("report", help="table, report.json and report.png", allow_abbrev=False).add_argument("folder", type=Path)
    parts = names.add_parser("ablations", help="what parts of training do, on 3BPA (an hour; resumes)", allow_abbrev=False)
    parts.add_argument("folder", type=Path, help="of the runs")
    parts.add_argument("--sets", type=Path, required=True, help="folder of the unpacked sets")
    parts.add_argument("--only", action="append", metavar="NAME", help="rotations, curl or direct-first; may be repeated (default: all)")
    second = names.add_parser("hessian", help="what labels of a teacher's Hessian give a student (an hour; resumes)", allow_abbrev=False)
    second.add_argument("folder", type=Path, help="of `mlipfm distill --hessian-rows N --hessian-products N`")
    second.add_argument("--start", type=Path, required=True, help="file that the distillation started from")
    second.add_argument("--steps", type=int, default=2000, help="of every training (default 2000)")
    second.add_argument("--seeds", type=int, default=3, metavar="N", help="number of seeds (default 3)")
    small = names.add_parser("mol-small", help="the released model on molecules that no generated set contains", allow_abbrev=False)
    acts = small.add_subparsers(dest="action", required=True)
    reference = acts.add_parser("judges", help="GFN2-xTB geometries at 300 K of the 50 molecules (10 minutes; resumes)", allow_abbrev=False)
    reference.add_argument("folder", type=Path, help="of the reference")
    reference.add_argument("files", type=Path, nargs="*", help="whose geometries are labelled by GFN2-xTB too")
    measured_model = acts.add_parser("measure", help="errors, stability and speed of a model", allow_abbrev=False)
    measured_model.add_argument("model", help="a checkpoint, or the name of a released model")
    measured_model.add_argument("folder", type=Path, help="of the reference")
    measured_model.add_argument(
        "stores", type=Path, nargs="*", help="further labelled stores, whose errors are printed by level, charge and kind too"
    )
    measured_model.add_argument("--ps", type=float, default=100.0, help="dynamics of each molecule (default 100; 0: none)")
    measured_model.add_argument("--json", type=Path, metavar="FILE", help="append one JSON object per figure")
    path = names.add_parser("quickstart", help="the figures of a finished `mlipfm quickstart`", allow_abbrev=False)
    path.add_argument("folder", type=Path, help="of the quickstart")
    path.add_argument("--json", type=Path, metavar="FILE", help="append one JSON object per figure")
    ranks = names.add_parser("strategies", help="table: every strategy against one process (5 minutes; resumes)", allow_abbrev=False)
    ranks.add_argument("folder", type=Path, help="for what the ranks compute; what is there is not computed again")
    ranks.add_argument("--strategy", action="append", metavar="NAME", default=[], help="this one only; may be repeated (default: all)")
    ranks.add_argument("--json", type=Path, metavar="FILE", help="write one JSON object per strategy, number of processes and case")
    shared = names.add_parser("graph-parallel", help="steps of one large structure that processes share (2 minutes)", allow_abbrev=False)
    shared.add_argument("--ranks", type=int, default=2, help="processes (default 2)")
    shared.add_argument("--steps", type=int, default=10, help="of each (default 10)")
    shared.add_argument("--one", metavar="MODEL", help=argparse.SUPPRESS)
    shared.add_argument("--json", type=Path, metavar="FILE", help="append one JSON object per figure")
    table = names.add_parser("table", help="Markdown from result files", allow_abbrev=False)
    table.add_argument("--results", type=Path, default=HERE / "results", metavar="FOLDER")
    return made


def main(arguments: list[str]) -> int:
    """Exit status: 0, 2 for result files that cannot be read, or that of the first part of `all` that failed."""
    options = parser().parse_args(arguments)
    if options.name == "table":
        from bench.table import render

        try:
            print(render(options.results))
        except (OSError, ValueError) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        return 0
    if options.name == "all":
        return _all(options)
    if options.name == "3bpa":
        return _learning(options)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read when the libraries are loaded
        os.environ[variable] = str(getattr(options, "threads", 1))
    if options.name == "front":
        return _front(options)
    if options.name == "finetune":
        from bench import finetune

        results = HERE / "results" / "finetune.jsonl"
        if options.action == "run":
            finetune.run(options.folder, results)
        print("\n".join(finetune.table(results)))
        return 0
    if options.name == "pretraining":
        return _pretraining(options)
    if options.name == "ablations":
        from bench import ablations

        ablations.run(options.folder, options.sets, options.only or list(ablations.ABLATIONS))
        print("\n".join(ablations.table(ablations.lines(options.folder))))
        return 0
    if options.name == "hessian":
        from bench import hessian

        hessian.run(options.folder, options.start, options.steps, options.seeds)
        print("\n".join(hessian.table(hessian.lines(options.folder))))
        return 0
    if options.name == "strategies":
        from bench.strategies import deviations, table

        worst = deviations(options.folder, options.strategy)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text("".join(json.dumps(line) + "\n" for line in worst))
        print(table(worst))
        return 0
    if options.name == "duplicates":
        return _duplicates(options)
    if options.name == "alarms":
        from bench import alarms

        print("\n".join(alarms.table(alarms.measure(options.records, options.folder, options.seeds, first=options.first))))
        return 0
    from bench.figures import append, line

    if options.name == "mol-small" and options.action == "judges":
        from bench.mol_small import judges

        print("\n".join(map(str, judges(options.folder, options.files))))
        return 0
    if options.name == "mol-small":
        from bench import mol_small

        found = mol_small.measure(options.model, options.folder, options.stores, picoseconds=options.ps)
    elif options.name == "mace-torch":
        from bench import mace_steps

        if options.steps < 1:
            print("bench: --steps is a number from 1 on", file=sys.stderr)
            return 2
        found = mace_steps.measure(options.steps)
    elif options.name == "graph-parallel":
        from bench import graph_steps

        if options.one:
            print(graph_steps.one(options.one, options.steps))
            return 0
        if options.ranks < 2 or options.steps < 1:
            print("bench: --ranks is a number from 2 on, --steps one from 1 on", file=sys.stderr)
            return 2
        found = graph_steps.measure(options.ranks, options.steps)
    elif options.name == "quickstart":
        from bench.quickstart import figures

        found = figures(options.folder)
    else:
        found = _measure(options.name, options.threads, options.quick)
    for figure in found:
        print(line(figure), flush=True)
        if options.json:
            append(options.json, figure)
    return 0


def _measure(name: str, threads: int, quick: bool) -> "Iterator[Figure]":
    if name == "import":
        from bench.imports import measure
    elif name == "data":
        from bench.storage import measure
    elif name == "label":
        from bench.labeling import measure
    elif name == "infer":
        from bench.inference import measure
    elif name == "kernel":
        from bench.kernel import measure
    elif name == "products":
        from bench.compiled_parts import measure
    else:
        from bench.training import measure
    return measure(threads, quick)


def _duplicates(options: argparse.Namespace) -> int:
    from bench import duplicates
    from bench.figures import append, line

    if next(duplicates.real(options.folder), None) is None:
        print(f"bench: {options.folder}: holds no file that a reader knows; give a folder of unpacked data sets", file=sys.stderr)
        return 2
    found = duplicates.measure(options.folder, options.count, options.workers)
    print(json.dumps(found, indent=1))
    for figure in duplicates.figures(found):
        print(line(figure), flush=True)
        if options.json:
            append(options.json, figure)
    return 0


def _pretraining(options: argparse.Namespace) -> int:
    from mlipfm_interfaces.errors import MlipfmError

    from bench import pretraining, pretraining_report

    try:
        if options.action == "plan":
            chosen = {"arms": options.arm, "tasks": options.task, "sizes": options.size, "seeds": range(options.seeds)}
            given: dict[str, Any] = {key: tuple(value) for key, value in chosen.items() if value is not None}
            given |= {"pretrain_minutes": options.pretrain_minutes, "minutes": options.minutes}
            plan = pretraining.Plan(str(options.sets.resolve()), **given)
            plan.write(options.folder)
            print("\n".join(plan.lines()))
        elif options.action == "run":
            pretraining.run(options.folder, options.seed)
        else:
            print("\n".join(pretraining_report.report(options.folder)))
    except MlipfmError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


def _learning(options: argparse.Namespace) -> int:
    from bench import learning

    if options.action == "figures":
        return _learned(options)
    names = [options.one] if options.action == "one" else options.names
    if unknown := [name for name in names if name not in learning.NAMES]:
        print(f"bench: unknown: {', '.join(unknown)}; known: {', '.join(learning.NAMES)}", file=sys.stderr)
        return 2
    if options.action == "run":
        return learning.run(options.folder, names)
    learning.one(options.one)
    return 0


def _learned(options: argparse.Namespace) -> int:
    from bench.figures import append, line
    from bench.learning_figures import drawn, figures

    found = list(figures())
    if options.json:
        options.json.unlink(missing_ok=True)
    for figure in found:
        print(line(figure))
        if options.json:
            append(options.json, figure)
    if options.svg:
        options.svg.write_text(drawn(), encoding="utf-8")
    return 0


def _front(options: argparse.Namespace) -> int:
    from bench import front, front_figures

    if options.action == "run":
        front.run(options.folder, front_figures.RESULTS / "cells.jsonl")
    elif options.action == "costs":
        front.measure_costs(front_figures.RESULTS / "cells.jsonl", front_figures.RESULTS / "costs.jsonl")
    elif options.action == "lammps":
        front.run_lammps(front_figures.RESULTS / "lammps.jsonl")
    else:
        print("\n".join([*front_figures.options_table(), "", *front_figures.published_table()]))
        if options.svg:
            options.svg.write_text(front_figures.drawn(), encoding="utf-8")
    return 0


def _all(options: argparse.Namespace) -> int:
    """Each measurement in a process of its own."""
    for name in NAMES:
        command = [sys.executable, str(HERE), name, "--threads", str(options.threads)] + ["--quick"] * options.quick
        if options.json_folder:
            options.json_folder.mkdir(parents=True, exist_ok=True)
            command += ["--json", str(options.json_folder / f"{name}.json")]
        status = subprocess.run(command).returncode
        if status:
            print(f"bench: {name} failed with exit status {status}", file=sys.stderr)
            return status
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # of `... | head`: ends without a traceback
    sys.exit(main(sys.argv[1:]))
