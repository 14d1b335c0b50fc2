"""`mlipfm serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Serve predictions of a model to programs.")


@app.command("serve")
def serve(
    model: Annotated[str, typer.Argument(help="Model checkpoint, NAME@ALIAS of the registry, or the name of a released model")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of its address")] = 8700,
    host: Annotated[str, typer.Option(help="Address to listen on, of this machine only")] = "127.0.0.1",
    folder: Annotated[Path | None, typer.Option("--dir", help="Folder of the token and the log [default: in the cache folder]")] = None,
) -> None:
    """Serve predictions of a model: JSON in and out, requests that wait together computed as one batch.

    Commands that take models of other packages ask it by its address: mlipfm relax start.xyz --model http://127.0.0.1:8700

    Example: mlipfm serve water@production --port 8700
    """
    import os
    import sys

    from mlipfm_interfaces.checkpoint import resolve
    from mlipfm_interfaces.checkpoint_file import verify_checkpoint
    from mlipfm_interfaces.errors import RegistryError, UnreadableFileError
    from mlipfm_interfaces.files import atomic_write, cache_dir, canonical_json
    from mlipfm_interfaces.hub_folder import STATE, started_at
    from mlipfm_interfaces.registry import remember_hub

    from .local_hub import check_port, has_hub, loopback, path_of_the_hub

    address = loopback(host, port)
    path = resolve(model).resolve()
    if not path.is_file():
        raise UnreadableFileError(
            "there is no such model", where=model, hint="give a checkpoint, NAME@ALIAS or the name of a released model"
        )
    verify_checkpoint(path)  # what is no model is refused here, with the reason, and not in the log of a worker
    if not has_hub():
        raise RegistryError("the prediction service is not installed", hint="pip install mlipfm-hub")
    check_port(host, port)
    folder = (folder or cache_dir() / "serve" / str(port)).resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    atomic_write(folder / STATE, canonical_json({"pid": os.getpid(), "started": started_at(os.getpid()) or 0, "address": address}))
    remember_hub(address, folder)
    typer.echo(f"{model} at {address} (POST /v1/predict); token in {folder / 'token'}; stop it with Ctrl-C")
    sys.stdout.flush()
    line = [sys.executable, "-m", "mlipfm_hub", "predict", str(path), "--dir", str(folder), "--host", host, "--port", str(port)]
    os.execve(sys.executable, line, os.environ | path_of_the_hub())
