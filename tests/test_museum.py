"""Files of every format that was ever written still say what they said. See museum/README.md."""

from pathlib import Path

import numpy as np
import torch
from mlipfm_data.store.store import Store
from mlipfm_interfaces.checkpoint import load_checkpoint
from mlipfm_interfaces.frames import FrameLog
from mlipfm_interfaces.structure import Provenance, Structure

MUSEUM = Path(__file__).parent / "museum"


def is_water(s: Structure) -> None:
    assert s.formula == "H2O"
    assert (s.total_charge, s.spin_multiplicity, s.level) == (0, 1, "gfn2-xtb")
    assert np.allclose(s.positions, [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], atol=1e-7)
    assert not s.pbc.any()
    assert s.labels["energy"] == -137.5
    assert s.labels["forces"].tolist() == [[0.5, 0.25, 0], [-0.5, 0, 0], [0, -0.25, 0]]
    assert s.label_std["energy"] == 0.01
    assert s.provenance == Provenance("museum", "water", 0, "relaxation", "CC0-1.0")


def is_salt(s: Structure) -> None:
    assert s.formula == "ClNa"
    assert (s.total_charge, s.spin_multiplicity, s.level) == (None, None, "pbe/520ev")
    assert s.cell.tolist() == [[0, 2.82, 2.82], [2.82, 0, 2.82], [2.82, 2.82, 0]]
    assert s.pbc.all()
    assert s.external_field is not None
    assert s.external_field.tolist() == [0, 0, 0.1]
    assert s.labels["hessian_rows"].tolist() == [[[0, 1, 2], [3, 4, 5]]]
    assert s.labels["hessian_rows_index"].tolist() == [[1, 2]]
    assert s.provenance == Provenance("museum", index=1)


def test_checkpoint_format_1():
    manifest, tensors = load_checkpoint(MUSEUM / "checkpoint-1.safetensors")
    assert (manifest["kind"], manifest["plugin"], manifest["config"]) == ("mlipfm-model", "toy-pairs", {"cutoff": 5.0})
    assert manifest["extra"] == {"licences": ["CC0-1.0"], "recipe": {"steps": 3}}
    assert torch.equal(tensors["embedding"], torch.arange(6.0).reshape(2, 3))
    assert tensors["readout"].data_ptr() == tensors["embedding"].data_ptr()
    assert tensors["shift"].dtype == torch.float64
    assert tensors["shift"].item() == 0.125


def test_frames_format_1():
    (first, motion), (second, still), (third, _) = FrameLog(MUSEUM / "frames-1.frames")
    is_water(first)
    is_salt(second)
    is_water(third)
    assert motion is not None
    assert still is None
    assert motion.velocities.tolist() == [[0.015625] * 3] * 3
    assert (motion.masses.tolist(), motion.time, motion.step) == ([16.0, 1.0, 1.0], 2.5, 5)


def test_store_format_1():
    store = Store(MUSEUM / "store-1")
    assert (store.name, store.complete, len(store), store.verify()) == ("museum", True, 2, [])
    is_water(store[0])
    is_salt(store[1])
    assert store[0].labels["charges"].tolist() == [-0.5, 0.25, 0.25]
    assert [store.key(k) for k in range(2)] == [s.replace().key for s in store]  # what a key is belongs to the format
    assert store.statistics.levels["gfn2-xtb"].mean_energy == -137.5 / 3


def test_the_museum_stays_small():
    assert sum(path.stat().st_size for path in MUSEUM.rglob("*") if path.is_file()) < 20_000
