"""Errors that speak to the user: a stable code, what is wrong, where, and what to do about it.

Every error that a user can cause derives from `MlipfmError`. The same text is shown by the Python API, by the `mlipfm` command (one line, exit
status 2) and over HTTP (`as_dict`). Codes are kebab-case and never change; tests and scripts may match on them.
"""

from __future__ import annotations

import warnings
from typing import Any


class MlipfmError(Exception):
    """Base of all errors that mlipfm raises for users.

    Args:
        what: one sentence: what was wanted and what came.
        where: file, frame, atom or argument the error is about.
        hint: what the user can do about it. `mend` is its old name.
    """

    code = "error"

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None, mend: str | None = None) -> None:
        if mend is not None:
            _warn_of_mend()
        hint = mend if hint is None else hint
        super().__init__(what, where, hint)
        self.what, self.where, self.hint = what, where, hint

    @property
    def mend(self) -> str | None:
        """The old name of `hint`."""
        _warn_of_mend()
        return self.hint

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f"; {self.hint}" if self.hint else ""
        return f"{place}{self.what}{advice}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross from worker processes; pickle's own way would pass the keyword arguments by position."""
        return _restored, (type(self), self.args, self.__dict__)

    def as_dict(self) -> dict[str, str | None]:
        """Return the error as JSON-ready data, for HTTP and event logs. `mend` is the old name of `hint`."""
        return {"code": self.code, "what": self.what, "where": self.where, "hint": self.hint, "mend": self.hint}


def _warn_of_mend() -> None:
    warnings.warn("`mend` is an old name: use `hint`", DeprecationWarning, stacklevel=3)


def _restored(kind: type[MlipfmError], arguments: tuple[Any, ...], state: dict[str, Any]) -> MlipfmError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class ShapeError(MlipfmError):
    """An array has the wrong shape or type."""

    code = "wrong-shape"


class UnitError(MlipfmError):
    """A unit is unknown or does not measure this quantity."""

    code = "unknown-unit"


class UnknownQuantityError(MlipfmError):
    """A label or output is not in the table of quantities."""

    code = "unknown-quantity"


class OptionError(UnknownQuantityError):
    """An option that does not exist, lacks its value, or contradicts another one.

    These errors were an `UnknownQuantityError` once, and are still caught as one.
    """

    code = "wrong-option"


class InvalidStructureError(MlipfmError):
    """A structure that cannot exist: NaN or infinite numbers, impossible cells, contradictory keys."""

    code = "invalid-structure"


class OverlapError(InvalidStructureError):
    """Two atoms (or an atom and a periodic image) are closer than the smallest allowed distance."""

    code = "overlapping-atoms"


class DensityError(InvalidStructureError):
    """More neighbours than any matter has: almost always a wrong length unit."""

    code = "absurd-density"


class MultiplicityError(InvalidStructureError):
    """Total charge and spin multiplicity contradict the number of electrons."""

    code = "impossible-multiplicity"


class UnknownElementError(MlipfmError):
    """An element that does not exist or that this model was not trained on."""

    code = "unknown-element"


class PropertyNotAvailableError(MlipfmError):
    """A quantity was asked that this model or this system does not have (stress of a molecule)."""

    code = "property-not-available"


class LevelError(MlipfmError):
    """The level of theory is missing, ambiguous or unknown."""

    code = "level-of-theory"


class MissingLabelsError(MlipfmError):
    """Frames without the requested labels."""

    code = "missing-labels"


class CapacityExceeded(MlipfmError):
    """A fixed-capacity neighbour layout overflowed; the caller rebuilds with `needed`."""

    code = "capacity-exceeded"

    def __init__(self, what: str, *, needed: int, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what, where=where, hint=hint)
        self.needed = needed


class UnreadableFileError(MlipfmError):
    """A file is missing, truncated or not in the format it claims."""

    code = "unreadable-file"


class DamagedFileError(UnreadableFileError):
    """A checksum or digest does not match: the bytes changed after they were written."""

    code = "damaged-file"


class RefusedFileError(UnreadableFileError):
    """A file of a kind that is never read (pickle), or a foreign file where a model is expected."""

    code = "refused-file"


class UnwritableFileError(MlipfmError):
    """A file could not be written (disk full, read-only, no permission); what was there before is intact."""

    code = "unwritable-file"


class LockedError(MlipfmError):
    """Another process holds the lock; the message names it."""

    code = "locked"


class FormatVersionError(MlipfmError):
    """A file was written in a newer format than this version reads."""

    code = "newer-format"


class RecipeError(MlipfmError):
    """A recipe has an unknown key, a wrong value, or asks for what cannot work."""

    code = "recipe"


class PluginError(MlipfmError):
    """A plug-in is unknown, ambiguous, or of an unsupported contract version."""

    code = "plugin"


class RegistryError(MlipfmError):
    """A registry of models cannot be reached, does not have what was requested, or answers what it must not."""

    code = "registry"


class ForeignModelError(MlipfmError):
    """A model of another package could not be started, timed out, or answered with an error."""

    code = "foreign-model"


class ContractError(MlipfmError):
    """A rule of a contract is broken; the message starts with the rule's name."""

    code = "contract-broken"


class TrainingError(MlipfmError):
    """Training cannot start or cannot go on."""

    code = "training"


class SimulationError(MlipfmError):
    """Settings of a simulation are impossible, or the simulation exploded."""

    code = "simulation"


class ObservableError(MlipfmError):
    """A trajectory does not have what an observable needs: frames, velocities, a cell, the diffusive regime."""

    code = "observable"


class SamplingError(MlipfmError):
    """Structures could not be generated."""

    code = "sampling"


class LabelingError(MlipfmError):
    """Quantum-chemical labels could not be computed."""

    code = "labeling"


class UnconvergedError(MlipfmError):
    """Labels of a calculation that did not converge, or that a model predicted where a calculation was expected."""

    code = "unconverged"


class MlipfmWarning(UserWarning):
    """What a user should know of a result that is given all the same. Commands print it as one line."""


class ImplausibleStructureWarning(MlipfmWarning):
    """A structure that can exist, but looks like a mistake: see `potential.implausible_geometry_remarks`."""


class UndeterminedEnergyWarning(MlipfmWarning):
    """The energy of a composition contains a part that the training data of its level leave open: see `reference_rank`."""


class UntrainedStateWarning(MlipfmWarning):
    """A charge or multiplicity that is assumed or extrapolated, or periodicity, because training never showed it: see `trained_states`."""
