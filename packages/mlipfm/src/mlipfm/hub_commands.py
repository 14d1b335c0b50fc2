"""`mlipfm hub`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from .local_hub import Hub

app = typer.Typer(help="A registry for models on this machine.\n\nExample: mlipfm hub up --dir ~/hub --background", no_args_is_help=True)

_DIR = typer.Option("--dir", help="Folder of the database, the models and the log")


@app.callback()
def _hub() -> None:
    """A registry for models on this machine.

    Example: mlipfm hub up --dir ~/hub --background
    """


@app.command()
def up(
    folder: Annotated[Path, _DIR] = Path("hub"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of its address")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on, of this machine only")] = "127.0.0.1",
    server: Annotated[
        str, typer.Option(help="hub, or mlflow, which keeps runs as well [default: that of the folder, else the hub if it is installed]")
    ] = "",
    background: Annotated[
        bool, typer.Option("--background", help="Return when it answers and leave it running; stop it with hub down")
    ] = False,
) -> None:
    """Start the registry with its pages, for you alone.

    Other users of the machine are refused: commands read a token from the folder, and a browser needs the address that is printed. Nothing can
    be deleted through it. For others, with users and roles, it is served by `mlipfm-hub serve` behind a reverse proxy.

    Example: mlipfm hub up --dir ~/hub --background
    """
    import signal

    from mlipfm_interfaces.hub_folder import TOKEN, secret, viewer_key

    from .local_hub import chosen_server, stop, wait

    hub = _start(folder, port, host, server)
    page = "login" if chosen_server(hub.folder) == "hub" else ""
    typer.echo(f"hub at {hub.address}, data in {hub.folder}")
    typer.echo(f"to look at it in a browser: {hub.address}/{page}?key={viewer_key(secret(hub.folder / TOKEN))}")
    typer.echo(f"so that mlipfm finds it from any folder and cache: export MLIPFM_REGISTRY={hub.folder}")
    if background:
        typer.echo(f"stop it with: mlipfm hub down --dir {hub.folder}")
        return
    typer.echo("stop it with Ctrl-C")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill stops the server as well
    try:
        wait(hub)
    except KeyboardInterrupt:
        typer.echo("stopping")
    finally:
        stop(hub)


@app.command()
def down(folder: Annotated[Path, _DIR] = Path("hub")) -> None:
    """Stop a registry that runs in the background.

    Example: mlipfm hub down --dir ~/hub
    """
    from mlipfm_interfaces.errors import RegistryError

    from .local_hub import find, stop

    hub = find(folder.resolve())
    if hub is None:
        raise RegistryError("no hub is running on this folder", where=str(folder), hint="give its folder with --dir")
    stop(hub)
    typer.echo(f"stopped the hub at {hub.address}; its data stay in {hub.folder}")


@app.command()
def user(
    name: Annotated[str, typer.Argument(help="Name of the user")],
    role: Annotated[str, typer.Option(help="Add the user with this role, or change it: read, push, promote or admin")] = "",
    token: Annotated[str, typer.Option(metavar="LABEL", help="Make a token with this label, and show it once")] = "",
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="Days that the token is valid for [default: it does not end]")] = None,
    lock: Annotated[bool | None, typer.Option("--lock/--unlock", help="Lock the user out, or let the user in again")] = None,
    registry: Annotated[str | None, typer.Option(help="Address or folder of the hub [default: $MLIPFM_REGISTRY]")] = None,
) -> None:
    """Add a user of a hub, change the role, make a token, lock the user out or let the user in again. For admins.

    Example: mlipfm hub user ada --role push --token laptop
    """
    from mlipfm_interfaces.errors import RegistryError
    from mlipfm_interfaces.registry_http import server

    if not (role or token or lock is not None):
        raise RegistryError("nothing to do", where=name, hint="give --role, --token, --lock or --unlock")
    if days is not None and not token:
        raise RegistryError("--days are those of a token", where=name, hint="give --token LABEL, too")
    where = server(registry)
    known = {row["name"]: row for row in where.call("GET", "/api/v1/users")["users"]}
    changes: dict[str, Any] = {} if lock is None else {"disabled": lock}
    if role and name not in known:
        where.call("POST", "/api/v1/users", {"name": name, "role": role})
    elif role:
        changes["role"] = role
    if changes:
        where.call("POST", f"/api/v1/users/{name}", changes)
    now = known.get(name, {"role": role, "disabled": False}) | ({"role": role} if role else {})
    locked = bool(now["disabled"]) if lock is None else lock
    typer.echo(f"{name}: {now['role']}{', locked out: --unlock lets them in again' if locked else ''}")
    if token:
        typer.echo(where.call("POST", f"/api/v1/users/{name}/tokens", {"label": token, "days": days})["token"])


@app.command()
def backup(file: Annotated[Path, typer.Argument(help="Backup to write (.tar)")], folder: Annotated[Path, _DIR] = Path("hub")) -> None:
    """Write everything that a hub keeps into one file, verified; the hub may run meanwhile.

    Example: mlipfm hub backup hub.tar --dir ~/hub
    """
    _hub_program("backup", file, folder)


@app.command()
def restore(file: Annotated[Path, typer.Argument(help="Backup (.tar)")], folder: Annotated[Path, _DIR] = Path("hub")) -> None:
    """Make a hub in a new folder from a backup.

    Example: mlipfm hub restore hub.tar --dir ~/hub-again
    """
    _hub_program("restore", file, folder)


def _hub_program(task: str, file: Path, folder: Path) -> None:
    import os
    import subprocess
    import sys

    from mlipfm_interfaces.errors import RegistryError

    from .local_hub import has_hub, path_of_the_hub

    if not has_hub():
        raise RegistryError("the hub is not installed", hint="pip install mlipfm-hub")
    line = [sys.executable, "-m", "mlipfm_hub", task, str(file), "--dir", str(folder)]
    done = subprocess.run(line, env=os.environ | path_of_the_hub(), check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)


def _start(folder: Path, port: int, host: str, server: str) -> Hub:
    from rich.console import Console

    from .local_hub import chosen_server, start

    console = Console(stderr=True)
    usual = {"hub": 5, "mlflow": 20}[chosen_server(folder, server)]
    with console.status("starting the hub") as status:
        return start(folder, port, host, lambda passed: status.update(f"starting the hub, {passed:.0f} s (about {usual} s)"), server)
