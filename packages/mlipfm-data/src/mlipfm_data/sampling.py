"""Make geometries by a sampler that is loaded by name: any plug-in of the group `mlipfm.samplers`.

A sampler is a class whose arguments are its options; `model`, if it has one, is what its forces come from (a potential or a labeller).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_type_hints

import numpy as np
from mlipfm_interfaces import plugins
from mlipfm_interfaces.errors import OptionError, SamplingError
from mlipfm_interfaces.protocols import Sampler
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.theory import canonical_level

from .readers.option_text import parse_value

_EMPTY = inspect.Parameter.empty


def _sampler_options(name: str) -> dict[str, tuple[Any, Any]]:
    """Return the options of a sampler: name -> (type, default), without `model`. Raises `PluginError`: no sampler of this name."""
    made = plugins.load("samplers", name)
    parameters = inspect.signature(made).parameters.values()
    try:
        hints = get_type_hints(made if inspect.isclass(made) else inspect.unwrap(made))
    except NameError:  # annotations of a plug-in that are imported for type checkers only
        hints = {}
    return {p.name: (hints.get(p.name, type(p.default)), p.default) for p in parameters if p.name != "model"}


def _needs_model(name: str) -> bool | None:
    """Return whether a sampler needs a model; None if it can have one and does without."""
    model = inspect.signature(plugins.load("samplers", name)).parameters.get("model")
    return False if model is None else True if model.default is _EMPTY else None


def make_sampler(name: str, options: Sequence[str] = (), model: str | None = None) -> Sampler:
    """Build a sampler by its name.

    Args:
        options: `KEY=VALUE` texts. model: a checkpoint, NAME@ALIAS of a registry, or the name of a labeller such as gfn2-xtb.

    Raises:
        PluginError: unknown sampler. OptionError: an option that it does not have, given twice, or of another type.
        SamplingError: it needs a model and none is given, or has no use for one.
    """
    known, values = _sampler_options(name), dict[str, Any]()
    for text in options:
        key, equals, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or key not in known or key in values:
            what = f"--option needs KEY=VALUE, got {text!r}" if not equals else f"`{key}` is given twice" if key in values else None
            has = ", ".join(known) or "none"
            raise OptionError(what or f"the sampler {name!r} has no option {key!r}", hint=f"its options are {has}")
        values[key] = parse_value(key, value.strip(), known[key][0])
    needed = _needs_model(name)
    if model is None and needed:
        raise SamplingError(f"the sampler {name!r} needs a model", hint="give one: --model CHECKPOINT, NAME@ALIAS or gfn2-xtb")
    if model is not None and needed is False:
        raise SamplingError(f"the sampler {name!r} takes no model", hint="leave --model out")
    sampler: Sampler = plugins.load("samplers", name)(**values, **({} if model is None else {"model": _model(model)}))
    return sampler


def _model(name: str) -> Any:
    if canonical_level(name) in plugins.names("labelers"):
        return plugins.load("labelers", canonical_level(name))()
    from mlipfm_interfaces.checkpoint import load_potential  # brings torch

    return load_potential(name)


def sample(structures: Iterable[Structure], sampler: Sampler, n: int, seed: int = 0) -> Iterator[Structure]:
    """Yield `n` geometries around each structure, without labels and level. Each structure has a random stream of its own: `seed` and its position.

    Raises:
        SamplingError: what the sampler cannot do.
    """
    for position, structure in enumerate(structures):
        plain = structure.replace(level=None, labels={}, label_std={})
        try:
            yield from sampler.sample(plain, n, np.random.default_rng([seed, position]))
        except ValueError as error:
            raise SamplingError(f"structure {position} ({structure.formula}): {error}") from None


def list_samplers() -> Iterator[str]:
    """Yield a line for each installed sampler: package, whether it takes a model, options with their defaults."""
    for name in plugins.names("samplers"):
        needed = _needs_model(name)
        model = "--model needed" if needed else "--model optional" if needed is None else "no model"
        options = ", ".join(key if default is _EMPTY else f"{key}={default}" for key, (_, default) in _sampler_options(name).items())
        yield f"{name:<16}{plugins.owner('samplers', name):<14}{model:<18}{options}"
