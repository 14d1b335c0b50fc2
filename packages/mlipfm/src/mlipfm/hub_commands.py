"""`mlipfm hub`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .hub import Hub

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

    from mlipfm_interfaces.hub_folder import TOKEN, secret

    from .hub import chosen_server, stop, wait
    from .hub_guard import viewer_key

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

    from .hub import find, stop

    hub = find(folder.resolve())
    if hub is None:
        raise RegistryError("no hub is running on this folder", where=str(folder), hint="give its folder with --dir")
    stop(hub)
    typer.echo(f"stopped the hub at {hub.address}; its data stay in {hub.folder}")


def _start(folder: Path, port: int, host: str, server: str) -> Hub:
    from rich.console import Console

    from .hub import chosen_server, start

    console = Console(stderr=True)
    usual = {"hub": 5, "mlflow": 20}[chosen_server(folder, server)]
    with console.status("starting the hub") as status:
        return start(folder, port, host, lambda passed: status.update(f"starting the hub, {passed:.0f} s (about {usual} s)"), server)
