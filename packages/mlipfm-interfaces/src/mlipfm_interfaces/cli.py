"""The `mlipfm` command. Packages add commands by the entry-point group `mlipfm.commands`: a name and the `module:app` of a `typer.Typer`.

An app whose only command bears the name of the entry point is mounted as that command (`mlipfm quickstart`), any other as a group
(`mlipfm data label`). An entry point `group.command` adds its app to the group of another package (`models.matrix`: `mlipfm models matrix`).
A plug-in that cannot be imported is listed as broken, with the reason, and disturbs nothing else.

Exit status: 0 done, 1 a defect of ours, 2 something the user can correct (one line on stderr), 130 interrupted. `--debug`, anywhere on the
line, shows the traceback as well.
"""

from __future__ import annotations

import difflib
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import typer
from typer.core import TyperGroup

from . import plugins
from .errors import MlipfmError, MlipfmWarning, PluginError

#: Base of the errors in a command line. Old releases of typer take it from click, new ones bring their own; `BadParameter` leads to both.
_LineError: type[Exception] = typer.BadParameter.__bases__[0].__bases__[0]

_HELP = """Train machine-learned interatomic potentials, check data and models, run molecular dynamics.

Examples:

    mlipfm quickstart

    mlipfm data import set.xyz --out store --level pbe

    mlipfm train --example > recipe.yaml
"""

_BROKEN = "(broken, see below)"

#: Of a decimal number in an option, in any unit that a command takes.
LARGEST = 1e12


class _Commands(TyperGroup):
    """The root group: built-in commands and those of plug-ins, each imported when it is listed or run."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted({*super().list_commands(ctx), *(name for name in plugins.names("commands") if "." not in name)})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None or cmd_name not in plugins.names("commands"):
            return command
        command = _loaded(cmd_name, cmd_name)
        self.add_command(command, cmd_name)
        for full in plugins.names("commands"):
            group, dot, name = full.partition(".")
            if dot and group == cmd_name and hasattr(command, "add_command"):
                command.add_command(_loaded(full, name), name)
        return command

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        broken = [(name, str(command.epilog)) for name, command in self.commands.items() if command.short_help == _BROKEN]
        if broken:
            with formatter.section("Broken plug-ins"):
                formatter.write_dl(broken)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if not name.startswith("-") and name not in self.list_commands(ctx):
            near = difflib.get_close_matches(name, self.list_commands(ctx), 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(self.list_commands(ctx))}"
            if name in plugins.COMMANDS:
                hint = f"{plugins.COMMANDS[name]} brings it: pip install {plugins.COMMANDS[name]}"
            raise PluginError(f"no command is named {name!r}", hint=hint)
        return super().resolve_command(ctx, args)


def given_parameters(context: typer.Context) -> dict[str, str]:
    """Return the spelling (`--time-limit`, `RECIPE`) of each parameter that the command line gives, by its name in Python."""
    spelt = {p.name: p.opts[0] if p.opts[0].startswith("-") else p.opts[0].upper() for p in context.command.params if p.name}
    return {name: text for name, text in spelt.items() if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"}


def old_names(names: Mapping[str, str]) -> dict[str, Any]:
    """Return the `context_settings` of a Typer that takes old names of its commands (`"old": "new"`) and options (`"--old": "--new"`) and warns."""
    plain = {old.removeprefix("--"): (old, new) for old, new in names.items()}

    def current(word: str) -> str:
        if word not in plain:
            return word
        old, new = plain[word]
        _say(f"warning: `{old}` is an old name: use `{new}`", 0)
        return new.removeprefix("--")

    return {"token_normalize_func": current}


def _loaded(entry_point: str, name: str) -> Any:
    """Return the command of an entry point, or one that says why it cannot be imported."""
    try:
        return _mount(name, plugins.load("commands", entry_point))
    except PluginError as error:
        return _broken(name, error)


def _mount(name: str, app: Any) -> Any:
    """Return the click command of a plug-in's app, under the name of its entry point."""
    if not isinstance(app, typer.Typer):
        raise PluginError(f"command {name!r} is a {type(app).__name__}", hint="its entry point must be a typer.Typer")
    app.rich_markup_mode = None  # rich's help costs 0.35 s of imports, half of the time a user waits for --help
    only = app.registered_commands[0] if len(app.registered_commands) == 1 and not app.registered_groups else None
    own_name = only and (only.name or getattr(only.callback, "__name__", "").replace("_", "-"))
    command = typer.main.get_command(app) if own_name == name and not app.registered_callback else typer.main.get_group(app)
    command.name = name
    _bound_numbers(command)
    return command


def _bound_numbers(command: Any) -> None:
    """Every number of the options of a command and its subcommands is finite and no larger than `LARGEST`, whatever bounds it has of its own:
    a range alone takes nan."""
    for part in getattr(command, "commands", {}).values():
        _bound_numbers(part)
    for parameter in command.params:
        parameter.process_value = _bounded(parameter)


def _bounded(parameter: Any) -> Callable[[Any, Any], Any]:
    """`process_value` of a parameter, which then refuses numbers that nobody can compute with. `max=inf` means that infinity is allowed."""
    process = parameter.process_value
    own = getattr(parameter, "max", None) or getattr(getattr(parameter, "type", None), "max", None)
    largest = math.inf if own == math.inf else LARGEST

    def checked(context: Any, value: Any) -> Any:
        found = process(context, value)
        for number in found if isinstance(found, list | tuple) else [found]:
            if isinstance(number, float) and not abs(number) <= largest:
                raise typer.BadParameter(f"{number} is no number of at most {largest:g}", context, parameter)
            if isinstance(number, int) and abs(number) >= 2**63:
                raise typer.BadParameter(f"{number} is beyond 64 bits", context, parameter)
        return found

    return checked


def _broken(name: str, error: PluginError) -> Any:
    """Return a command that stands for a plug-in which cannot be imported: its help says why, running it raises the error."""
    app = typer.Typer(add_completion=False)

    @app.command(name, short_help=_BROKEN, epilog=str(error), context_settings={"ignore_unknown_options": True, "help_option_names": []})
    def run(arguments: list[str] = typer.Argument(None)) -> None:
        raise error

    return typer.main.get_command(app)


app = typer.Typer(cls=_Commands, help=_HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def _version_and_exit(wanted: bool) -> None:
    """What `--version` does, before a command is looked for."""
    if wanted:
        version(everything=False)
        raise typer.Exit


@app.callback()
def _root(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    versions: bool = typer.Option(False, "--version", callback=_version_and_exit, is_eager=True, help="Print what `version` prints."),
) -> None:
    """Nothing to do before a command; `main` reads --debug, which may stand anywhere."""


@app.command()
def version(
    everything: bool = typer.Option(False, "--all", help="Also the versions of Python and of the libraries that numbers depend on."),
) -> None:
    """Versions of the installed mlipfm packages.

    Example: mlipfm version --all
    """
    from importlib.metadata import distributions

    found = {dist.name.lower(): dist.version for dist in distributions()}
    shown = sorted(name for name in found if name == "mlipfm" or name.startswith("mlipfm-"))
    if everything:
        typer.echo(f"{'python':<20} {sys.version.split()[0]}")
        shown += [name for name in ("torch", "numpy", "scipy", "ase", "vesin", "tblite", "rdkit", "mlflow", "safetensors") if name in found]
    for name in shown:
        typer.echo(f"{name:<20} {found[name]}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: see the module's text for the exit status."""
    line = list(sys.argv[1:] if arguments is None else arguments)
    debug = _take_debug(line)
    warnings.showwarning = _show_warning
    # Threads of torch that wait turn in a loop; where other work holds the cores, each wait then lasts a time slice, and a command 20 times as long.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        status = app(args=line, prog_name="mlipfm", standalone_mode=False)
        # typer turns an interrupt inside a command into status 130
        sys.exit(_interrupted() if status == 130 else status if isinstance(status, int) else 0)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(_interrupted())
    except BrokenPipeError:
        # the reader of our output went away (`mlipfm ... | head`): nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exc()
        sys.exit(_report(error))


def _take_debug(line: list[str]) -> bool:
    """Remove every `--debug` before a `--` from the line; whether there was one."""
    end = line.index("--") if "--" in line else len(line)
    kept = [word for word in line[:end] if word != "--debug"]
    found = len(kept) < end
    line[:end] = kept
    return found


def _report(error: Exception) -> int:
    """One line on stderr; the exit status."""
    if isinstance(error, MlipfmError):
        return _say(f"error[{error.code}]: {error}", 2)
    if isinstance(error, _LineError):
        text = error.format_message().replace("Value error, ", "")  # type: ignore[attr-defined]  # every error of a command line has it, in click and in typer
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(text, err=True)
            return 2
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "mlipfm"
        by_option = context is not None and "extra argument" in text and any("--model" in p.opts for p in context.command.params)
        model = "; the model is given by --model MODEL" if by_option else ""
        return _say(f"error[usage]: {text.rstrip('.')}{model}; see {command} --help", 2)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        hint = "; choose another name" if isinstance(error, FileExistsError) else ""
        return _say(f"error[file]: {place}{error.strerror or error}{hint}", 2)
    return _say(
        f"error[defect]: {type(error).__name__}: {error}; this is a defect of mlipfm: run it with --debug and report what it prints", 1
    )


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
) -> None:
    """Our own warnings as one line without the place in the source, all others as Python writes them."""
    if issubclass(category, MlipfmWarning):
        _say(f"warning: {message}", 0)
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), file=file or sys.stderr, end="")


def _interrupted() -> int:
    return _say("interrupted; run the same command again to resume where it stopped", 130)


def _say(text: str, status: int) -> int:
    typer.echo("mlipfm: " + " ".join(text.split()), err=True)
    return status
