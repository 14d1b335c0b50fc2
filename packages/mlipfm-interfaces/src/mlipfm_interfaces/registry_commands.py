"""`mlipfm push`, `mlipfm pull` and `mlipfm models`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .registry_versions import Version

push_app = typer.Typer(help="Put a model into the registry.")
pull_app = typer.Typer(help="Get a model from the registry.")
models_app = typer.Typer(
    help="List and show models of the registry and those installed; promote models of the registry.\n\nExample: mlipfm models show mlipfm-mol-medium",
    no_args_is_help=True,
)

_REGISTRY = typer.Option(help="Address of the registry [default: $MLIPFM_REGISTRY, $MLFLOW_TRACKING_URI or http://127.0.0.1:5000]")

_PUBLIC_KEY = typer.Option(help="Public key (PEM) by which the file must be signed [default: $MLIPFM_PUBLIC_KEY, else none]")


@push_app.command("push")
def push(
    model: Annotated[str, typer.Argument(help="Model checkpoint (.safetensors)")],
    name: Annotated[str, typer.Option(help="Name in the registry")],
    record: Annotated[list[Path] | None, typer.Option(help="Result record of this model; may be given several times")] = None,
    sign_key: Annotated[Path | None, typer.Option(help="Private key (PEM) to sign the file with; needs a hub")] = None,
    registry: Annotated[str | None, _REGISTRY] = None,
) -> None:
    """Register a model with its card and result records. Pushing it again adds only records that are new.

    Examples:

        mlipfm push best.safetensors --name water --record check.json --record evaluation.json

        mlipfm push best.safetensors --name water --sign-key key.pem
    """
    from .registry_push import push as push_model

    version = push_model(model, name, record or [], registry, sign_key)
    typer.echo(f"{version.name}/{version.number}  {version.digest}")


@pull_app.command("pull")
def pull(
    address: Annotated[str, typer.Argument(help="NAME@ALIAS or mlipfm:NAME/VERSION")],
    out: Annotated[Path | None, typer.Option(help="Write it to this file; without it, print its path in the cache folder")] = None,
    public_key: Annotated[Path | None, _PUBLIC_KEY] = None,
    registry: Annotated[str | None, _REGISTRY] = None,
) -> None:
    """Download a model and verify it. Commands that take a model also take its address.

    Example: mlipfm pull water@production --out water.safetensors
    """
    from .files import atomic_write, read_bytes
    from .registry import pull as pull_model

    path = pull_model(address, registry, public_key)
    if out is not None:
        atomic_write(out, read_bytes(path))
    typer.echo(out or path)


@models_app.callback()
def _models() -> None:
    """List and show models of the registry and those installed; promote models of the registry.

    Example: mlipfm models show mlipfm-mol-medium
    """


@models_app.command("list")
def list_(registry: Annotated[str | None, _REGISTRY] = None) -> None:
    """Models that come with the installed packages, then names, aliases and versions of the registry.

    Example: mlipfm models list --registry ~/hub
    """
    from . import plugins
    from .registry_http import server
    from .registry_versions import list_models, list_versions

    for name in plugins.names("released"):
        typer.echo(f"{name:<30} installed{', the model of commands that are given none' if name == plugins.DEFAULT_MODEL else ''}")
    where = server(registry)
    models = list_models(where)
    if not models:
        typer.echo("the registry has no model; `mlipfm push MODEL --name NAME` adds one", err=True)
    for name, aliases in models:
        numbers = [version.number for version in list_versions(where, name)]
        if numbers:
            named = ", ".join(f"{alias} -> {promotion.version}" for alias, promotion in sorted(aliases.items())) or "no alias"
            typer.echo(f"{name:<30} {len(numbers)} version{'s' if len(numbers) > 1 else ''}, latest {numbers[-1]}; {named}")


@models_app.command()
def show(
    name: Annotated[str, typer.Argument(help="NAME in the registry, NAME@ALIAS, NAME/NUMBER, or the name of a model that is installed")],
    registry: Annotated[str | None, _REGISTRY] = None,
) -> None:
    """What a version is (by default the latest: elements, levels, errors with intervals, speed), and all versions with aliases, promotions and
    records; of a model that comes with an installed package its card.

    Examples:

        mlipfm models show water

        mlipfm models show water@production

        mlipfm models show mlipfm-mol-medium
    """
    from . import plugins
    from .checkpoint import resolve
    from .errors import RegistryError
    from .registry_http import server
    from .registry_show import facts
    from .registry_versions import check_name, list_models, list_versions

    if name in plugins.names("released"):
        path = resolve(name)
        typer.echo(f"{path.with_suffix('.md').read_text(encoding='utf-8')}\nfile: {path}")
        return
    where, address = server(registry), name
    name, _, alias = address.partition("@")
    name, _, number = name.partition("/")
    versions = list_versions(where, check_name(name))
    if not versions:
        raise RegistryError(f"the registry has no model {name!r}", where=where.address, hint="see `mlipfm models list`")
    promotions = dict(list_models(where)).get(name, {})
    wanted = str(promotions[alias].version) if alias in promotions else number
    chosen = versions[-1] if address == name else next((version for version in versions if str(version.number) == wanted), None)
    if chosen is None:
        raise RegistryError(f"the registry has no {address}", where=where.address, hint=f"see `mlipfm models show {name}`")
    for key, value in facts(where, chosen).items():
        typer.echo(f"{key:<20} {value}")
    for version in versions:
        aliases = [alias for alias, promotion in sorted(promotions.items()) if promotion.version == version.number]
        typer.echo("\n".join(_lines(version, aliases)))
    for alias, promotion in sorted(promotions.items()):
        hashes = f"evaluation {promotion.evaluation[:12]}, check {promotion.check[:12]}"
        typer.echo(f"{name}@{alias} -> {promotion.version}  promotion {promotion.sequence}, {promotion.time}, {hashes}")
        for entry in promotion.rollbacks:
            typer.echo(f"  rollback from {entry['from']} to {entry['to']}, {entry.get('time')}: {entry['reason']}")


@models_app.command()
def promote(
    name: Annotated[str, typer.Argument(help="Name in the registry")],
    version: Annotated[int, typer.Option(min=1, help="Version number")],
    alias: Annotated[str, typer.Option(help="Alias to set")] = "production",
    rollback: Annotated[str, typer.Option(metavar="REASON", help="Go back to an older version; the reason is logged in a tag")] = "",
    registry: Annotated[str | None, _REGISTRY] = None,
) -> None:
    """Point an alias to a version. It must have an evaluation, a check that passed, and known licences of its data.

    Example: mlipfm models promote water --version 3 --alias production
    """
    from .registry_promote import promote as promote_version

    done = promote_version(name, version, alias, rollback, registry)
    typer.echo(f"{name}@{alias} -> {done.number}  {done.digest}")


@models_app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name in the registry")],
    reason: Annotated[str, typer.Option(help="Why; it is kept in the log of the hub")],
    alias: Annotated[str, typer.Option(help="Alias to take away")] = "production",
    registry: Annotated[str | None, _REGISTRY] = None,
) -> None:
    """Take an alias away, so that nobody pulls by it any more; versions and the log stay. Needs a hub.

    Example: mlipfm models revoke water --reason "wrong reference energies"
    """
    from .registry_http import server
    from .registry_hub import is_hub, revoke as revoke_alias
    from .registry_versions import check_alias, check_name

    where = server(registry)
    if not is_hub(where):
        raise where.fault("is no hub: an alias of MLflow moves, and does not go", "promote another version, or start `mlipfm hub up`")
    revoke_alias(where, check_name(name), check_alias(alias), reason)
    typer.echo(f"{name}@{alias} is taken away")


@models_app.command()
def verify(
    address: Annotated[str, typer.Argument(help="NAME@ALIAS or NAME/VERSION")],
    public_key: Annotated[Path | None, _PUBLIC_KEY] = None,
    registry: Annotated[str | None, _REGISTRY] = None,
) -> None:
    """Check a model against the registry: bytes, digest, the promotion if it has an alias, and the signature by a key.

    Examples:

        mlipfm models verify water@production

        mlipfm models verify water@production --public-key key.pub
    """
    from .registry import pull as pull_model
    from .registry_http import server
    from .registry_show import version_at

    path = pull_model(address, registry, public_key)
    version = version_at(server(registry), address)
    signed = f", signed by {public_key}" if public_key else ""
    typer.echo(f"{version}  {version.digest}: SHA-256, digest and registry agree{signed} ({path})")


@models_app.command()
def diff(
    first: Annotated[str, typer.Argument(help="NAME@ALIAS or NAME/VERSION")],
    second: Annotated[str, typer.Argument(help="NAME@ALIAS or NAME/VERSION")],
    registry: Annotated[str | None, _REGISTRY] = None,
) -> None:
    """Show what differs between two registered models: elements, levels, licences, errors, check.

    Example: mlipfm models diff water/1 water@production
    """
    from .registry_http import server
    from .registry_show import differences, facts, version_at

    where = server(registry)
    versions = [version_at(where, address) for address in (first, second)]
    found = differences(*(facts(where, version) for version in versions))
    typer.echo(f"{'':<24} {versions[0]!s:<34} {versions[1]}")
    for what, a, b in found:
        typer.echo(f"{what:<24} {a[:34]:<34} {b[:60]}")
    if not found:
        typer.echo("no difference")


def _lines(version: Version, aliases: list[str]) -> list[str]:
    from datetime import UTC, datetime

    time = datetime.fromtimestamp(version.created / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [f"{version.name}/{version.number}  {time}  {', '.join(aliases)}".rstrip(), f"  digest  {version.digest}"]
    found = {key.removeprefix("mlipfm.record."): value for key, value in sorted(version.tags.items()) if key.startswith("mlipfm.record.")}
    return lines + [f"  record  {value}  {digest[:12]}" for digest, value in found.items()]
