"""Labelling many structures: nothing is lost, nothing depends on the history, every refusal is counted."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from kills import kill_at_random_moments, same_bytes
from mlipfm_data import parallel
from mlipfm_data.labeling import RECORD, label_all
from mlipfm_data.parallel import pack, split, unpack
from mlipfm_data.store.store import Store
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import DamagedFileError, LabelingError, LockedError
from mlipfm_interfaces.files import lock
from mlipfm_interfaces.frames import FrameLog
from mlipfm_interfaces.structure import Provenance, Structure

#: A labeller in a module that worker processes can import. Springs to the origin: E = sum r^2. Gold is a misdeed.
TOY = """
import os
from dataclasses import dataclass
import numpy as np
from mlipfm_interfaces.errors import LabelingError

@dataclass(frozen=True)
class Springs:
    misdeed: str = "refuse"
    level: str = "springs"

    def label(self, s):
        if 79 in s.atomic_numbers:
            if self.misdeed == "die":
                os._exit(1)
            if self.misdeed == "defect":
                raise ZeroDivisionError("half")
            raise LabelingError("does not converge", where=s.provenance.group)
        return s.replace(level=self.level, labels={"energy": (s.positions**2).sum(), "forces": -2 * s.positions})
"""

TBLITE_JOB = """
import sys
import numpy as np
from mlipfm_data.labeling import label_all
from mlipfm_data.tblite_labeler import TbliteLabeler
from mlipfm_interfaces.structure import Provenance, Structure

METHANOL = np.array([[-0.05, 0.66, 0], [-0.05, -0.76, 0], [-1.09, 0.97, 0], [0.88, -1.05, 0], [0.44, 1.08, 0.89], [0.44, 1.08, -0.89]])

def structures(n):
    rng = np.random.default_rng(11)
    for i in range(n):
        charge = None if i % 17 == 5 else 0
        positions = METHANOL + rng.normal(size=(6, 3)) * 0.05
        yield Structure([6, 8, 1, 1, 1, 1], positions, total_charge=charge, provenance=Provenance("toy", "methanol", i))

if __name__ == "__main__":
    label_all(list(structures(int(sys.argv[1]))), TbliteLabeler(), sys.argv[2], workers=int(sys.argv[3]), progress=False)
"""


@dataclass(frozen=True)
class Halves:
    """Stops after a number of labels, as an interrupt does. Runs in this process (threads)."""

    stop_after: int
    level: str = "springs"
    done = 0

    def label(self, s: Structure) -> Structure:
        Halves.done += 1
        if Halves.done > self.stop_after:
            raise KeyboardInterrupt
        return s.replace(level=self.level, labels={"energy": (s.positions**2).sum()})

    def __repr__(self) -> str:
        return "Halves"


@pytest.fixture
def springs(tmp_path, monkeypatch):
    (tmp_path / "toy_springs.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda misdeed="refuse": __import__("toy_springs").Springs(misdeed)
    sys.modules.pop("toy_springs", None)


def inputs(n: int, gold: tuple[int, ...] = ()) -> list[Structure]:
    rng = np.random.default_rng(3)
    numbers = [[79 if i in gold else 1, 8] for i in range(n)]
    return [
        Structure(z, rng.normal(size=(2, 3)), total_charge=0, provenance=Provenance("set", f"g{i}", 7 * i)) for i, z in enumerate(numbers)
    ]


def test_labels_come_in_the_order_of_the_input_with_its_provenance(springs, tmp_path):
    structures = inputs(40)
    report = label_all(structures, springs(), tmp_path / "out", executor=ThreadPoolExecutor(1))
    assert (report.total, report.labelled, report.refused) == (40, 40, ())
    store = Store(tmp_path / "out")
    assert store.complete
    for before, after in zip(structures, store, strict=True):
        assert after.provenance == before.provenance
        assert after.level == "springs"
        assert np.array_equal(after.labels["forces"], -2 * before.positions)
    assert [path.name for path in tmp_path.iterdir() if "labeling" in path.name] == []


def test_every_refused_structure_is_reported_with_its_reason_also_when_asked_again(springs, tmp_path):
    structures = inputs(30, gold=(4, 21))
    first = label_all(structures, springs(), tmp_path / "out", executor=ThreadPoolExecutor(1))
    again = label_all(structures, springs(), tmp_path / "out")
    for report in (first, again):
        assert (report.labelled, len(report.refused)) == (28, 2)
        assert dict(report.reasons) == {"labeling": 2}
        assert [(item.index, item.text) for item in report.refused] == [(4, "g4: does not converge"), (21, "g21: does not converge")]
    assert again.resumed == 28
    assert "30 structures = 28 labelled at springs, 28 of them from an earlier run + 2 refused" in again.lines()[0]
    assert "refused: 2 x labeling, first: structure 4: g4: does not converge" in again.lines()[1]
    assert len(json.loads((tmp_path / "out" / RECORD).read_text())["refused"]) == 2


def test_a_structure_that_kills_its_process_is_refused_and_the_others_are_labelled(springs, tmp_path):
    report = label_all(inputs(12, gold=(5,)), springs("die"), tmp_path / "out")
    assert (report.labelled, [item.index for item in report.refused]) == (11, [5])
    assert report.refused[0].text == "AuO: the process that labelled it died"


def test_a_defect_of_the_labeller_stops_the_work_and_names_the_structure(springs, tmp_path):
    with pytest.raises(LabelingError, match="structure 3: the labeller failed: ZeroDivisionError: half"):
        label_all(inputs(6, gold=(3,)), springs("defect"), tmp_path / "out", executor=ThreadPoolExecutor(1))


def test_an_interrupted_job_goes_on_where_it_stopped_and_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "MOST", 1)
    structures = inputs(20)
    Halves.done = 0
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(KeyboardInterrupt):
            label_all(structures, Halves(7), tmp_path / "broken", executor=pool)
        assert not (tmp_path / "broken").exists()
        Halves.done = -1000
        resumed = label_all(structures, Halves(7), tmp_path / "broken", executor=pool)
        label_all(structures, Halves(7), tmp_path / "whole", executor=pool)
    assert 0 < resumed.resumed <= 7
    assert same_bytes(tmp_path / "broken", tmp_path / "whole") == []


def test_a_label_damaged_on_disk_before_the_end_is_computed_again(springs, tmp_path, monkeypatch):
    """One flipped bit in the log of the unfinished work."""
    monkeypatch.setattr(parallel, "MOST", 1)  # one structure a task, so that some labels are there when the work stops
    structures = inputs(10)
    label_all(structures, springs(), tmp_path / "whole", executor=ThreadPoolExecutor(1))
    Halves.done = 0
    with pytest.raises(KeyboardInterrupt):
        label_all(structures, Halves(6), tmp_path / "out", executor=ThreadPoolExecutor(1))
    path = tmp_path / ".out.labeling" / "labels.log"
    log = FrameLog(path)
    place, n = log.places()[0], len(log)
    log.close()
    data = bytearray(path.read_bytes())
    data[place.offset + place.length // 2] ^= 4
    path.write_bytes(data)
    Halves.done = -1000
    report = label_all(structures, Halves(6), tmp_path / "out", executor=ThreadPoolExecutor(1))
    assert (report.resumed, report.labelled) == (n - 1, 10)
    energies = [float(s.labels["energy"]) for s in Store(tmp_path / "out")]
    assert energies == [float(s.labels["energy"]) for s in Store(tmp_path / "whole")]


def test_the_result_does_not_depend_on_the_number_of_processes(springs, tmp_path):
    structures = inputs(25, gold=(7,))
    label_all(structures, springs(), tmp_path / "processes", workers=2)
    label_all(structures, springs(), tmp_path / "thread", executor=ThreadPoolExecutor(1))
    assert same_bytes(tmp_path / "processes", tmp_path / "thread") == []


def test_another_job_in_the_same_folder_is_refused(springs, tmp_path):
    pool = ThreadPoolExecutor(1)
    label_all(inputs(3), springs(), tmp_path / "out", executor=pool)
    with pytest.raises(LabelingError, match="holds labels of another job: structures 3, now 4; choose another folder"):
        label_all(inputs(4), springs(), tmp_path / "out", executor=pool)
    with pytest.raises(LabelingError, match="holds labels of another job: the structures were different"):
        label_all(inputs(3, gold=(0,)), springs(), tmp_path / "out", executor=pool)
    with pytest.raises(LabelingError, match=r"holds labels of another job: labeler Springs\(misdeed='refuse'.*now Springs\(misdeed='die'"):
        label_all(inputs(3), springs("die"), tmp_path / "out", executor=pool)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("important")
    with pytest.raises(LabelingError, match="the folder is not empty; choose another folder"):
        label_all(inputs(3), springs(), tmp_path / "mine", executor=pool)


def test_an_unfinished_job_without_labels_does_not_block_another(tmp_path):
    """A typing mistake in the first try: nothing was labelled, so nothing is lost."""
    work = tmp_path / ".out.labeling"
    Halves.done = 0
    with pytest.raises(KeyboardInterrupt):
        label_all(inputs(3), Halves(0), tmp_path / "out", executor=ThreadPoolExecutor(1))
    assert work.exists()
    with lock(work / "lock"), FrameLog(work / "labels.log") as log:
        log.open_to_append()
        assert len(log) == 0
    Halves.done = -1000
    assert label_all(inputs(4), Halves(0), tmp_path / "out", executor=ThreadPoolExecutor(1)).labelled == 4


def test_two_processes_at_one_job_are_refused(springs, tmp_path):
    Halves.done = 0
    with pytest.raises(KeyboardInterrupt):
        label_all(inputs(9), Halves(3), tmp_path / "out", executor=ThreadPoolExecutor(1))
    with lock(tmp_path / ".out.labeling" / "lock"), pytest.raises(LockedError):
        label_all(inputs(9), Halves(3), tmp_path / "out", executor=ThreadPoolExecutor(1))


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TBLITE_JOB.replace('if __name__ == "__main__":', "if True:"))
    done = subprocess.run([sys.executable, str(script), "3", str(tmp_path / "out"), "1"], capture_output=True, text=True, timeout=100)
    assert done.returncode != 0
    assert "call label_all under `if __name__ == '__main__':`" in done.stderr


def test_structures_travel_between_processes_unchanged():
    cell = Structure([3], [[0, 0, 0.5]], np.eye(3) * 3, True, external_field=[0, 0, 0.1], level="x", labels={"energy": 1.5})
    packed = [*inputs(2), cell]
    for before, after in zip(packed, unpack(pack(packed)), strict=True):
        assert after.key == before.key
        assert after.provenance == before.provenance
        assert dict(after.labels) == dict(before.labels)
        assert np.array_equal(after.cell, before.cell)


def test_records_of_two_origins_in_one_log_are_those_that_were_encoded(tmp_path):
    """Each origin numbers its layouts itself; a damaged record is not taken in, nor what came with it."""
    cell = Structure([3], [[0, 0, 0.5]], np.eye(3) * 3, True, level="x", labels={"energy": 1.5}, provenance=Provenance("other", "g", 4))
    with FrameLog(tmp_path / "log") as log:
        for part in ([*inputs(2), cell], [cell, *inputs(1)]):
            log.append_records(*split(pack(part)))
        records, layouts = split(pack([cell, cell]))
        with pytest.raises(DamagedFileError, match="checksum"):
            log.append_records([records[0], records[1][:-1] + b"?"], layouts)
        expected = [*inputs(2), cell, cell, *inputs(1)]
        assert [s.key for s, _ in log] == [s.key for s in expected]
        assert [s.provenance for s, _ in log] == [s.provenance for s in expected]
    with FrameLog(tmp_path / "log") as again:
        again.open_to_append()
        assert (len(again), again.repaired) == (5, 0)


def test_the_command_counts_what_it_could_not_read_and_what_it_could_not_label(tmp_path, capsys):
    """One neutral molecule, one cation of impossible multiplicity, one that gives no charge."""
    pytest.importorskip("tblite", reason="the extra `tblite` is not installed")
    water = "O 0 0 0.12\nH 0 0.76 -0.48\nH 0 -0.76 -0.48\n"
    states = ("charge=0", "charge=1 spin=1", "")
    source, out = tmp_path / "in.xyz", tmp_path / "out"
    source.write_text("".join(f"3\nProperties=species:S:1:pos:R:3 {state}\n{water}" for state in states))
    line = ["data", "label", str(source), "--method", "GFN2-xTB", "--out", str(out), "--workers", "1"]
    for extra, status in ([], 2), (["--allow-refused"], 0):
        with pytest.raises(SystemExit) as exit_:
            main([*line, *extra])
        said = capsys.readouterr()
        assert exit_.value.code == status
        assert f"{source}: 3 structures = 2 read + 1 refused" in said.out
        assert f"{out}: 2 structures = 1 labelled at gfn2-xtb" in said.out
        assert said.err.count("\n") == (status == 2)
        assert ("1 of 3 structures could not be read, 1 not labelled" in said.err) == (status == 2)
    with pytest.raises(SystemExit):
        main([*line[:3], "--method", "GFN3-xTB", "--out", str(out)])
    assert "no labeler is named 'gfn3-xtb'; did you mean 'gfn" in capsys.readouterr().err


def test_labels_of_a_file_are_grouped_by_the_key_that_the_command_names(tmp_path, capsys):
    pytest.importorskip("tblite", reason="the extra `tblite` is not installed")
    atoms = "O 0 0 0.12\nH 0 0.76 -0.48\nH 0 -0.76 {z}\n"
    source, out = tmp_path / "in.xyz", tmp_path / "out"
    frames = [f"3\nProperties=species:S:1:pos:R:3 run={run}\n{atoms.format(z=-0.48 - 0.01 * k)}" for k, run in enumerate("aab")]
    source.write_text("".join(frames))
    line = ["--method", "GFN1-xTB", "--charge", "0", "--workers", "1", "--group-key", "run"]
    with pytest.raises(SystemExit) as exit_:
        main(["data", "label", str(source), *line, "--out", str(out)])
    assert not exit_.value.code
    with Store(out) as store:
        assert [s.provenance.group for s in store] == ["a", "a", "b"]
    with pytest.raises(SystemExit) as exit_:
        main(["data", "label", str(out), *line, "--out", str(tmp_path / "again")])
    assert exit_.value.code == 2
    assert "--group-key are for files" in capsys.readouterr().err


def check_kills(tmp_path: Path, structures: int, moments: int, workers: int) -> None:
    script = tmp_path / "job.py"
    script.write_text(TBLITE_JOB)
    line = [sys.executable, str(script), str(structures), str(tmp_path / "{run}"), str(workers)]
    outcomes = kill_at_random_moments(line, {"OMP_NUM_THREADS": "1"}, moments, seed=20)
    assert len(outcomes) == moments
    for outcome in outcomes:
        assert (outcome.status, outcome.stderr, outcome.orphans) == (0, "", ()), outcome
        assert same_bytes(tmp_path / "whole", tmp_path / outcome.run) == [], outcome
    assert len(Store(tmp_path / "whole")) == structures - len(range(5, structures, 17))


def test_labelling_killed_at_2_moments_gives_the_same_bytes(tmp_path):
    pytest.importorskip("tblite", reason="the extra `tblite` is not installed")
    check_kills(tmp_path, 60, 2, workers=1)


@pytest.mark.full
def test_labelling_killed_at_20_moments_gives_the_same_bytes(tmp_path):
    pytest.importorskip("tblite", reason="the extra `tblite` is not installed")
    check_kills(tmp_path, 400, 20, workers=2)
