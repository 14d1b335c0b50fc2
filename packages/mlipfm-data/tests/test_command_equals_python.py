"""Every reader by command and by Python: `mlipfm data import` stores exactly what `read` gives with the same options, on every real file.

Compared bit for bit: elements, positions, cells, periodicity, charge, multiplicity, field, level, labels, deviations and provenance.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from mlipfm_data.cli import app
from mlipfm_data.readers.registry import find_reader, read
from mlipfm_data.store.store import Store
from mlipfm_interfaces import plugins
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.structure import Structure
from sets import KNOWN, jobs
from typer.testing import CliRunner

pytestmark = pytest.mark.shared_data

#: One small file of every reader for which there is a real one: reader -> (set, pattern).
SMALL = {
    "extxyz": ("fixtures_misc", "small_materials_test.extxyz"), "ase": ("catalysis_hub", "AljamaMethanol2016/**/*.traj"),
    "ase-db": ("fixtures_misc", "orb_10_mptraj_systems.db"), "json": ("fixtures_misc", "omat/test_calc_compounds_mp.json"),
    "vasp-xml": ("fixtures_misc", "dpdata_vasprun.h2o.md.xml"), "cp2k": ("fixtures_misc", "dpdata_cp2k_aimd/*-pos-1.xyz"),
    "hdf5": ("fixtures_misc", "spice2-1000_429_md_0-1.hdf5"), "npz": ("aumgo_4g", "*.npz"),
    "deepmd": ("dpmd_hessian_molecules", "H*"), "nabladft": ("nabladft_sample", "test_optim_database.db"), "gmtkn55": ("gmtkn55_dev", "PX13"),
    "refdata": ("refdata_nci", "**/*.din"), "sdf": ("prop_molecules", "*.sdf"), "phonopy": ("ref_phonon_forces", "**/*.yaml*"),
}  # fmt: skip


def words_of(options):
    """Options of `read` as words of the command line; those that `import` has under their own name by it."""
    import typer

    named = {p.name for p in typer.main.get_command(app).commands["import"].params}
    for key, value in options.items():
        if key == "require":
            yield from ("--require", ",".join(value)) if value else ("--unlabelled",)
        elif key in named:
            yield from (f"--{key.replace('_', '-')}", str(value))
        else:
            text = json.dumps(value) if isinstance(value, dict) else ",".join(value) if isinstance(value, tuple) else str(value)
            yield from ("--option", f"{key}={text}")


def content(s):
    """Everything that a structure holds, exactly."""

    def exactly(array):
        return None if array is None else (str(array.dtype), array.shape, np.ascontiguousarray(array).tobytes())

    arrays = {name: exactly(getattr(s, name)) for name in ("atomic_numbers", "positions", "cell", "pbc", "external_field")}
    labels = {key: exactly(value) for key, value in s.labels.items()}, {key: exactly(value) for key, value in s.label_std.items()}
    return arrays, labels, s.total_charge, s.spin_multiplicity, s.level, s.provenance


def by_python(paths, reader, options):
    """(frames, structures that are no copies of earlier ones, words for files that cannot be read at all)."""
    found, frames, errors = {}, 0, []
    for path in paths:
        before = frames
        try:
            for item in read(path, reader, **{"require": ("energy",), **options}):
                frames += 1
                if isinstance(item, Structure):
                    found.setdefault((item.key, item.level), item)
        except MlipfmError as error:
            errors += [str(error)] if frames == before else []
    return frames, list(found.values()), errors


def compared(paths, reader, options, out):
    """(frames, stored, how they differ or None) of files by command and by Python."""
    options = options | {"licence": "LicenseRef-of-the-set"}  # the words for some sets are no SPDX expression, which the command refuses
    frames, structures, errors = by_python(paths, reader, options)
    words = [
        "import",
        *map(str, paths),
        "--out",
        str(out),
        "--allow-refused",
        *words_of(options),
        *(("--reader", reader) if reader else ()),
    ]
    result = CliRunner().invoke(app, words)
    if bool(result.exit_code) != bool(errors) or any(error not in f"{result.output} {result.exception}" for error in errors):
        return frames, 0, f"errors by Python: {errors}; by command: {result.exception!r}"
    if not structures:
        return frames, 0, f"nothing by Python; by command: {result.output}" if out.exists() else None
    with Store(out) as store:
        if len(store) != len(structures):
            return frames, len(store), f"{len(structures)} by Python, {len(store)} by command"
        differ = [k for k, one in enumerate(structures) if content(one) != content(store[k])]
    return frames, len(structures), f"structures {differ[:5]} differ" if differ else None


def name_of(path, reader):
    if reader:
        return reader
    found = find_reader(path)
    return next(name for name in plugins.names("readers") if isinstance(found, plugins.load("readers", name)))


def together(found):
    """(files, reader, options) of jobs whose options differ in nothing but group and source, which are left out where there are several files."""
    alike = defaultdict(list)
    for path, reader, options in found:
        rest = {key: value for key, value in options.items() if key not in ("group", "source")}
        alike[name_of(path, reader), reader, repr(rest)].append((path, options, rest))
    for (_, reader, _), files in alike.items():
        yield [path for path, *_ in files], reader, files[0][1] if len(files) == 1 else files[0][2]


@pytest.mark.ci
@pytest.mark.parametrize("reader", SMALL)
def test_command_and_python_read_the_same_from_a_small_file(shared_data, tmp_path, reader):
    name, pattern = SMALL[reader]
    folder = shared_data(name)
    found = [job for job in jobs(KNOWN[name], folder) if job[0] in set(folder.glob(pattern))]
    path, used, options = min(found, key=lambda job: job[0].stat().st_size)
    assert name_of(path, used) == reader
    frames, stored, differ = compared([path], used, options, tmp_path / "s")
    assert differ is None
    assert 0 < stored <= frames


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(name for name, known in KNOWN.items() if known.files))
def test_command_and_python_read_the_same_from_every_real_file_of_a_set(shared_data, tmp_path, capsys, name):
    for k, (paths, reader, options) in enumerate(together(jobs(KNOWN[name], shared_data(name)))):
        frames, stored, differ = compared(paths, reader, options, tmp_path / str(k))
        row = f"{name:<28}{name_of(paths[0], reader):<18}{len(paths):>6} files{frames:>8} frames{stored:>8} stored  {differ or 'equal'}"
        with capsys.disabled():
            print(row)
        assert differ is None


@pytest.mark.full
@pytest.mark.parametrize("reader", ["hdf5", "npz", "vasp-xml", "json"])
def test_command_in_a_process_of_its_own_stores_what_python_reads(shared_data, tmp_path, reader):
    name, pattern = SMALL[reader]
    path = next(iter(sorted(shared_data(name).glob(pattern))))
    words = ["data", "import", os.fspath(path), "--out", os.fspath(tmp_path / "s"), "--unlabelled", "--allow-refused"]
    mlipfm = Path(sys.executable).with_name("mlipfm")
    assert subprocess.run([mlipfm, *words], capture_output=True, timeout=300, check=False).returncode == 0
    _, structures, _ = by_python([path], None, {"require": ()})
    with Store(tmp_path / "s") as store:
        assert [content(s) for s in structures] == [content(s) for s in store]
