"""`mlipfm-hub`: start a hub, back it up, restore it, upgrade it. `mlipfm hub` of the package mlipfm calls this."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mlipfm_interfaces.errors import MlipfmError, RegistryError

from .settings import from_environment


def main(words: list[str] | None = None) -> None:
    """Run a command; exit 2 with one line on refusal."""
    parser = argparse.ArgumentParser(prog="mlipfm-hub", description=__doc__, epilog="Example: mlipfm-hub serve --dir /srv/hub")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, told in (("serve", "serve the hub of a folder"), ("upgrade", "bring the tables to this version"),
                       ("backup", "write one file with everything"), ("restore", "make a folder from a backup")):  # fmt: skip
        command = commands.add_parser(name, help=told, description=told)
        command.add_argument("--dir", type=Path, default=Path("hub"), help="folder of the hub")
        if name == "serve":
            command.add_argument("--host", default=None, help="address to listen on [default: $MLIPFM_HUB_HOST or 127.0.0.1]")
            command.add_argument("--port", type=int, default=None, help="port [default: $MLIPFM_HUB_PORT or 5000]")
        if name in ("backup", "restore"):
            command.add_argument("file", type=Path, help="the backup (.tar)")
    command = commands.add_parser("predict", help="serve predictions of one model", description="serve predictions of one model")
    command.add_argument("model", help="path of a model checkpoint")
    command.add_argument("--dir", type=Path, default=Path("serve"), help="folder of the token and the log")
    command.add_argument("--host", default="127.0.0.1", help="address of this machine to listen on")
    command.add_argument("--port", type=int, default=8700, help="port")
    given = parser.parse_args(words)
    try:
        _run(given)
    except MlipfmError as error:
        print(f"mlipfm-hub: {error}", file=sys.stderr)
        sys.exit(2)


def _run(given: argparse.Namespace) -> None:
    folder = given.dir.resolve()
    if given.command == "predict":
        from .prediction import serve as serve_model
        from .settings import is_loopback

        if not is_loopback(given.host):
            raise RegistryError(f"{given.host} can be reached by others", hint="serve on 127.0.0.1, behind a reverse proxy that encrypts")
        serve_model(given.model, folder, given.host, given.port)
        return
    if given.command == "serve":
        serve(folder, given.host, given.port)
    elif given.command == "upgrade":
        from .database import Database

        settings = from_environment(folder)
        found, now = Database(settings).migrate()
        print(f"tables of version {found} are of version {now}")
    elif given.command == "backup":
        from .backup import backup

        if not folder.is_dir() or not any(folder.iterdir()):
            raise RegistryError("there is no hub in this folder", where=str(folder), hint="give its folder by --dir")
        print(backup(from_environment(folder), given.file))
    else:
        from .backup import restore

        print(restore(folder, given.file))


def serve(folder: Path, host: str | None, port: int | None) -> None:
    """Serve in this process until it is ended."""
    import uvicorn

    os.environ |= {"MLIPFM_HUB_FOLDER": str(folder)}
    os.environ |= ({"MLIPFM_HUB_HOST": host} if host else {}) | ({"MLIPFM_HUB_PORT": str(port)} if port else {})
    settings = from_environment(folder)
    uvicorn.run("mlipfm_hub.application:application", factory=True, host=settings.host, port=settings.port,
                server_header=False, access_log=False, proxy_headers=False, timeout_keep_alive=30, limit_concurrency=400,
                h11_max_incomplete_event_size=65536)  # fmt: skip


if __name__ == "__main__":
    main()
