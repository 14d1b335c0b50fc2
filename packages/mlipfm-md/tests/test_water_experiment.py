"""g(r) of first-principles liquid water beside the measured curves, as a user draws them: `mlipfm md analyse FILE --reference O-O=MEASURED`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from mlipfm_interfaces.cli import main


@pytest.mark.ci
def test_water_of_revpbe0_d3_peaks_where_the_measured_curves_do(shared_data, capsys, tmp_path):
    """Ten frames of 64 molecules (revPBE0-D3) against X-ray and neutron data (Skinner 2014, Soper 2013)."""
    frames = sorted(shared_data("water_revpbe0d3_sample").rglob("*.xyz"))[0]
    measured = shared_data("ref_water_experiment")
    curves = {"O-O": "exp-goo-T295.1K", "H-O": "exp-goh-T300K.dat", "H-H": "exp-ghh-T300K.dat"}
    words = [word for name, file in curves.items() for word in ("--reference", f"{name}={measured / file}")]
    with pytest.raises(SystemExit) as stop:
        main(["md", "analyse", str(frames), "--dt", "1000", "--out", str(tmp_path / "a"), "--json", *words])
    said = capsys.readouterr()
    assert not stop.value.code, said.err
    assert len(json.loads(said.out)["distributions"]) == 3
    page = (tmp_path / "a" / "analysis.html").read_text()
    assert all(f"{name}, reference" in page for name in curves)
    x, g = np.loadtxt(tmp_path / "a" / "rdf_O-O.csv", delimiter=",", skiprows=1, usecols=(0, 1)).T
    r, known = np.loadtxt(measured / curves["O-O"], comments=["#", '"'], usecols=(0, 1)).T
    assert x[g.argmax()] == pytest.approx(r[known.argmax()], abs=0.15)  # 2.8 Å; ten frames in bins of 0.03 Å
    assert g.max() == pytest.approx(known.max(), rel=0.25)
