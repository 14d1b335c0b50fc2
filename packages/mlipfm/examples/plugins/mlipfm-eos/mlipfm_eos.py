import numpy as np
from mlipfm_interfaces.benchmark import LabelledSet, OpenModel
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.metrics import Metric, mean
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import GPA

FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def bulk_modulus(model: OpenModel, data: list[LabelledSet], *, element: str = "Cu", a: float = 3.61) -> list[Metric]:
    """Bulk modulus and lattice constant of an fcc metal, from a parabola through three volumes about the lattice constant a (Å)."""
    volumes = a**3 * np.array([0.98, 1.0, 1.02])
    crystals = [Structure([number(element)] * 4, x * FCC, cell=x * np.eye(3), pbc=[True] * 3) for x in np.cbrt(volumes)]
    low, middle, high = (float(row["energy"]) for row in model.evaluate(crystals, ["energy"]))
    step = volumes[1] - volumes[0]
    curvature = (low - 2 * middle + high) / step**2
    volume = volumes[1] - (high - low) / (2 * step * curvature)
    return [mean([volume * curvature / GPA], name="bulk modulus", unit="GPa"), mean([np.cbrt(volume)], name="lattice constant", unit="Å")]
