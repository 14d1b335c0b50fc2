"""Models of other packages: real worker processes, with adapters that misbehave in every way the border must survive."""

import io
import json
import socket
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from mlipfm_interfaces import foreign_environment, foreign_worker
from mlipfm_interfaces.errors import ForeignModelError, PluginError
from mlipfm_interfaces.foreign import ForeignModel, ForeignPackage, open_foreign
from mlipfm_interfaces.structure import Structure

#: Springs to the origin: E = k/2 sum r^2, F = -k r. The argument lists misdeeds; a structure with fluorine asks for that of its charge.
ADAPTER = """
import os, sys, time
import numpy as np

class Springs:
    outputs = ("energy", "forces", "stress")
    versions = {"springs": "1.0"}

    def __init__(self, misdeeds):
        self.misdeeds = misdeeds.split(",")

    def evaluate(self, numbers, positions, cell, pbc, charge, multiplicity, outputs):
        k = 2.0 + (charge or 0)
        values = {"energy": np.float64(0.5 * k * (positions**2).sum()), "forces": -k * positions}
        if 9 in numbers:
            getattr(self, self.misdeeds[charge or 0])(values)
        return {key: value for key, value in values.items() if key in outputs}

    def none(self, values):
        pass

    def sleep(self, values):
        print("about to sleep", flush=True)
        time.sleep(60)

    def die(self, values):
        print("first words", flush=True)
        print("fatal: the sky is falling", file=sys.stderr, flush=True)
        os._exit(3)

    def complain(self, values):
        raise RuntimeError("no convergence")

    def chatter(self, values):
        os.write(1, bytes(range(256)) * 4000)
        print("a banner\\n" * 1000)

    def nan(self, values):
        values["forces"][0, 1] = np.nan

    def reshape(self, values):
        values["forces"] = values["forces"].ravel()

    def forget(self, values):
        del values["forces"]

    def objects(self, values):
        values["forces"] = np.array([object()], dtype=object)

    def text(self, values):
        values["energy"] = np.array("much")

    def garble(self, values):
        import gc, socket
        for channel in [o for o in gc.get_objects() if isinstance(o, socket.socket)]:
            channel.sendall(b"\\xff" * 64)

def load(argument):
    if argument == "broken":
        raise ValueError("no such model")
    print("hello from springs")
    return Springs(argument or "none")
"""


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    path = tmp_path / "springs_adapter.py"
    path.write_text(ADAPTER)
    return path


@pytest.fixture
def springs(adapter: Path):
    """Open the toy with a misdeed; every worker is closed at the end."""
    opened = []

    def make(misdeeds: str = "none", **timeouts: float) -> ForeignModel:
        opened.append(ForeignModel(f"springs:{misdeeds}", ForeignPackage((), adapter), misdeeds, **timeouts))
        return opened[-1]

    yield make
    for model in opened:
        model.close()


def molecule(*numbers: int, charge: int | None = None, **state) -> Structure:
    positions = np.random.default_rng(7).normal(size=(len(numbers), 3))
    return Structure(np.array(numbers), positions, total_charge=charge, **state)


GOOD, BAD = molecule(1, 6, 8), molecule(1, 9)


def test_a_worker_answers_with_the_closed_form_to_the_last_bit(springs):
    model = springs()
    assert model.outputs == ("energy", "forces", "stress")
    assert model.versions["springs"] == "1.0"
    charged = molecule(1, 6, charge=1)
    for s, k, row in zip([GOOD, charged], [2.0, 3.0], model.evaluate([GOOD, charged]), strict=True):
        assert row["energy"] == 0.5 * k * (s.positions**2).sum()
        assert np.array_equal(row["forces"], -k * s.positions)
        assert row["forces"].dtype == np.float64


def test_an_adapter_in_this_process_gives_the_same_bits_as_a_worker(springs, adapter):
    here = ForeignModel("springs", ForeignPackage((), adapter, in_process=True), "")
    there = springs()
    for a, b in zip(here.evaluate([GOOD, BAD]), there.evaluate([GOOD, BAD]), strict=True):
        assert a["energy"].tobytes() == b["energy"].tobytes()
        assert a["forces"].tobytes() == b["forces"].tobytes()


def test_a_call_that_takes_too_long_is_killed_and_the_next_one_is_answered_by_a_new_worker(springs):
    model = springs("sleep", call_timeout=0.5)
    first = model._model._process
    start = time.monotonic()
    with pytest.raises(
        ForeignModelError, match=r"structure 1 \(FH\): the worker of springs:sleep did not answer within 0.5 s; .*about to sleep"
    ):
        model.evaluate([GOOD, BAD])
    assert time.monotonic() - start < 5
    assert first.poll() == -9
    assert model.evaluate([GOOD])[0]["energy"] > 0
    assert model._model._process.pid != first.pid


def test_a_worker_that_dies_is_reported_with_its_last_words_and_replaced(springs):
    model = springs("die")
    with pytest.raises(
        ForeignModelError, match=r"springs:die died \(exit status 3\); its last words: .*first words \| fatal: the sky is falling"
    ):
        model.evaluate([BAD])
    assert model.evaluate([GOOD])[0]["energy"] > 0


def test_a_worker_killed_between_two_calls_is_reported_and_replaced(springs):
    model = springs()
    model._model._process.kill()
    model._model._process.wait()
    with pytest.raises(ForeignModelError, match=r"died \(exit status -9\)"):
        model.evaluate([GOOD])
    assert model.evaluate([GOOD])[0]["energy"] > 0


def test_garbage_on_the_channel_ends_the_worker(springs):
    model = springs("garble", call_timeout=60)
    with pytest.raises(ForeignModelError, match="sent a head of 4294967295 bytes; at most 1048576 are allowed"):
        model.evaluate([BAD])
    assert np.array_equal(model.evaluate([GOOD])[0]["forces"], -2.0 * GOOD.positions)


REFUSED = {
    "complain": r"structure 1 \(FH\): .*: RuntimeError: no convergence",
    "nan": "structure 1: .* answered 'forces' with NaN or infinity; drop this structure",
    "reshape": r"answered 'forces' with shape \[6\], wanted \[2, 3\]",
    "forget": "answered without 'forces'",
    "objects": "an output cannot be sent: Object arrays cannot be saved when allow_pickle=False",
    "text": "sent an array of dtype <U4",
}


def test_an_answer_that_is_not_what_was_asked_for_is_refused_naming_the_structure(springs):
    model = springs(",".join(REFUSED))
    for k, (misdeed, said) in enumerate(REFUSED.items()):
        pid = model._model._process.pid
        with pytest.raises(ForeignModelError, match=said):
            model.evaluate([GOOD, molecule(1, 9, charge=k)])
        assert np.array_equal(model.evaluate([GOOD])[0]["forces"], -2.0 * GOOD.positions)
        # only a worker that breaks the protocol is replaced
        assert (model._model._process.pid == pid) == (misdeed != "text")


def test_garbage_on_stdout_does_no_harm(springs):
    rows = springs("chatter").evaluate([BAD, BAD])
    assert np.array_equal(rows[1]["forces"], -2.0 * BAD.positions)


def test_an_output_the_model_does_not_have_is_refused_with_those_it_has(springs):
    with pytest.raises(ForeignModelError, match="springs:none does not give dipole; it gives energy, forces, stress"):
        springs().evaluate([GOOD], ("energy", "dipole"))


def test_an_external_field_is_refused_and_not_ignored(springs):
    with pytest.raises(ForeignModelError, match="structure 0: springs:none supports no external field"):
        springs().evaluate([GOOD.replace(external_field=[0.0, 0.0, 0.1])])


def test_a_model_that_cannot_be_loaded_says_why(springs):
    with pytest.raises(ForeignModelError, match="springs:broken could not be loaded: ValueError: no such model"):
        springs("broken")


def test_closing_ends_the_process_and_a_later_call_starts_another(springs):
    model = springs()
    process = model._model._process
    model.close()
    assert process.poll() is not None
    assert model.evaluate([GOOD])[0]["energy"] > 0


def test_a_worker_ends_when_its_owner_is_killed(adapter, tmp_path):
    code = (
        "from pathlib import Path; from mlipfm_interfaces.foreign import *; import time\n"
        f"m = ForeignModel('springs', ForeignPackage((), Path({str(adapter)!r})), '')\n"
        "print(m._model._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        pid = int(owner.stdout.readline())
        owner.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_unknown_package_is_answered_with_what_is_installed():
    with pytest.raises(PluginError, match="no package of foreign models is named 'tblit'"):
        open_foreign("tblit:GFN2")


def test_the_worker_imports_nothing_of_ours():
    """It runs where mlipfm is not installed: only the standard library and numpy."""
    import ast

    tree = ast.parse(Path(foreign_worker.__file__).read_text())
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in named} - {"numpy"} <= sys.stdlib_module_names


def wheel(folder: Path) -> Path:
    """A tiny package, `toysprings 1.5`, as a wheel written by hand: it needs no builder and no index."""
    path = folder / "toysprings-1.5-py3-none-any.whl"
    files = {
        "toysprings.py": "import math\n\ndef energy(positions):\n    return 0.5 * 1.5 * math.fsum(float(x) ** 2 for x in positions.ravel())\n",
        "toysprings-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: toysprings\nVersion: 1.5\n",
        "toysprings-1.5.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in files) + "toysprings-1.5.dist-info/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, "toysprings-1.5.dist-info/RECORD": record}.items():
            archive.writestr(name, text)
    return path


TOY_ADAPTER = """
import sys
import numpy as np
import toysprings

class Model:
    outputs = ("energy",)
    versions = {"toysprings": "1.5", "prefix": sys.prefix}
    def evaluate(self, numbers, positions, cell, pbc, charge, multiplicity, outputs):
        return {"energy": np.float64(toysprings.energy(positions))}

def load(argument):
    return Model()
"""


@pytest.mark.ci
def test_a_package_in_an_environment_of_its_own(tmp_path, monkeypatch):
    """numpy comes from wherever pip is configured to find it; the package comes from a wheel made here and is not importable in this process."""
    monkeypatch.setenv("MLIPFM_CACHE", str(tmp_path / "cache"))
    adapter = tmp_path / "toy_adapter.py"
    adapter.write_text(TOY_ADAPTER)
    package = ForeignPackage((str(wheel(tmp_path)),), adapter)
    with ForeignModel("toysprings:", package, "") as model:
        (row,) = model.evaluate([GOOD], ("energy",))
        assert model.versions["prefix"].startswith(str(tmp_path / "cache" / "foreign" / "toysprings-"))
    assert row["energy"] == pytest.approx(0.75 * (GOOD.positions**2).sum(), rel=1e-14)
    with pytest.raises(ImportError):
        __import__("toysprings")

    # the second time it is there already
    python = foreign_environment.environment("toysprings", package.requirements)
    start = time.monotonic()
    assert foreign_environment.environment("toysprings", package.requirements) == python
    assert time.monotonic() - start < 0.5


@pytest.mark.full
def test_an_environment_that_was_cut_short_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("MLIPFM_CACHE", str(tmp_path / "cache"))
    requirements = (str(wheel(tmp_path)),)
    python = foreign_environment.environment("toysprings", requirements)
    made = python.parent.parent.stat().st_ctime_ns
    (python.parent.parent / "complete.json").unlink()
    foreign_environment.environment("toysprings", requirements)
    assert python.parent.parent.stat().st_ctime_ns > made


@pytest.mark.ci
def test_an_environment_that_cannot_be_made_names_what_it_needs_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("MLIPFM_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ForeignModelError, match="'toy' could not be made: .*; it needs no-such-package-x, numpy from a package index"):
        foreign_environment.environment("toy", ("no-such-package-x",))
    assert [path.name for path in (tmp_path / "foreign").iterdir() if path.is_dir()] == []


class Touch:
    """What unpickling it does: create a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_an_array_of_objects_from_a_peer_is_refused_and_runs_no_code(tmp_path):
    blob = io.BytesIO()
    np.lib.format.write_array(blob, np.array([Touch(tmp_path / "run")], dtype=object), allow_pickle=True)
    head = json.dumps({"arrays": [["energy", len(blob.getvalue())]]}).encode()
    here, there = socket.socketpair()
    with here, there:
        there.sendall(struct.pack(">I", len(head)) + head + blob.getvalue())
        with pytest.raises(foreign_worker.ProtocolError, match="Object arrays cannot be loaded"):
            foreign_worker.receive(here)
    assert not (tmp_path / "run").exists()
