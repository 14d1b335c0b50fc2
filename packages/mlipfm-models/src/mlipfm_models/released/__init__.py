"""Models that come with this package, and their catalogue."""

from .catalogue import ReleasedModel, mol_medium, mol_small, released

__all__ = ["ReleasedModel", "mol_medium", "mol_small", "released"]
