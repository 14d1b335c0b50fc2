"""Public data sets that tests and benchmarks read from a folder: reader, level of theory, units, licence and citation of each."""

from __future__ import annotations

from mlipfm_data.datasets.manifest import FileDescription, SetDescription, jobs

from . import materials, molecules, properties

__all__ = ["KNOWN", "FileDescription", "SetDescription", "jobs"]

#: Name of the set's folder -> its description.
KNOWN: dict[str, SetDescription] = {known.name: known for module in (materials, molecules, properties) for known in module.SETS}
