"""`mlipfm data import`: many files by a manifest, resumed and counted, and what an import says when a file comes again with other options."""

import json

import pytest
from mlipfm_data.datasets.import_many import RECORD, import_sets
from mlipfm_data.datasets.manifest import FileDescription, SetDescription, read_manifest
from mlipfm_data.importing import import_file
from mlipfm_data.store.store import Store
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import MlipfmError, RefusedFileError, UnreadableFileError


def water(z: float, energy: float = -14.25) -> str:
    atoms = f"O 0.0 0.0 0.119262\nH 0.0 0.763239 -0.477047\nH 0.0 -0.763239 {z:.6f}\n"
    return f'3\nProperties=species:S:1:pos:R:3 energy={energy} pbc="F F F"\n{atoms}'


MANIFEST = """
[[sets]]
name = "ice"
licence = "MIT"
[[sets.files]]
path = "*.xyz"
reader = "extxyz"
level = "pbe"
group = "{name} {stem}"

[[sets]]
name = "steam"
licence = "cc0-1.0"
[[sets.files]]
path = "a.xyz"
level = "GFN2-xTB"
[[sets.files]]
path = "b.xyz|c.xyz"
require = []

[[sets]]
name = "spectra"
left_out = "no structures"
"""


@pytest.fixture
def manifest(tmp_path):
    """A manifest of three sets: two of different levels, one without structures."""
    folder = tmp_path / "sets"
    (folder / "ice").mkdir(parents=True)
    (folder / "ice" / "one.xyz").write_text(water(-0.47) + water(-0.48) + water(float("nan")))
    (folder / "ice" / "two.xyz").write_text(water(-0.47))
    (folder / "steam").mkdir()
    (folder / "steam" / "a.xyz").write_text(water(-0.47, -15.0))
    (folder / "steam" / "c.xyz").write_text("this is no xyz file\n")
    (folder / "sets.toml").write_text(MANIFEST)
    return folder / "sets.toml"


def imported(manifest, store, only=()):
    return import_sets([one for one in read_manifest(manifest) if not only or one.name in only], manifest.parent, store)


def run(arguments: list[str], capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_every_set_has_one_row_and_the_counts_add_up(manifest, tmp_path, capsys):
    status, out, err = run(["data", "import", "--manifest", manifest, "-o", tmp_path / "store"], capsys)
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in out.partition("\n\n")[0].splitlines() if not line.startswith(" ")}
    assert rows["ice"][:4] == ["4", "2", "1", "1"]  # frames, stored, there, refused
    assert rows["steam"][:4] == ["2", "1", "0", "1"]
    assert "not imported: no structures" in out
    assert "refused: 1 x unreadable-file" in out
    assert "2 of 3 sets, 6 frames = 3 stored + 1 already there + 2 refused" in out
    assert "gfn2-xtb" in out
    with Store(tmp_path / "store") as store:
        assert {(s.level, s.provenance.group, s.provenance.source, s.provenance.licence) for s in store} == {
            ("pbe", "ice one", "ice/one.xyz", "MIT"),
            ("gfn2-xtb", None, "steam/a.xyz", "CC0-1.0"),
        }
        assert not store.verify()


def test_rows_as_json_and_only_some_sets(manifest, tmp_path, capsys):
    status, out, _ = run(["data", "import", "--manifest", manifest, "-o", tmp_path / "store", "--only", "steam", "--json"], capsys)
    (row,) = json.loads(out)["sets"]
    assert status == 0
    assert (row["name"], row["frames"], row["stored"], row["levels"], row["refused"]) == (
        "steam",
        2,
        1,
        {"gfn2-xtb": 1},
        {"unreadable-file": 1},
    )
    status, _, err = run(["data", "import", "--manifest", manifest, "-o", tmp_path / "store", "--only", "rain"], capsys)
    assert status == 2
    assert "has no set named rain" in err
    assert "it has ice, steam, spectra" in err


def test_table_of_overlap_counts_what_two_sets_share_at_the_same_and_at_other_levels(manifest, tmp_path, capsys):
    """Ice has a structure of steam at another level. Fog, which comes first, has one of ice, a moved copy of it, and a geometry of its own."""
    fog = '[[sets]]\nname = "fog"\n[[sets.files]]\npath = "*.xyz"\nlevel = "pbe"\n'
    manifest.write_text(fog + MANIFEST)
    sets = manifest.parent
    (sets / "fog").mkdir()
    moved = water(-0.48).replace(" 0.0 ", " 7.0 ")
    (sets / "fog" / "a.xyz").write_text(water(-0.48) + moved + water(-0.7))
    status, out, err = run(["data", "import", "--manifest", manifest, "-o", tmp_path / "store"], capsys)
    assert (status, err) == (0, "")
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in out.partition("overlap between sets")[2].splitlines()[1:] if "%" in line}
    assert rows["ice", "fog"] == ["2", "1", "0", "1", "0", "100.0%"]  # the other of ice is within the noise of the first
    assert rows["ice", "steam"] == ["2", "0", "1", "0", "1", "100.0%"]
    assert "compared: equal coordinates among all 5 structures of 3 sets" in out
    assert "among the 6 geometries of the 1 compositions that several sets have" in out


def test_overlap_can_be_exact_or_left_out_and_both_are_said(manifest, tmp_path, capsys):
    _, out, _ = run(["data", "import", "--manifest", manifest, "-o", tmp_path / "store", "--overlap", "exact"], capsys)
    assert "not compared: moved, reordered or noisy copies (--overlap near)" in out
    _, out, _ = run(["data", "import", "--manifest", manifest, "-o", tmp_path / "store", "--overlap", "none"], capsys)
    assert "overlap between sets: not compared" in out
    _, out, _ = run(["data", "import", "--manifest", manifest, "-o", tmp_path / "store", "--overlap", "none", "--json"], capsys)
    assert json.loads(out)["overlap"] is None
    _, out, _ = run(["data", "import", "--manifest", manifest, "-o", tmp_path / "store", "--json"], capsys)
    both = {(one["first"], one["second"], one["of"], one["identical_other_level"]) for one in json.loads(out)["overlap"]["overlaps"]}
    assert both == {("ice", "steam", 2, 1), ("steam", "ice", 1, 1)}


def test_stores_of_earlier_versions_say_what_they_did_not_record(manifest, tmp_path, capsys):
    run(["data", "import", "--manifest", manifest, "-o", tmp_path / "store"], capsys)
    rows = json.loads((tmp_path / "store" / RECORD).read_text())
    assert rows["ice"].pop("there") == []  # the frame that is there twice is its own
    (tmp_path / "store" / RECORD).write_text(json.dumps(rows))
    _, out, _ = run(["data", "import", "--manifest", manifest, "-o", tmp_path / "store"], capsys)
    assert "not counted: which sets had brought the 1 structures of ice that were there already" in out


def test_import_goes_on_where_it_stopped(manifest, tmp_path, monkeypatch):
    """Interrupted in the middle of a set: what is there counts as stored when it is run again, and is there once."""
    from mlipfm_data.store.writer import StoreWriter

    whole = [vars(row) for row in imported(manifest, tmp_path / "whole")]
    add, left = StoreWriter.add, [3]

    def interrupted(self, structure):
        left[0] -= not self.path.parent.name.startswith(".")
        if left[0] == 0:
            raise KeyboardInterrupt
        return add(self, structure)

    monkeypatch.setattr(StoreWriter, "add", interrupted)
    for stored in (2, 1):
        left[0] = stored
        with pytest.raises(KeyboardInterrupt):
            imported(manifest, tmp_path / "store")
    monkeypatch.setattr(StoreWriter, "add", add)
    rows = [vars(row) for row in imported(manifest, tmp_path / "store")]
    assert rows == whole
    again = [dict(row, stored=0, duplicates=row["stored"] + row["duplicates"], before=row["files"] > 0) for row in whole]
    assert [vars(row) for row in imported(manifest, tmp_path / "store")] == again
    with Store(tmp_path / "store") as store, Store(tmp_path / "whole") as other:
        assert [store.key(i) for i in range(len(store))] == [other.key(i) for i in range(len(other))]
    assert sorted(path.name for path in tmp_path.iterdir() if "sets" in path.name) == ["sets"]


def test_what_an_earlier_run_imported_is_already_there_and_the_rest_is_new(manifest, tmp_path, capsys):
    run(["data", "import", "--manifest", manifest, "-o", tmp_path / "store", "--only", "ice", "--overlap", "none"], capsys)
    _, out, _ = run(["data", "import", "--manifest", manifest, "-o", tmp_path / "store", "--overlap", "none"], capsys)
    rows = {line.split()[0]: line.split()[1:] for line in out.partition("\n\n")[0].splitlines() if not line.startswith(" ")}
    assert rows["ice"][:4] == ["4", "0", "3", "1"]  # frames, stored, there, refused
    assert rows["steam"][:4] == ["2", "1", "0", "1"]
    assert "6 frames = 1 stored + 3 already there + 2 refused\n  1 sets were imported before, 1 sets with 1 structures are new" in out
    before = json.loads((tmp_path / "store" / RECORD).read_text())
    for _ in range(2):
        _, out, _ = run(["data", "import", "--manifest", manifest, "-o", tmp_path / "store", "--overlap", "none"], capsys)
        assert "6 frames = 0 stored + 4 already there + 2 refused\n  2 sets were imported before, nothing is new" in out
    assert json.loads((tmp_path / "store" / RECORD).read_text()) == before
    assert (before["ice"]["row"]["stored"], before["ice"]["row"]["before"]) == (2, False)  # the record keeps what the first run did
    with Store(tmp_path / "store") as store:
        assert len(store) == 3


def test_changed_set_is_not_added_to_a_store_that_holds_it(manifest, tmp_path):
    imported(manifest, tmp_path / "store")
    (manifest.parent / "ice" / "two.xyz").write_text(water(-0.47) + water(-0.5))
    with pytest.raises(RefusedFileError, match="holds the set ice from other files"):
        imported(manifest, tmp_path / "store")
    (tmp_path / "store" / RECORD).write_text("no json")
    with pytest.raises(UnreadableFileError, match="no JSON"):
        imported(manifest, tmp_path / "store")


@pytest.mark.ci
def test_two_processes_give_the_same_store(manifest, tmp_path):
    sets = read_manifest(manifest)
    one = import_sets(sets, manifest.parent, tmp_path / "one")
    two = import_sets(sets, manifest.parent, tmp_path / "two", workers=2)
    assert one == two
    with Store(tmp_path / "one") as a, Store(tmp_path / "two") as b:
        assert [a.key(i) for i in range(len(a))] == [b.key(i) for i in range(len(b))]


def test_a_manifest_in_json_says_the_same(manifest):
    import tomllib

    other = manifest.with_suffix(".json")
    other.write_text(json.dumps(tomllib.loads(MANIFEST)))
    assert read_manifest(other) == read_manifest(manifest)
    assert read_manifest(manifest)[1] == SetDescription(
        "steam", (FileDescription("a.xyz", level="gfn2-xtb"), FileDescription("b.xyz|c.xyz", require=())), "CC0-1.0"
    )


FILES = 'name = "a"\n[[sets.files]]\npath = "x.xyz"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "is not TOML"),
        ("", "one key, `sets`"),
        ('sets = []\nother = 1', "one key, `sets`"),
        ('[[sets]]\nname = "a"', "neither files nor a reason"),
        ('[[sets]]\nnane = "a"', "set 1: unknown keys: nane; known are name, files, licence"),
        ('[[sets]]\nlicence = "MIT"', "set 1: has no `name`"),
        ('[[sets]]\nname = 1', "`name` must be a text"),
        ('[[sets]]\nname = "a/b"\nleft_out = "all"', "is no name of a set"),
        ('[[sets]]\nname = "a"\nleft_out = "all"\n' * 2, "several sets are named a"),
        (f'[[sets]]\nlicence = "my own"\n{FILES}', "`licence` must be an SPDX expression"),
        (f'[[sets]]\n{FILES}readers = "npz"', "set 1, files 1: unknown keys: readers"),
        (f'[[sets]]\n{FILES}reader = "nxz"', "files 1: .*nxz"),
        (f'[[sets]]\n{FILES}reader = "npz"\noptions = {{ energy_units = "eV" }}', "files 1: .*energy_units"),
        (f'[[sets]]\n{FILES}options = {{ energy_unit = "calories" }}', "files 1: unit 'calories' is not known"),
        (f'[[sets]]\n{FILES}require = ["enthalpy"]', "files 1: .*enthalpy"),
        (f'[[sets]]\n{FILES}require = "energy"', "`require` must be a list of names"),
    ],
)  # fmt: skip
def test_manifests_that_say_something_impossible_are_refused_with_the_place(tmp_path, text, words):
    (tmp_path / "sets.toml").write_text(text)
    with pytest.raises(MlipfmError, match=words):
        read_manifest(tmp_path / "sets.toml")


def test_options_of_single_files_and_of_manifests_do_not_mix(manifest, tmp_path, capsys):
    base = ["data", "import", "-o", tmp_path / "store"]
    for extra, words in (
        (["--manifest", manifest, "--level", "pbe"], "with --manifest the file gives level"),
        (["--manifest", manifest, tmp_path / "a.xyz"], "with --manifest the file gives files"),
        ([tmp_path / "a.xyz", "--jobs", "2"], "are for --manifest"),
        ([], "no file is given"),
    ):
        status, _, err = run([*base, *extra], capsys)
        assert (status, words in err) == (2, True), err


def test_a_set_without_files_is_named_before_anything_is_read(manifest, tmp_path):
    (manifest.parent / "steam").rename(manifest.parent / "fog")
    with pytest.raises(UnreadableFileError, match=r"the set steam has no file a\.xyz, b\.xyz\|c\.xyz here"):
        imported(manifest, tmp_path / "store")
    assert not (tmp_path / "store").exists()


# One file at a time


def test_same_file_with_other_options_is_refused_and_names_them(tmp_path, capsys):
    (tmp_path / "a.xyz").write_text(water(-0.47) + water(-0.48))
    base = ["data", "import", tmp_path / "a.xyz", "-o", tmp_path / "store"]
    assert run([*base, "--level", "pbe"], capsys)[0] == 0
    status, _, err = run([*base, "--level", "scan"], capsys)
    assert status == 2
    assert "in the store already, imported with level 'pbe', now 'scan'" in err
    status, _, err = run([*base, "--level", "pbe", "--group-key", "energy"], capsys)
    assert "imported with group_key None, now 'energy'" in err
    status, out, _ = run([*base, "--level", "pbe"], capsys)
    assert status == 0
    assert "0 stored + 2 already there" in out


def test_a_longer_file_with_other_options_warns_of_what_is_kept_and_what_is_doubled(tmp_path, capsys):
    """Another file by its content: its old frames keep their groups, or are stored again at another level. Nothing of it is silent."""
    path, base = tmp_path / "a.xyz", ["data", "import", tmp_path / "a.xyz", "-o", tmp_path / "store"]
    tagged = [water(z).replace("pbc=", "run=hot pbc=") for z in (-0.47, -0.48, -0.49, -0.5)]
    path.write_text("".join(tagged[:2]))
    assert "warning" not in run([*base, "--level", "pbe"], capsys)[1]
    path.write_text("".join(tagged[:3]))
    _, out, _ = run([*base, "--level", "pbe", "--group-key", "run"], capsys)
    assert "1 stored + 2 already there" in out
    assert "warning: 2 frames are there already with another group (first: None, now 'hot'); the store keeps what it has" in out
    path.write_text("".join(tagged))
    _, out, _ = run([*base, "--level", "scan"], capsys)
    assert "4 stored + 0 already there" in out
    assert "warning: 3 frames were there at level pbe and are now stored at scan too" in out


def test_frames_that_come_again_with_other_values_or_more_labels_are_warned_of(tmp_path):
    (tmp_path / "a.xyz").write_text(water(-0.47) + water(-0.48))
    import_file(tmp_path / "a.xyz", tmp_path / "store", level="pbe")
    forces = water(-0.48).replace("pos:R:3", "pos:R:3:forces:R:3").replace("0.119262\n", "0.119262 0 0 1\n")
    forces = forces.replace("-0.477047\n", "-0.477047 0 0 -0.5\n").replace("-0.480000\n", "-0.480000 0 0 -0.5\n")
    (tmp_path / "b.xyz").write_text(water(-0.47, -15.0) + forces)
    report = import_file(tmp_path / "b.xyz", tmp_path / "store", level="pbe")
    assert report.duplicates == 2
    assert report.differences.kept == {"energy": 1, "forces": 1}
    assert report.differences.first["energy"] == (-14.25, -15.0)
    assert "another energy (first: -14.25, now -15.0)" in "\n".join(report.lines())
    assert not import_file(tmp_path / "a.xyz", tmp_path / "store", level="pbe").differences.kept


def test_frames_rounded_by_float32_are_the_same_frames(tmp_path):
    from mlipfm_data.importing import Importer

    (tmp_path / "a.xyz").write_text(water(-0.47, -14.123456789))
    with Importer(tmp_path / "store", single=True) as importer:
        importer.add(tmp_path / "a.xyz", level="pbe")
    with Importer(tmp_path / "store", single=True) as importer:
        report = importer.add(tmp_path / "a.xyz", level="pbe")
    assert (report.duplicates, report.differences.lines()) == (1, [])


def test_labels_without_a_level_are_warned_of(tmp_path, capsys):
    (tmp_path / "a.xyz").write_text(water(-0.47))
    _, out, _ = run(["data", "import", tmp_path / "a.xyz", "-o", tmp_path / "store"], capsys)
    assert "warning: 1 frames have labels and have no level of theory" in out
    _, out, _ = run(["data", "import", tmp_path / "a.xyz", "-o", tmp_path / "other", "--level", "pbe"], capsys)
    assert "warning" not in out


def test_labels_that_one_file_lacks_are_no_contradiction(tmp_path):
    """The same calculation twice, once without forces: already there. With another energy: refused."""
    text = water(-0.47).replace("pos:R:3", "pos:R:3:forces:R:3").replace("0.119262\n", "0.119262 0 0 1\n")
    text = text.replace("-0.477047\n", "-0.477047 0 0 -0.5\n").replace("-0.470000\n", "-0.470000 0 0 -0.5\n")
    (tmp_path / "a.xyz").write_text(text + water(-0.47) + water(-0.47, -15.0))
    report = import_file(tmp_path / "a.xyz", tmp_path / "store", level="pbe")
    assert (report.stored, report.duplicates, report.refused.total()) == (1, 1, 1)


def test_options_of_readers_come_from_the_command_line(tmp_path, capsys):
    (tmp_path / "run-pos-1.xyz").write_text("2\n i = 0, time = 0.0, E = -1.0\nH 0 0 0\nH 0 0 0.74\n")
    base = ["data", "import", tmp_path / "run-pos-1.xyz", "-o", tmp_path / "store", "--level", "pbe"]
    status, _, err = run(base, capsys)
    assert status == 2
    assert "no file gives the cell" in err
    assert run([*base, "--option", "cell=none"], capsys)[0] == 0
    assert "--option needs KEY=VALUE" in run([*base, "--option", "cell"], capsys)[2]


def test_missing_store_names_the_command_that_makes_one(tmp_path, capsys):
    status, _, err = run(["data", "show", tmp_path], capsys)
    assert status == 2
    assert "mlipfm data import" in err
