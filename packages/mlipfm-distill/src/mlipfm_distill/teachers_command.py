"""`mlipfm teachers`: models of other packages that can be asked by address, and their environments."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Models of other packages.\n\nExample: mlipfm teachers install sevennet", no_args_is_help=True)

#: Addresses of which the weights come with the package.
ADDRESSES = {
    "chgnet": "chgnet:0.3.0 chgnet:r2scan",
    "emt": "emt:",
    "mace": "mace:FILE",
    "sevennet": "sevennet:7net-0 sevennet:7net-l3i5 sevennet:7net-mf-0:PBE sevennet:7net-mf-0:R2SCAN",
    "tblite": "tblite:GFN2 tblite:GFN1",
}


@app.command("list")
def list_() -> None:
    """Packages, whether they are installed, and addresses of their models.

    Example: mlipfm teachers list
    """
    from mlipfm_interfaces import plugins
    from mlipfm_interfaces.foreign_environment import environment_folder

    for name in plugins.names("foreign"):
        package = plugins.load("foreign", name)
        if not package.requirements:
            state = "comes with mlipfm"
        else:
            made = (environment_folder(name, package.requirements) / "complete.json").exists()
            state = "installed" if made else f"not installed: mlipfm teachers install {name}"
        typer.echo(f"{name:<10} {state}\n{'':<10} {ADDRESSES.get(name, name + ':MODEL')}")


@app.command("install")
def install(name: Annotated[str, typer.Argument(help="Package: sevennet, chgnet, mace")]) -> None:
    """Make the environment of a package under the cache folder; a model that is used for the first time does the same.

    Example: mlipfm teachers install sevennet
    """
    from mlipfm_interfaces import plugins
    from mlipfm_interfaces.foreign_environment import environment

    package = plugins.load("foreign", name)
    python = environment(name, package.requirements) if package.requirements else None
    typer.echo(f"{name} comes with mlipfm" if python is None else f"{name}: {python.parent.parent}")
