"""Published potentials that can be asked by address, each in an environment of its own that is made on first use: see `ase_adapter`."""

from __future__ import annotations

from pathlib import Path

from mlipfm_interfaces.foreign import ForeignPackage

_ADAPTER = Path(__file__).with_name("ase_adapter.py")

#: Plug-ins of the group `mlipfm.foreign`: `sevennet:7net-0` and `chgnet:0.3.0` come with their packages, `mace:PATH` is a file that mace-torch wrote.
SEVENNET = ForeignPackage(requirements=("sevenn>=0.11,<1",), adapter=_ADAPTER)
CHGNET = ForeignPackage(requirements=("chgnet>=0.4,<1",), adapter=_ADAPTER)
MACE = ForeignPackage(requirements=("mace-torch>=0.3.10,<1",), adapter=_ADAPTER, file=True)
