"""The extended XYZ reader: equal to ASE's on what both read, exact in round trips, and precise about what is wrong and where."""

import bz2
import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from mlipfm_data.readers.extxyz import LONGEST_LINE, ExtxyzReader, export_extxyz, parse_comment, parse_properties, quote
from mlipfm_data.readers.registry import read, read_all
from mlipfm_data.readers.report import ReadReport
from mlipfm_interfaces.errors import UnreadableFileError
from mlipfm_interfaces.protocols import Format, Refusal
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.testing.contract_suites import ReaderContract
from mlipfm_interfaces.testing.data_rules import ReaderCase

GOOD = """3
Properties=species:S:1:pos:R:3:forces:R:3 energy=-14.25 pbc="F F F"
O 0.00000000 0.00000000 0.11926200 0.10000000 0.00000000 0.00000000
H 0.00000000 0.76323900 -0.4770470 0.00000000 0.20000000 0.00000000
H 0.00000000 -0.7632390 -0.4770470 0.00000000 0.00000000 0.30000000
"""


def write(tmp_path: Path, text: str, name: str = "water.xyz") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def everything(path: Path, **options) -> list[Structure | Refusal]:
    return list(read(path, **options))


def test_the_reader_is_a_reader():
    assert isinstance(ExtxyzReader(), Format)


def test_water_is_read_as_written(tmp_path):
    (water,) = read_all(write(tmp_path, GOOD))
    assert water.atomic_numbers.tolist() == [8, 1, 1]
    assert water.positions[1].tolist() == [0.0, 0.763239, -0.477047]
    assert float(water.labels["energy"]) == -14.25
    assert water.labels["forces"][2].tolist() == [0.0, 0.0, 0.3]
    assert not water.pbc.any()
    assert (water.total_charge, water.spin_multiplicity, water.level) == (None, None, None)
    assert water.provenance == Provenance(source="water.xyz", index=0)


def test_line_endings_of_windows_and_trailing_blank_lines_change_nothing(tmp_path):
    plain, crlf = read_all(write(tmp_path, GOOD)), read_all(write(tmp_path, GOOD.replace("\n", "\r\n") + "\r\n\r\n", "crlf.xyz"))
    assert plain[0].key == crlf[0].key
    assert len(crlf) == 1


def test_the_mark_that_some_editors_begin_a_file_with_is_skipped(tmp_path):
    (marked,) = read_all(write(tmp_path, "\ufeff" + GOOD))
    assert marked.key == read_all(write(tmp_path, GOOD))[0].key
    with pytest.raises(UnreadableFileError, match="the number of atoms of frame 1 was expected"):
        read_all(write(tmp_path, GOOD + "\ufeff" + GOOD))


@pytest.mark.parametrize(("end", "pack"), [("bz2", bz2.compress), ("xz", lzma.compress)])
def test_packed_files_are_read_by_their_name(end, pack, tmp_path):
    (tmp_path / f"w.xyz.{end}").write_bytes(pack(b"1\nenergy=-1.5\nHe 0 0 0\n"))
    (one,) = read_all(tmp_path / f"w.xyz.{end}", level="x")
    assert float(one.labels["energy"]) == -1.5


def test_exponents_of_fortran_are_numbers(tmp_path):
    (tmp_path / "f.xyz").write_text("1\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-1.5\nHe 1.5D+00 -2.0d-1 0 0 0 1D2\n")
    (one,) = read_all(tmp_path / "f.xyz", level="x")
    assert one.positions.tolist() == [[1.5, -0.2, 0.0]]
    assert one.labels["forces"].tolist() == [[0, 0, 100.0]]


def test_line_ends_of_old_macs_are_named(tmp_path):
    (tmp_path / "m.xyz").write_bytes(b"1\renergy=-1.5\rHe 0 0 0\r")
    with pytest.raises(UnreadableFileError, match="expected") as refused:
        read_all(tmp_path / "m.xyz", level="x")
    assert "old Macs" in str(refused.value.hint)


def test_gzipped_file_is_read_and_a_cut_one_is_refused(tmp_path):
    packed = gzip.compress((GOOD * 200).encode())
    whole, cut = tmp_path / "a.xyz.gz", tmp_path / "b.xyz.gz"
    whole.write_bytes(packed)
    cut.write_bytes(packed[: len(packed) // 2])
    assert len(read_all(whole)) == 200
    with pytest.raises(UnreadableFileError, match=r"b\.xyz\.gz: line \d+: the file breaks off"):
        everything(cut)


def test_lattice_vectors_are_rows_and_mean_periodicity(tmp_path):
    text = '1\nLattice="4 0 0 1 5 0 0 2 6" Properties=species:S:1:pos:R:3\nAr 0 0 0\n'
    (argon,) = read_all(write(tmp_path, text))
    assert argon.cell.tolist() == [[4, 0, 0], [1, 5, 0], [0, 2, 6]]
    assert argon.pbc.all()


def test_plain_xyz_with_a_free_comment_and_extra_columns_is_read(tmp_path):
    (hydrogen,) = read_all(write(tmp_path, "2\nstep 5, E = -1.1 'quote\nH 0 0 0 0.1\nH 0 0 0.74 0.1\n"))
    assert not hydrogen.labels
    assert len(hydrogen) == 2


def test_species_may_be_atomic_numbers(tmp_path):
    (water,) = read_all(write(tmp_path, "2\nProperties=Z:I:1:pos:R:3\n8 0 0 0\n1 0 0 0.96\n"))
    assert water.atomic_numbers.tolist() == [8, 1]


def test_every_cut_of_a_file_is_noticed_unless_it_falls_between_frames(tmp_path):
    """What the module's text promises, byte by byte."""
    text = GOOD * 2
    for end in range(1, len(text)):
        path = write(tmp_path, text[:end], "cut.xyz")
        if text[:end] in (GOOD, GOOD[:-1], text[:-1]) or (end > len(GOOD) and not text[len(GOOD) : end].strip()):
            continue
        try:
            frames = everything(path)
        except UnreadableFileError:
            continue
        assert any(isinstance(frame, Refusal) for frame in frames), f"silent at byte {end}: {text[:end][-40:]!r}"


def test_complete_file_without_a_last_newline_is_accepted(tmp_path):
    assert len(read_all(write(tmp_path, GOOD.rstrip("\n")))) == 1


def test_truncation_names_the_line_and_keeps_the_frames_before(tmp_path):
    path = write(tmp_path, GOOD + "\n".join(GOOD.splitlines()[:4]) + "\n")
    frames = read(path)
    assert isinstance(next(frames), Structure)
    with pytest.raises(UnreadableFileError, match=r"line 9: the file ends inside frame 1: 2 of 3 atoms"):
        next(frames)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("H 0.00000000 0.76323900", "Q 0.00000000 0.76323900", r"frame 0 \(line 1\), atom 1: no element is named 'Q'"),
        ("0.11926200", "nan", r"frame 0 \(line 1\), atom 0: position .* is not finite"),
        ("0.11926200", "inf", r"position .* is not finite"),
        ("0.11926200", "0.1l926200", r"atom 0: '0.1l926200' in column 'pos' is not a number"),
        (" 0.00000000 0.00000000 0.30000000", " 0.00000000", r"atom 2: 5 columns, 7 are needed"),
        ("energy=-14.25", "energy=nan", r"label 'energy' contains NaN"),
        ("energy=-14.25", "energy=unknown", r"the value of 'energy' is not numeric: 'unknown'"),
        ("0.30000000", "nan", r"label 'forces' contains NaN"),
        ("0.76323900 -0.4770470", "0.00000000 0.11926200", r"closer than 0.1"),
        ("energy=-14.25", "charge=0 spin=2", r"10 electrons, which multiplicity 2 cannot pair"),
        ("energy=-14.25", "charge=0.5", r"must be a whole number"),
        ("energy=-14.25", "energy=-1 energy=-2", r"gives 'energy' twice"),
        ('pbc="F F F"', 'pbc="T T T"', r"that lattice vector is zero"),
        ('pbc="F F F"', 'Lattice="5 0 0 0 5 0 5 5 0"', r"coplanar"),
        ('pbc="F F F"', 'Lattice="5 5 5"', r"`Lattice` has 3 numbers"),
        ("forces:R:3", "forces:R", r"`Properties` is malformed at 'forces:R'"),
        ("species:S:1:pos", "kind:S:1:pos", r"no species column"),
    ],
)
def test_bad_frame_is_refused_with_its_place_and_the_next_one_is_read(tmp_path, old, new, message):
    bad, good = everything(write(tmp_path, GOOD.replace(old, new, 1) + GOOD))
    assert isinstance(bad, Refusal)
    assert bad.index == 0
    assert isinstance(good, Structure)
    with pytest.raises(type(bad.error), match=message):
        raise bad.error


def test_wrong_number_of_atom_lines_is_an_error_of_the_file(tmp_path):
    with pytest.raises(UnreadableFileError, match=r"line 6: the number of atoms of frame 1 was expected, got 'H 0 0 1'"):
        everything(write(tmp_path, GOOD + "H 0 0 1\n" + GOOD))


def test_binary_endless_and_empty_files_are_refused(tmp_path):
    with pytest.raises(UnreadableFileError, match=r"bytes that are no UTF-8"):
        everything(write(tmp_path, "", "x.xyz").with_name("x.xyz").parent / _binary(tmp_path))
    with pytest.raises(UnreadableFileError, match=r"longer than"):
        everything(write(tmp_path, "9" * (LONGEST_LINE + 10), "endless.xyz"))
    with pytest.raises(UnreadableFileError, match=r"holds no frame"):
        everything(write(tmp_path, "\n", "empty.xyz"))


def _binary(tmp_path: Path) -> str:
    (tmp_path / "binary.xyz").write_bytes(b"3\n\xff\xfe\x00\x01\n")
    return "binary.xyz"


def test_memory_is_that_of_a_frame(tmp_path):
    import tracemalloc

    path = write(tmp_path, GOOD * 500)
    next(read(path))  # imports are not counted
    tracemalloc.start()
    count = sum(1 for _ in read(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 500
    assert peak < path.stat().st_size  # 125 kB of text; one frame needs about 20 kB


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,7}", fullmatch=True), st.text(alphabet="ab \"\\\n'={}[],1.5", max_size=12), max_size=4
    )
)
def test_any_comment_that_we_write_is_read_back(values):
    line = " ".join(f"{key}={quote(value)}" for key, value in values.items())
    assert parse_comment(line) == values


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text):
    try:
        parse_comment(text)
    except UnreadableFileError as error:
        assert "comment line" in str(error)  # noqa: PT017  both outcomes are right


def test_comment_grammar_of_the_specification():
    values = parse_comment("""Lattice="1 0 0" a = 5 b='x y' c={1 2} d=[[1,2],[3,4]] bare j="_JSON [\\"q\\"]" smiles=C[NH2+]C """)
    assert values == {
        "Lattice": "1 0 0",
        "a": "5",
        "b": "x y",
        "c": "1 2",
        "d": "[[1,2],[3,4]]",
        "bare": "T",
        "j": '_JSON ["q"]',
        "smiles": "C[NH2+]C",
    }


def test_properties_count_columns():
    assert [(c.name, c.first, c.width) for c in parse_properties("species:S:1:pos:R:3:Z:I:1")] == [
        ("species", 0, 1),
        ("pos", 1, 3),
        ("Z", 4, 1),
    ]


def same(a: Structure, b: Structure) -> bool:
    arrays = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("atomic_numbers", "positions", "cell", "pbc"))
    state = all(getattr(a, name) == getattr(b, name) for name in ("total_charge", "spin_multiplicity", "level", "provenance"))
    fields = (a.external_field is None) == (b.external_field is None) and (
        a.external_field is None or np.array_equal(a.external_field, b.external_field)
    )
    labels = all(
        x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x) for x, y in ((a.labels, b.labels), (a.label_std, b.label_std))
    )
    return arrays and state and fields and labels


def full_structure(rng: np.random.Generator, n: int) -> Structure:
    """Every layout of label there is, deviations, field and provenance."""
    positions = rng.normal(size=(n, 3)) + 3 * np.arange(n)[:, None]
    labels = {
        "energy": rng.normal(), "forces": rng.normal(size=(n, 3)), "stress": rng.normal(size=(3, 3)), "dipole": rng.normal(size=3),
        "charges": rng.normal(size=n), "magnetic_moments": rng.normal(size=n), "born_charges": rng.normal(size=(n, 3, 3)),
        "polarizability": rng.normal(size=(3, 3)), "hessian_rows": rng.normal(size=(2, n, 3)), "hessian_rows_index": [[0, 0], [n - 1, 2]],
        "hvp": rng.normal(size=(1, n, 3)), "hvp_probe": rng.normal(size=(1, n, 3)), "weight": rng.random(),
        "forces_weight": rng.random(n), "fixed": rng.integers(2, size=n),
    }  # fmt: skip
    return Structure(
        rng.choice([1, 6, 8], n), positions, 50 * np.eye(3) + rng.normal(size=(3, 3)), True, 1, None, [0, 0, 0.1], "wb97m-d3bj/def2-tzvppd", labels,
        {"energy": 0.1, "forces": np.ones((n, 3))}, Provenance('a "quoted" name', "C#N", 7, "conformer", "CC-BY-4.0"),
    )  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 5])
def test_export_and_import_give_equal_structures(tmp_path, n):
    rng = np.random.default_rng(n)
    structures = [full_structure(rng, n), Structure([1] * n, 2.0 * np.arange(3 * n).reshape(n, 3))]
    assert export_extxyz(structures, tmp_path / "out.xyz") == 2
    back = read_all(tmp_path / "out.xyz")
    assert all(same(a, b) for a, b in zip(structures, back, strict=True))
    assert back[0].key == structures[0].key


def test_a_failed_export_leaves_the_old_file(tmp_path):
    path = write(tmp_path, GOOD)

    def broken():
        yield Structure([1], [[0, 0, 0]])
        raise RuntimeError("source failed")

    with pytest.raises(RuntimeError, match="source failed"):
        export_extxyz(broken(), path)
    assert path.read_text() == GOOD
    assert list(tmp_path.iterdir()) == [path]


def good_frames(path: Path, n: int) -> None:
    path.write_text("".join(GOOD.replace("0.11926200", f"0.119{k:05d}") for k in range(n)))


def damaged_frames(path: Path) -> tuple[int, tuple[int, ...]]:
    path.write_text(GOOD + GOOD.replace("0.76323900", "here") + GOOD.replace("O ", "Qq ") + GOOD)
    return 4, (1, 2)


def unknown_column(path: Path) -> str:
    path.write_text(GOOD.replace("forces:R:3", "velocities:R:3"))
    return "velocities"


@pytest.mark.ci  # memory is traced
class TestExtxyz(ReaderContract):
    def reader_case(self) -> ReaderCase:
        return ReaderCase(ExtxyzReader(), read, good_frames, damaged_frames, unknown_column, ReadReport)
