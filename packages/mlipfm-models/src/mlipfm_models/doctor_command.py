"""`mlipfm doctor`: what is installed, and with which code models run on this machine. Nothing heavy is imported before the command runs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

app = typer.Typer(help="What is installed, and with which code models run here.")


@app.command("doctor")
def doctor(
    model: Annotated[
        str | None, typer.Argument(help="Model checkpoint (.safetensors) or address: say with which code this model runs")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Print versions, threads and devices, which compiled kernels are in use and why; of a model also how far its kernel is from it.

    Examples:

    mlipfm doctor

    mlipfm doctor model.safetensors
    """
    found = machine() | ({} if model is None else {"model": of_model(model)})
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        for words in value if isinstance(value, list) else [value]:
            typer.echo(f"{name:>10}  {words}")


def machine() -> dict[str, Any]:
    """Lines about packages, torch and kernels, by subject."""
    import os
    import platform
    from importlib.metadata import distributions

    import torch

    packages = sorted({f"{d.metadata['Name']} {d.version}" for d in distributions() if str(d.metadata["Name"]).startswith("mlipfm")})
    devices = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())] or ["no GPU that torch finds"]
    return {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "packages": ", ".join(packages),
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads; {', '.join(devices)}",
        "kernels": _kernels(),
    }


def _kernels() -> list[str]:
    import os

    from .density_kernel import NAMES, kernels_missing

    missing = kernels_missing()
    if missing is not None:
        return [f"none: {missing}", "every model runs on torch; a C++ compiler or a wheel of mlipfm-kernels changes that"]
    import mlipfm_kernels

    names = mlipfm_kernels.instruction_sets()
    asked = os.environ.get(mlipfm_kernels.INSTRUCTIONS, "")
    why = f"named by {mlipfm_kernels.INSTRUCTIONS}" if asked else "the best of " + ", ".join(NAMES.get(name, name) for name in names)
    used = asked or names[0]
    state = NAMES.get(used, used) if used in names else f"{used}, which this machine or this build lacks"
    return [
        f"density: {state} ({why}), one thread for each run, --threads N for more",
        f"mace: messages and invariants {'compiled too' if _mace_is_compiled() else 'on torch'}, on the threads of torch; all else runs on torch",
    ]


def _mace_is_compiled() -> bool:
    import torch

    from .backbones._compiled_products import trusted

    return trusted(torch.float32) and trusted(torch.float64)


def of_model(address: str) -> list[str]:
    """Say with which code a model runs, why, and how far its kernel is from it in float64.

    Raises:
        MlipfmError: what `load_potential` raises.
    """
    from mlipfm_interfaces.checkpoint import load_potential

    from .density_kernel import CompiledDensity, differences, why_not_compiled

    potential = load_potential(address)
    reason = why_not_compiled(potential)
    if reason is not None:
        return [f"{potential.plugin}: runs on torch, because {reason}"]
    compiled = CompiledDensity(potential)  # type: ignore[arg-type]  # a potential with a kernel is an AssembledPotential
    found = differences(compiled)
    verdict = "in use" if found.agree else "NOT used"
    return [f"{compiled.description}: {verdict}; against the model in float64 {found} ({found.systems} systems)"]
