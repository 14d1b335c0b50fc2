"""Known sets of crystals, surfaces and alloys, and what their labels were computed with. Levels are spelled as `molecules` explains.

Units and signs were checked: dE against -F dx along trajectories, stress against the energies of strained cells (SNAP, mlearn and FitSNAP: kbar,
positive under compression).
"""

from __future__ import annotations

from mlipfm_data.datasets.manifest import FileDescription as Files, SetDescription as Described
from mlipfm_interfaces.units import HARTREE

_VASP_520 = (
    "pbe/vasp-520ev"  # VASP, PAW, PBE, 520 eV: the settings that mlearn and the SNAP sets of the same group share and state per entry
)
_MP = "pbe+u/vasp-520ev"  # Materials Project settings: PBE, +U for the oxides of some metals, 520 eV
_SNAP_COPYRIGHT = "BSD-3-Clause"
_EGRAFF = "Bihani et al., Digital Discovery 2024, arXiv:2310.02428"
_INP = "lda/vasp"  # JPCA 2020; the lattice constant of the bulk cell, 5.83 Angstrom, is that of the LDA (PBE: 5.96)

SETS = (
    Described(
        "aumgo_4g",  # Ko 2021: FHI-aims, PBE; Hirshfeld charges
        (Files("*.npz", "npz", "pbe/fhi-aims", {"keys": {"charges": "q"}}, group="au2-mgo"),),
        "MIT",
        "Ko, Finkler, Goedecker, Behler, Nat. Commun. 12, 398 (2021)",
    ),
    Described(
        "battery_electrolyte_pbed3",  # virial checked against sum r F; `initial_charges` are those of a force field and not read
        (
            Files("outputEC_PBED3.xyz", "extxyz", "pbe-d3/ml-peg", {"total_charge": 0, "spin_multiplicity": 1}, group="EC"),
            Files("outputPF6_PBED3.xyz", "extxyz", "pbe-d3/ml-peg", {"total_charge": -1, "spin_multiplicity": 1}, group="PF6"),
            Files("outputLi_PBED3.xyz", "extxyz", "pbe-d3/ml-peg", {"total_charge": 1, "spin_multiplicity": 1}, group="Li"),
            Files("solvent_VS_PBED3.xyz", "extxyz", "pbe-d3/ml-peg", group="solvent"),
        ),
        "GPL-3.0-only",
        "Magdau et al., npj Comput. Mater. 9, 146 (2023)",
    ),
    Described(
        "catalysis_hub",  # Quantum ESPRESSO, BEEF-vdW: folder names and the calculator of the rows
        (
            Files("PengRole2020.db", "ase-db", "beef-vdw/quantum-espresso"),
            Files("AljamaMethanol2016/**/*.traj", "ase", "beef-vdw/quantum-espresso", group="{folder}"),
        ),
        "GPL-3.0-only",
        "Winther et al., Sci. Data 6, 75 (2019)",
    ),
    Described(
        "cu_sets",  # each frame of Cu-ACE-21 is named `FHI-aims/PBE/tight`
        (
            Files("Cu-ACE-21_1k.extxyz", "extxyz", "pbe/fhi-aims-tight"),
            Files("Cu-POET-19.extxyz", "extxyz", "pbe/vasp-poet-19"),
        ),
        "MIT",
        "Lysogorskiy et al., npj Comput. Mater. 7, 97 (2021); Hernandez et al., npj Comput. Mater. 5, 112 (2019)",
    ),
    Described(
        "fitsnap_ta_inp_wbe",
        (
            # The files of W-Be say bar, and energies of strained cells say kbar.
            Files("WBe/**/*.json", "json", "pbe/vasp-wbe", {"stress_unit": "kbar"}, group="WBe {folder}"),
            Files("Ta/*.xyz", "extxyz", "pbe/vasp-ta", {"stress_unit": "bar", "stress_sign": -1}, group="Ta {stem}"),
            Files("[!WT]*/*.json", "json", _INP, group="InP {folder}"),
        ),
        "GPL-2.0-only",
        "Thompson et al., J. Comput. Phys. 285, 316 (2015); Cusentino, Wood, Thompson, J. Phys. Chem. A 124, 5456 (2020); Wood et al., "
        "Phys. Rev. B 99, 184305 (2019)",
    ),
    Described(
        "fixtures_misc",
        (
            Files("small_aspirin_with_charge_spin.xyz", "extxyz", "wb97m-v/def2-tzvpd"),  # OMol25 is ORCA, wB97M-V/def2-TZVPD
            Files("SPICE_small_with_charges.xyz", "extxyz", "wb97m-d3bj/def2-tzvppd"),
            Files("small_materials_test.extxyz|orb_10_*.db", None, _MP),  # MPtrj
            # QM9 keeps U0, which has the vibrations in it and is no potential energy: orbitals only.
            Files(
                "schnetpack_qm9.db", "ase-db", "b3lyp/6-31g(2df,p)",
                {"keys": {"homo": "homo", "lumo": "lumo", "band_gap": "gap"}, "factors": dict.fromkeys(("homo", "lumo", "band_gap"), HARTREE),
                 "total_charge": 0, "spin_multiplicity": 1},
                require=(),
            ),
            Files("ani_gdb_s01.h5", "hdf5", "wb97x/6-31g(d)", {"total_charge": 0, "spin_multiplicity": 1}),
            Files("spice2-1000_429_md_0-1.hdf5", "hdf5", "wb97m-d3bj/def2-tzvppd", require=("forces",)),
            Files("colabfit_test_file.extxyz", "extxyz", _INP),  # frames of the FitSNAP InP set by their names
            Files("libatoms_B_DFT_data.xyz", "extxyz", "unstated/libatoms-boron"),
            Files("alamode_BaTiO3/*.xml", "vasp-xml", "pbesol/vasp-550ev", group="BaTiO3"),  # GGA = PS, ENCUT = 550
            Files("oc20_27998_vasprun.xml", "vasp-xml", "rpbe/vasp-350ev"),  # GGA = RP, ENCUT = 350
            Files("dpdata_vasprun.h2o.md.xml", "vasp-xml", "pbe/vasp-800ev", group="h2o"),  # PAW_PBE, ENCUT = 800
            Files("chgnet_parse-vasp-with-magmoms.zip", "vasp-xml", "pbe-d3/vasp-520ev"),  # INCAR: IVDW = 11, ENCUT = 520
            # Cell and method from dpdata's tests/cp2k/aimd/input.inp: PBE-D3, U - J = 3.6 eV on Co.
            Files("dpdata_cp2k_aimd/*-pos-1.xyz", "cp2k", "pbe+u-d3/dzvp-molopt-sr-gth", {"cell": "10.451 12.068 39.754"}, group="CoOOH"),
            Files("omat/test_calc_compounds_mp.json", "json", _MP),
            Files("omat/test_calc_compounds_omat.json", "json", "pbe+u/omat24"),  # newer pseudopotentials than the Materials Project's
        ),
        "Apache-2.0, MIT, BSD-3-Clause, GPL-2.0, LGPL-3.0 in parts",
        "see the projects named in PROVENANCE.md",
        "odac23_data_w_ml.json: a table of adsorption energies without structures; pyace_Cu_df1.pckl.gzip: a pickle of pandas, never read",
    ),
    Described(
        "fixtures_ocp_lmdb",  # acetylacetone as OCP stores it: a box of 50 Angstrom, float32
        (Files("*.lmdb", "pickled-lmdb", "pbe-d3/orca", {"total_charge": 0, "spin_multiplicity": 1, "periodic": False}, group="acetylacetone"),),
        None,
        _EGRAFF,
    ),
    # -199 eV an atom: not the VASP potentials of other PBE sets, so a level of its own.
    Described("gete", (Files("*.npz", "npz", "pbe/gete", group="gete"),), None, _EGRAFF),
    Described("li3n", (Files("*.json", "json", _VASP_520, group="Li3N {stem}"),), _SNAP_COPYRIGHT,
             "Deng, Chen, Li, Ong, npj Comput. Mater. 5, 75 (2019)"),
    Described(
        "mattersim_benchmarks",
        (
            Files("mptrj-random-1k.xyz", "extxyz", _MP, {"group_key": "mptrj_traj_id"}),
            Files("alexandria-random-1k.xyz", "extxyz", _MP, {"group_key": "alexandria_id"}),
            Files("mpf-TP.xyz", "extxyz", _MP, {"group_key": "internal_id"}),
        ),
        "MIT",
        "Yang et al., arXiv:2405.04967; Deng et al., Nat. Mach. Intell. 5, 1031 (2023); Schmidt et al., Mater. Today Phys. 48, 101560 (2024)",
    ),
    Described(
        "mlearn",
        (
            Files("[!CM]*_training.json|[!CM]*_test.json", "json", _VASP_520),
            # Of molybdenum and copper xz comes before yz. Molybdenum: dE of sheared cells against stress, correlation 0.999 (VASP's order: 0.91);
            # both: shear stress against forces, agreement 0.98 and 0.996 (VASP's order: 0.29 and 0.78).
            Files("Mo_training.json|Mo_test.json|Cu_training.json|Cu_test.json", "json", _VASP_520, {"stress_order": "xx,yy,zz,xy,xz,yz"}),
            # The same copper frames once more, with energies per atom; their stresses contradict mlearn's and the energies, and are not read.
            Files("Cu_all_alignn_id_prop.json", "json", _VASP_520, group="Cu alignn"),
        ),
        "BSD-3-Clause; NIST terms for the ALIGNN file",
        "Zuo et al., J. Phys. Chem. A 124, 731 (2020)",
    ),
    Described("nbmotaw", (Files("*.json", "json", _VASP_520, group="{stem}"),), _SNAP_COPYRIGHT,
             "Li, Chen, Zheng, Zuo, Ong, npj Comput. Mater. 6, 70 (2020)"),
    # OC20: VASP, RPBE, 350 eV (Chanussot 2021)
    Described("oc20_trajectories", (Files("*.traj", "ase", "rpbe/vasp-350ev", group="{stem}"),), "CC-BY-4.0",
             "Chanussot et al., ACS Catal. 11, 6059 (2021)"),
    Described("oxide_polymorphs", (Files("*.db", "ase-db", "pbe/vasp-oxides"),), "MIT",
             "Mehta, Salvador, Kitchin, ACS Appl. Mater. Interfaces 6, 3630 (2014)"),
    Described("pbte", (Files("*.xyz", "extxyz", "pbe/vasp-pbte", group="PbTe"),), "GPL-3.0-only",
             "Fan et al., Phys. Rev. B 104, 104309 (2021)"),
    Described("si_sets", (Files("*.xyz", "extxyz", "pbe/quantum-espresso", group="Si"),), "MIT", "NequIP tutorial, mir-group"),
)  # fmt: skip
