"""EMT as a model of its own: copper has the properties it was fitted to, and what it has no parameters for is refused."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.errors import ForeignModelError
from mlipfm_interfaces.foreign import open_foreign
from mlipfm_interfaces.testing.structures import copper, water


def test_copper_has_its_least_energy_and_no_stress_near_the_lattice_constant_of_the_fit():
    with open_foreign("emt:") as model:
        scales = np.array([0.97, 3.59 / 3.615, 1.03])  # EMT's lattice constant of copper is 3.59 Å
        cells = [copper().replace(positions=copper().positions * k, cell=copper().cell * k) for k in scales]
        rows = model.evaluate(cells, ("energy", "stress"))
    assert np.argmin([float(row["energy"]) for row in rows]) == 1
    pressures = [float(np.trace(row["stress"])) / 3 for row in rows]
    assert pressures[0] < -0.01 < 0.01 < pressures[2]
    assert abs(pressures[1]) < 5e-4


def test_elements_charges_and_variants_that_it_lacks_are_refused():
    with open_foreign("emt:") as model:
        with pytest.raises(ForeignModelError, match="no parameters for the elements with numbers \\[1, 8\\]"):
            model.evaluate([water()])
        with pytest.raises(ForeignModelError, match="charge \\+1"):
            model.evaluate([copper().replace(total_charge=1)])
    with pytest.raises(ForeignModelError, match="no variant 'gold'"):
        open_foreign("emt:gold")
