"""What the readers are tested on: real files, or files that a library wrote in the published layout.

A claim on a real file is checked by reading the file; a claim on a written file by looking at the test that writes it.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlipfm_data.datasets.catalogue import catalogue
from mlipfm_interfaces import plugins

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Real:
    """A layout that is read from a real file: of the set `known`, the files that fit `glob`, from the repository `origin`."""

    reader: str
    layout: str
    known: str
    glob: str
    origin: str


@dataclass(frozen=True)
class Written:
    """A layout that a test writes with `library`; `word` is in the source of the test or names the function that writes."""

    reader: str
    layout: str
    library: str
    test: str
    word: str


MATPES = "test_nothing_is_lost.py::test_stress_of_matpes_is_kbar_with_the_sign_of_vasp_in_the_order_of_voigt"

MODELFORGE, EGRAFF, MISC = "choderalab/modelforge", "M3RG-IITD/MDBENCHGNN", "fixtures_misc"
CLAIMS = (
    Real("hdf5", "ANI-1", MISC, "ani_gdb_s01.h5", "Teoroo-CMC/PiNN"),
    Real("hdf5", "COMP6", "ani_comp6_s66x8", "*.h5", "isayev/COMP6"),
    Real("hdf5", "ANI-1x", "fixtures_spice_ani_qm9", "ani1_n5.hdf5", MODELFORGE),
    Real("hdf5", "ANI-2x", "fixtures_spice_ani_qm9", "ani2x_minimal.hdf5", MODELFORGE),
    Real("hdf5", "SPICE", "fixtures_spice_ani_qm9", "SPICE-1.1.4_n2.hdf5", MODELFORGE),
    Real("hdf5", "SPICE inputs", "unlabelled_spice_geometries", "ions.hdf5", "openmm/spice-dataset"),
    Written("hdf5", "Transition1x", "h5py", "test_hdf5_reader.py::test_geometry_and_energy_are_read_in_angstrom_and_electronvolt", "transition1x"),
    Written("hdf5", "QM7-X", "h5py", "test_hdf5_reader.py::test_geometry_and_energy_are_read_in_angstrom_and_electronvolt", "qm7x"),
    Real("hdf5", "AIMNet2", "fixtures_aimnet2", "dataset.h5", "isayevlab/aimnetcentral"),
    Real("hdf5", "modelforge QM9", "fixtures_spice_ani_qm9", "qm9_dataset_v1.1_ntc_10.hdf5", MODELFORGE),
    Real("hdf5", "mlip", MISC, "spice2-1000_429_md_0-1.hdf5", "instadeepai/mlip"),
    Written("npz", "rMD17", "numpy", "test_array_readers.py::test_every_layout_gives_the_same_molecule_in_angstrom_and_electronvolt", "rmd17"),
    Real("npz", "PhysNet", "h2coo_caspt2", "*.npz", "MMunibas/H2COO-PhysNet"),
    Real("npz", "sGDML", "ethanol_ccsdt", "*.npz", "learningmatter-mit/NeuralForceField"),
    Real("npz", "NequIP", "md17", "ethanol_train_nequip.npz", EGRAFF),
    Written("json", "mptrj", "Python", "test_native_readers.py::test_mptrj_is_a_dictionary_of_dictionaries", "uncorrected_total_energy"),
    Written("json", "matpes", "Python", MATPES, "matpes_id"),
    Real("json", "snap", "li3n", "*.json", "materialsvirtuallab/snap"),
    Written("json", "computed-entry", "Python", "test_native_readers.py::test_computed_entries_of_alexandria", "entry"),
    Real("json", "properties", "ref_elastic_wbm", "wbm-random-*.json.gz", "materialsvirtuallab/matcalc"),
    Real("json", "pymatgen", MISC, "omat/test_calc_compounds_mp.json", "facebookresearch/fairchem"),
    Real("json", "jarvis", "mlearn", "Cu_all_alignn_id_prop.json", "usnistgov/alignn"),
    Real("json", "fitsnap-bar", "fitsnap_ta_inp_wbe", "WBe/**/*.json", "FitSNAP/FitSNAP"),
    Written("json", "fitsnap-kB", "Python", "test_native_readers.py::test_fitsnap_says_the_unit_of_its_stress", "kB"),
    Written("json", "fitsnap-kbar", "Python", "test_native_readers.py::test_fitsnap_says_the_unit_of_its_stress", "kbar"),
    Written("json", "fitsnap-GPa", "Python", "test_native_readers.py::test_fitsnap_says_the_unit_of_its_stress", "GPa"),
    Real("json", "dimers", "ref_diatomics", "*.json.gz", "janosh/matbench-discovery"),
    Written("json", "ase", "ase", "test_native_readers.py::test_rows_of_a_table_and_of_an_ase_database", "database.write"),
    Real("ase", "traj", "oc20_trajectories", "random1000117.traj", "Open-Catalyst-Project/ocp"),
    Real("ase-db", "ase sqlite", "oxide_polymorphs", "*.db", "FAIR-Chem/fairchem"),
    Written("aselmdb", "aselmdb", "lmdb", "test_lmdb_readers.py::test_row_of_aselmdb_carries_labels_charge_and_spin", "write_rows"),
    Real("pickled-lmdb", "Open Catalyst", "fixtures_ocp_lmdb", "*.lmdb", EGRAFF),
    Written("pickled-lmdb", "Uni-Mol", "lmdb", "test_lmdb_readers.py::test_conformers_of_unimol_are_frames_of_one_group", "write_lmdb"),
    Real("extxyz", "extxyz", "3bpa", "train_300K.xyz", "davkovacs/BOTNet-datasets"),
    Real("deepmd", "deepmd npy", "water_dpmd", "data_0", "deepmodeling/deepmd-kit"),
    Real("pwdata", "pwdata", "hfo2_pwdata", "init_*", "LonxunQuantum/PWMLFF"),
    Real("nabladft", "energies", "nabladft_sample", "test_database.db", "AIRI-Institute/nablaDFT"),
    Written("nabladft", "Hamiltonians", "Python", "test_molecular_databases.py::test_hamiltonian_database_in_atomic_units", "sqlite3"),
    Real("transition1x-json", "CCSD-Transition1x", "transition1x_ccsd", "ccsd_tz_rxn0103.json", "benediktpabinger/CCSD-Transition1x"),
    Real("gmtkn55", "gmtkn55", "gmtkn55_dev", "W4-11", "grimme-lab/GMTKN55"),
    Real("qm9-csv", "qm9pack", "unlabelled_qm9", "qm9_10k.csv.gz", "qm9pack 1.0.3"),
    Real("vasp-xml", "vasprun.xml", MISC, "dpdata_vasprun.h2o.md.xml", "deepmodeling/dpdata"),
    Real("cp2k", "cp2k xyz", MISC, "dpdata_cp2k_aimd/DPGEN-pos-1.xyz", "deepmodeling/dpdata"),
    Real("sdf", "sdf", "prop_molecules", "gdb1k.sdf", "deepchem/deepchem"),
    Real("cxsmiles", "cxsmiles", "prop_molecules", "pcqm4mv2-2k.csv", "datamol-io/graphium"),
    Real("cif-csv", "cif-csv", "prop_perov5", "*.csv", "txie-93/cdvae"),
    Real("phonopy", "params by frame", "ref_phonon_forces", "phonopy_params_NaCl-rd.yaml.xz", "phonopy/phonopy"),
    Real("phonopy", "FORCE_SETS", "ref_phonon_forces", "TiO2-anatase/phonopy_disp.yaml", "phonopy/phonopy"),
    Written("phonopy", "params by atom", "Python", "test_phonopy_reader.py::test_every_way_of_writing_gives_the_same_frames", "by_atom"),
    Written("phonopy", "dataset", "Python", "test_phonopy_reader.py::test_every_way_of_writing_gives_the_same_frames", "dataset"),
    Written("gems", "GEMS", "Python", "test_molecular_databases.py::test_gems_rows_are_molecules_with_charge_and_multiplicity", "gems"),
    Real("refdata", "refdata", "refdata_nci", "10_din/a24.din", "aoterodelaroza/refdata"),
)  # fmt: skip
REALS = [claim for claim in CLAIMS if isinstance(claim, Real)]
WRITTENS = [claim for claim in CLAIMS if isinstance(claim, Written)]


def named(claim: Real | Written) -> str:
    return f"{claim.reader} {claim.layout}"


def node_of(claim: Real | Written) -> str:
    return f"{Path(__file__).name}::test_the_reader_takes_the_real_file[{named(claim)}]" if isinstance(claim, Real) else claim.test


def function_named(node_id: str) -> tuple[ast.Module, ast.FunctionDef]:
    file, name = node_id.split("[")[0].split("::")
    tree = ast.parse((HERE / file).read_text())
    (found,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return tree, found


@pytest.mark.parametrize("claim", CLAIMS, ids=named)
def test_every_claim_names_a_test_that_exists(claim):
    _, function = function_named(node_of(claim))
    assert function.name.startswith("test_")
    if isinstance(claim, Real):
        assert f"[{named(claim)}]" in node_of(claim)
        assert sum(named(claim) == named(other) for other in CLAIMS) == 1


@pytest.mark.parametrize("claim", WRITTENS, ids=named)
def test_written_files_are_written_by_the_library_that_is_named(claim):
    """The test's module imports the library, and the test (or its parameters, or a list of writers it is run over) names the layout."""
    tree, function = function_named(claim.test)
    imported = {alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert claim.library in imported or claim.library == "Python"
    used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    text = ast.unparse(function) + "".join(
        ast.unparse(node)
        for node in tree.body
        if (isinstance(node, ast.Assign | ast.AnnAssign) and used & {n.id for n in ast.walk(node) if isinstance(n, ast.Name)})
        or (isinstance(node, ast.FunctionDef) and node.name in used)
    )
    assert claim.word in text


def test_every_reader_and_every_layout_of_its_tables_is_claimed():
    from mlipfm_data.readers import hdf5_layouts, json_layouts, npz

    assert {claim.reader for claim in CLAIMS} == set(plugins.names("readers"))
    for reader, layouts in (("hdf5", hdf5_layouts.LAYOUTS), ("npz", npz.LAYOUTS), ("json", json_layouts.LAYOUTS)):
        assert {claim.layout for claim in CLAIMS if claim.reader == reader} == {layout.name for layout in layouts}


def test_every_layout_of_the_catalogue_names_a_claim_or_no_reader():
    claimed = {(claim.reader, claim.layout) for claim in CLAIMS}
    for entry in catalogue().values():
        assert entry.layouts
        for fact in entry.layouts:
            assert fact.reader == "none" or (fact.reader, fact.layout) in claimed, entry.id
            assert fact.reader != "none" or fact.layout is None


@pytest.mark.ci
@pytest.mark.shared_data
@pytest.mark.parametrize("claim", REALS, ids=named)
def test_the_reader_takes_the_real_file(shared_data, claim):
    """The first structure of the file, with the options that are known for its set; and the file is one of the repository that is named."""
    from mlipfm_data.readers.registry import read
    from mlipfm_interfaces.structure import Structure
    from sets import KNOWN, jobs

    folder = shared_data(claim.known)
    fitting = set(folder.glob(claim.glob))
    path, _, options = next(job for job in jobs(KNOWN[claim.known], folder) if job[0] in fitting)
    first = next(item for item in read(path, claim.reader, **options) if isinstance(item, Structure))
    assert len(first.atomic_numbers) > 0
    assert claim.origin in (folder / "PROVENANCE.md").read_text()
    assert layout_found(claim.reader, path) in (claim.layout, None)


def layout_found(reader: str, path: Path) -> str | None:
    """The layout by which the reader takes the file; None for readers that know one layout only."""
    if reader == "hdf5":
        import h5py
        from mlipfm_data.readers.hdf5 import layout_of
        from mlipfm_data.readers.hdf5_layouts import LAYOUTS

        found: list[str] = []
        with h5py.File(path) as file:
            file.visititems(lambda name, node: found.extend(
                layout.name for layout in [layout_of({*node, *(f"@{key}" for key in node.attrs)})] if layout in LAYOUTS
            ) if isinstance(node, h5py.Group) and len(found) < 1 else None)  # fmt: skip
        return found[0]
    if reader == "npz":
        import numpy as np
        from mlipfm_data.readers.npz import LAYOUTS as KINDS

        with np.load(path) as arrays:
            return next(layout.name for layout in KINDS if layout.needs <= set(arrays.files))
    return None
