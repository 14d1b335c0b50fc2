"""Constant-energy dynamics of a water molecule on the GFN2-xTB surface: the total energy must not drift."""

from mlipfm_data.tblite_labeler import TbliteLabeler
from mlipfm_interfaces.metrics import drift
from mlipfm_interfaces.structure import Structure
from mlipfm_md import NVE, Settings, simulate

water = Structure([8, 1, 1], [[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]], total_charge=0, spin_multiplicity=1)
run = simulate(TbliteLabeler("GFN2-xTB"), [water], NVE(), Settings(dt=0.5, steps=400, temperature=300, every=4))
print(drift(run.times, run.total[:, 0] / 3))
