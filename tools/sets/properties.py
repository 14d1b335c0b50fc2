"""Known sets of properties and references: geometries, with those of their values that are quantities of the table.

No quantity of the table: heats of formation, atomization energies, elastic moduli, peaks of phonon spectra, equations of state, reaction and
lattice energies (those belong to sums of structures), radial distribution functions. Geometries of such sets are imported without labels.
"""

from __future__ import annotations

from mlipfm_data.datasets.manifest import FileDescription as Files, SetDescription as Described

_CLOSED = {"total_charge": 0, "spin_multiplicity": 1}

SETS = (
    # -154 eV an atom: the on-the-fly pseudopotentials of CASTEP, which AIRSS uses
    Described("prop_carbon24", (Files("test.csv", "cif-csv", "pbe/castep"),), "MIT", "Pickard, Carbon24, Materials Cloud (2020)"),
    Described(
        "prop_molecules",
        (
            # The column is called `homo`; its values (1.7 to 8.9, none negative) are the gaps that PCQM4Mv2 is about.
            Files("pcqm4mv2-2k.csv", "cxsmiles", "b3lyp/6-31g*", {"keys": {"band_gap": "homo"}}, require=("band_gap",)),
            Files("gdb1k.sdf", "sdf", None, require=()),
        ),
        "Apache-2.0; MIT",
        "Hu et al., OGB-LSC, arXiv:2103.09430; Ramakrishnan et al., Sci. Data 1, 140022 (2014)",
        "delaney-processed.csv, micro_ZINC.csv, micro_qm9.csv: SMILES without coordinates; gdb1k.sdf.csv: atomization energies",
    ),
    Described(
        # Two columns: the second follows the first with the errors that ShiftML has (0.5 ppm for H), so the first is the GIPAW value.
        "prop_nmr_csd500",
        (
            Files("*.xyz", "extxyz", "pbe-gipaw/quantum-espresso", {"keys": {"shieldings": "CS:0"}, "group_key": "NAME"},
                       require=("shieldings",)),
        ),
        "LGPL-3.0-only",
        "Paruzzo et al., Nat. Commun. 9, 4501 (2018)",
    ),
    Described("prop_perov5", (Files("*.csv", "cif-csv", "gllb-sc/gpaw", require=("band_gap",)),), "MIT",
             "Castelli et al., Energy Environ. Sci. 5, 5814 (2012)"),
    Described("prop_phonons_matbench", (Files("*.json.gz", "json", None, require=()),), "MIT",
             "Petretto et al., Sci. Data 5, 180065 (2018); Dunn et al., npj Comput. Mater. 6, 138 (2020)"),
    Described(
        "prop_polarizability",  # QM7-X: polarizability in bohr^3, dipole in e Angstrom (against GFN2: slope 0.95; in e bohr it would be 1.8)
        (
            Files("qm7x_reduced_100.xyz", "extxyz", "pbe0-mbd/qm7-x",
                       {**_CLOSED, "keys": {"polarizability": "polarizability"}, "polarizability_unit": "bohr^3"}, require=("polarizability",)),
            Files("qm7x_reduced_100_CHNO.xyz", "extxyz", "pbe0-mbd/qm7-x",
                       {**_CLOSED, "keys": {"polarizability": "alpha"}, "polarizability_unit": "bohr^3", "dipole_key": "mu"},
                       require=("polarizability", "dipole")),
        ),
        "BSD-3-Clause",
        "Hoja et al., Sci. Data 8, 43 (2021)",
    ),
    Described("ref_acwf_eos", (), "MIT", "Bosoni et al., Nat. Rev. Phys. 6, 45 (2024)",
             "equations of state (volume, bulk modulus) without structures or energies: a reference to evaluate against"),
    # The file names the level of each curve, PBE and r2SCAN (VASP); energies are totals of the pair.
    Described("ref_diatomics", (Files("*.json.gz", "json", None),), "MIT", "Riebesell et al., Nat. Mach. Intell. 7, 836 (2025)"),
    Described(
        "ref_elastic_wbm",
        (
            Files("mp-binary-*.json.gz", "json", None, require=()),
            Files("wbm-random-*.json.gz", "json", "pbe+u/vasp-520ev"),  # WBM: the settings of the Materials Project
        ),
        "BSD-3-Clause",
        "Liu et al., MatCalc (2024); de Jong et al., Sci. Data 2, 150009 (2015); Wang, Botti, Marques, npj Comput. Mater. 7, 12 (2021)",
        "moduli are no quantity of the table: their crystals without labels",
    ),
    Described(
        "ref_phonon_forces",
        (
            Files("NaCl/vasprun.xml-*|Si-111-222-rd.tar.xz", "vasp-xml", "pbe/vasp-300ev", group="{stem}"),  # PAW_PBE, ENCUT = 300
            Files("phonopy_params_NaCl-rd.yaml.xz", "phonopy", None, group="{stem}"),  # no source states the functional of these two
            Files("TiO2-anatase/phonopy_disp.yaml", "phonopy", None, require=("forces",), group="{folder}"),
        ),
        "BSD-3-Clause",
        "Togo, Chaput, Tadano, Tanaka, J. Phys.: Condens. Matter 35, 353001 (2023)",
        "FORCES_FC2/3 and phono3py_*.yaml: no reader of pairs of displacements; NaCl-rd/FORCE_SETS: the forces of phonopy_params_NaCl-rd again",
    ),
    Described("ref_water_experiment", (), "BSD-3-Clause in part; none in the other repositories", "Skinner et al., J. Chem. Phys. 138, 074506 (2013)",
             "measured radial distribution functions, spectra and densities: no structures"),
    Described("refdata_barriers_bh9", (Files("10_din/bh9.din", "refdata", None, require=()),), "GPL-3.0-only",
             "Prasad et al., J. Chem. Theory Comput. 18, 151 (2022)",
             "barriers and reaction energies belong to sums of structures: geometries with charge and multiplicity only"),
    Described(
        "refdata_crystals_x23_ice",
        (Files("25_x23/expt/*.cif|20_ice13/*/*.POSCAR", "ase", None, require=(), group="{stem}"),),
        "GPL-3.0-only",
        "Reilly, Tkatchenko, J. Chem. Phys. 139, 024705 (2013); Della Pia et al., J. Chem. Phys. 157, 134701 (2022)",
        "lattice energies belong to sums of structures: crystals only",
    ),
    Described(
        "refdata_nci",
        (Files("10_din/a24.din|10_din/ionichb.din|10_din/s22x5.din|10_din/s66x8.din", "refdata", None, require=()),),
        "GPL-3.0-only",
        "Rezac, Hobza, J. Chem. Theory Comput. 9, 2151 (2013); Brauer et al., Phys. Chem. Chem. Phys. 18, 20905 (2016)",
        "binding energies belong to sums of structures: geometries with charge and multiplicity only; s66.din names geometries that are not there",
    ),
)  # fmt: skip
