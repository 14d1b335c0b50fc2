"""Known sets of molecules, liquids and solid electrolytes, and what their labels were computed with.

A level of which only the functional is known carries the code, or the name of its set, in place of the basis: energies of another code have
another zero and must not share atomic references. `unstated/...`: no source names the level. Slopes of dE against -F dx were measured for all sets
whose frames lie close enough together.
"""

from __future__ import annotations

from mlipfm_data.datasets.manifest import FileDescription as Files, SetDescription as Described

_WB97X = "wb97x/6-31g(d)"
_SPICE = "wb97m-d3bj/def2-tzvppd"
_CLOSED = {"total_charge": 0, "spin_multiplicity": 1}  # the molecules of these sets are neutral and have closed shells
_VACUUM = {"periodic": False}  # a box is stated for molecules that were computed without one
_BOTNET = "Batatia et al., arXiv:2205.06643; Kovacs et al., J. Chem. Theory Comput. 17, 7696 (2021)"
_EGRAFF = "Bihani et al., Digital Discovery 2024, arXiv:2310.02428"

SETS = (
    Described(
        "3bpa",
        (
            Files("train_300K.xyz", "extxyz", _WB97X, _CLOSED, group="3bpa"),  # Kovacs 2021: ORCA
            Files("test_300K_nequip.npz", "npz", _WB97X, _CLOSED | _VACUUM, group="3bpa"),
        ),
        "MIT",
        "Kovacs et al., J. Chem. Theory Comput. 17, 7696 (2021)",
    ),
    # Level as the BOTNet sets are described: PBE-D3, ORCA; the basis is not written in the files.
    Described("acetylacetone", (Files("*.xyz", "extxyz", "pbe-d3/orca", _CLOSED, group="acetylacetone"),), "MIT", _BOTNET),
    Described(
        "alkane_bond_breaking",  # README of the set: wB97X/6-31G(d), Gaussian 16; CASPT2 with Molpro, active space by the length of the chain
        (
            Files("DFT/*.h5|DFT/MEP/*.h5", "hdf5", _WB97X, {"total_charge": 0}, group="{stem}"),
            Files("CASPT2/*/*.h5", "hdf5", "caspt2/alkane-bond-breaking", {"total_charge": 0}, group="{stem}"),
        ),
        None,
        "Bac et al., 10.26434/chemrxiv-2023-13cv6",
    ),
    # The reader flips the sign: `forces` are gradients (slope along the S66x8 curves 1.02, correlation 0.999).
    Described("ani_comp6_s66x8", (Files("*.h5", "hdf5", None, _CLOSED),), "MIT", "Smith et al., J. Chem. Phys. 148, 241733 (2018)"),
    Described(
        "charge_spin_spookynet",  # the files count unpaired electrons; GFN2-xTB less the energies of the atoms (measured with tblite)
        (
            Files("ase_carbene_2200.db", "ase", "gfn2-xtb/formation", {"spin_meaning": "unpaired"}, group="CH2"),
            Files("ase_ag3_2200.db", "ase", "gfn2-xtb/formation", {"spin_meaning": "unpaired"}, group="Ag3"),
        ),
        "MIT",
        "Unke et al., Nat. Commun. 12, 7273 (2021)",
    ),
    Described(
        "charged_dimers_lode",  # FHI-aims; charges as chargeA + chargeB of the files
        (
            Files("*-id2.xyz", "extxyz", "hse06-mbd/fhi-aims", {"total_charge": 1}, group="{stem}"),
            Files("*-id3.xyz|*-id5.xyz|*-id6.xyz|charge-charge_dev.xyz", "extxyz", "hse06-mbd/fhi-aims", {"total_charge": 0}, group="{stem}"),
        ),
        "BSD-3-Clause in part; none in the other repository",
        "Huguenin-Dumittan et al., J. Phys. Chem. Lett. 14, 9612 (2023); Burns et al., J. Chem. Phys. 147, 161727 (2017)",
    ),
    Described(
        "conformers",
        (Files("geometries/*/*/*.xyz", "extxyz", None, {"total_charge": 0}, require=(), group="{folder}"),),
        "MIT",
        "Folmsbee, Hutchison, Int. J. Quantum Chem. 121, e26381 (2021)",
        "data-final_dev.csv: its energies have an offset per molecule and column, so they are differences and no labels; geometries only",
    ),
    Described(
        "dpmd_hessian_molecules",  # the repository names no level for either example
        (
            Files("H*", "deepmd", "unstated/deepmd-hessian-example", _VACUUM, group="{stem}"),
            Files("nopbc/data/*", "deepmd", "unstated/deepmd-nopbc-example", group="{stem}"),
        ),
        "LGPL-3.0-only",
        "DeePMD-kit, examples/hessian and examples/nopbc",
    ),
    # `theory` in the file: Psi4, CCSD(T), cc-pVTZ
    Described("ethanol_ccsdt", (Files("*.npz", "npz", "ccsd(t)/cc-pvtz", _CLOSED, group="ethanol"),), "MIT",
             "Chmiela et al., Nat. Commun. 9, 3887 (2018)"),
    Described("ethanol_methanol", (Files("*.xyz", "extxyz", "pbe/orca", _CLOSED, group="ethanol-methanol"),), "MIT", _BOTNET),
    # wB97M-D3/def2-TZVPP or B97-3c: the file does not say which
    Described("fixtures_aimnet2", (Files("dataset.h5", "hdf5", "unstated/aimnet2-tests"),), "MIT", "Anstine, Zubatyuk, Isayev, Chem. Sci. 2025"),
    Described(
        "fixtures_spice_ani_qm9",  # levels by the keys of the files, except ANI-2x (Devereux et al. 2020)
        (
            Files("SPICE-1.1.4_n2.hdf5|qm9_dataset_v1.1_ntc_10.hdf5", "hdf5", None),
            Files("ani1_n5.hdf5", "hdf5", None, {"total_charge": 0}),
            Files("ani2x_minimal.hdf5", "hdf5", _WB97X, {"total_charge": 0}),
        ),
        "MIT",
        "Eastman et al., Sci. Data 10, 11 (2023); Smith et al., Sci. Data 7, 134 (2020); Devereux et al., J. Chem. Theory Comput. 16, 4192 (2020)",
    ),
    Described(
        "gmtkn55_dev",
        (Files("AHB21|CHB6|G21IP|ISO34|PCONF21|PX13|RG18|RSE43|S66|TAUT15|W4-11|WATER27", "gmtkn55", None, require=()),),
        None,
        "Goerigk et al., Phys. Chem. Chem. Phys. 19, 32184 (2017)",
        ".res: reaction energies belong to sums of structures and are no labels; geometries with charge and multiplicity only",
    ),
    # Energies are relative to the free atoms: a level of its own, with references that a fit finds near zero.
    Described("h2coo_caspt2", (Files("*.npz", "npz", "caspt2(12,10)/aug-cc-pvtz", group="H2COO"),), None,
             "Upadhyay et al., H2COO (2024), github.com/MMunibas/H2COO-PhysNet"),
    # No level is stated; energies of -22,000 eV for Li64S32 show Li 1s in the valence: not the VASP potentials of other PBE sets.
    Described("lips20", (Files("Li2S|P2S5|beta-Li3PS4", "deepmd", "pbe/lips20"),), None, _EGRAFF),
    Described("lips_batzner", (Files("*.npz", "npz", "pbe/vasp-lips", group="lips"),), None, "Batzner et al., Nat. Commun. 13, 2453 (2022)"),
    Described(
        "md17",  # Chmiela 2017: PBE+vdW-TS, FHI-aims; the files are in eV already
        tuple(
            Files(f"{name}_*.npz", "npz", "pbe-ts/fhi-aims", _CLOSED | _VACUUM, group=name)
            for name in ("aspirin", "ethanol", "naphthalene", "salicylic_acid")
        )
        + (Files("aspirin_val_schnetpack_ase.db", "ase", "pbe-ts/fhi-aims", _CLOSED, group="aspirin"),),
        None,
        "Chmiela et al., Sci. Adv. 3, e1603015 (2017)",
    ),
    # Level by the reader (metadata and the papers); the atoms' energies are added, so that energies are total ones.
    Described("nabladft_sample", (Files("*.db", "nabladft", None),), "MIT", "Khrabrov et al., Phys. Chem. Chem. Phys. 24, 25853 (2022)"),
    Described("hfo2_pwdata", (Files("init_*", "pwdata", "pbe/pwmat"),), "GPL-3.0-only", "LonxunQuantum, PWMLFF, examples"),
    Described("mapbi3_scan", (Files("sys.*", "deepmd", "scan/vasp"),), "LGPL-3.0-only", "DP-GEN, examples/simplify-MAPbI3-scan-lebesgue"),
    Described(
        "spice_dipeptides_dipolar",  # energies are relative to atoms, so another zero than SPICE's total energies: a level of its own
        (Files("*.xyz", "extxyz", f"{_SPICE}/formation", {"charges_key": "mbi_charges"} | _CLOSED),),
        None,
        "Eastman et al., Sci. Data 10, 11 (2023); Cheng, npj Comput. Mater. 2025",
    ),
    Described(
        "spice_subsets_bec",  # MACE_energy, MACE_forces are a model's; `bec` is of unknown origin: none of them is read
        (
            Files("*.xyz", "extxyz", _SPICE,
                       {"energy_key": "energy", "forces_key": "forces", "ignore": ("MACE_energy", "MACE_forces", "bec"), "total_charge": 0}),
        ),
        None,
        "Eastman et al., Sci. Data 10, 11 (2023); Kim et al. 2025 (MACELES-OFF)",
    ),
    Described("transition1x_ccsd", (Files("*.json", "transition1x-json", None, {"total_charge": 0}),), None,
             "Schreiner et al., Sci. Data 9, 779 (2022); github.com/benediktpabinger/CCSD-Transition1x"),
    Described("unlabelled_qm9", (Files("qm9_10k.csv.gz", "qm9-csv", None, {"total_charge": 0}),), "CC0-1.0",
             "Ramakrishnan et al., Sci. Data 1, 140022 (2014)"),
    Described("unlabelled_spice_geometries", (Files("*.hdf5", "hdf5", None, require=()),), "MIT", "Eastman et al., Sci. Data 10, 11 (2023)"),
    # PBE0+TS: Zhang et al. 2018. Energies of -468 eV a molecule are those of norm-conserving potentials.
    Described("water_dpmd", (Files("data_*", "deepmd", "pbe0-ts/water-dpmd", group="water-dpmd"),), "LGPL-3.0-only",
             "Zhang et al., Phys. Rev. Lett. 120, 143001 (2018)"),
    Described(
        "water_monomer_props",  # atomic units; `force` is the gradient (slope -1.886 = -1/bohr before); pbc is stated without a cell
        (
            Files("*.xyz", "extxyz", "unstated/librascal-water-monomers",
                       {"energy_key": "energy", "energy_unit": "Hartree", "forces_key": "force", "forces_unit": "Hartree/bohr", "forces_sign": -1,
                        "dipole_key": "mu", "dipole_unit": "e bohr", "keys": {"polarizability": "alpha"},
                        "polarizability_unit": "bohr^3"} | _CLOSED | _VACUUM),
        ),
        "LGPL-3.0-only",
        "librascal, reference data",
    ),
    Described("water_revpbe0d3_sample", (Files("*.xyz", "extxyz", "revpbe0-d3/cp2k", group="water-revpbe0d3"),), "MIT",
             "Cheng et al., Proc. Natl. Acad. Sci. 116, 1110 (2019)"),
    Described(
        "water_dipole_polarizability",  # the dipole (Berry phase) is in e bohr: 0.50 e on H, as liquid water has; in Debye it would be 0.19 e
        (
            Files("water_bulk.xyz", "extxyz", "unstated/kapil-2024-water", {"dipole_unit": "e bohr", "ignore": ("REF_polarizability",)},
                       require=("dipole",), group="water-bulk"),
        ),
        "MIT",
        "Kapil et al., Faraday Discuss. 249, 50 (2024)",
        "REF_polarizability is V (eps - 1)/(eps + 2)/32 in bohr^3 (Clausius-Mossotti, of one molecule), not the derivative of the dipole: left out",
    ),
    Described(
        "rdb7_barriers",
        (Files("rxn*/*.xyz", "extxyz", None, {"total_charge": 0}, require=(), group="{folder}"),),
        "MIT",
        "Spiekermann, Pattanaik, Green, Sci. Data 9, 417 (2022)",
        "barriers_dev.csv: barriers belong to reactions and are no labels; geometries of reactants, products and transition states only",
    ),
)  # fmt: skip
