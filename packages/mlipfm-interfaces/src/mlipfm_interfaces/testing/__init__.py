"""The testing kit: structures, closed-form potentials, and the contract of every kind of plug-in.

Import what is needed from its module: `structures` (geometries, hypothesis strategies), `closed_forms` (potentials with known predictions),
`potential_rules` (`check_potential`, free of pytest), `contract_suites` (pytest classes to subclass), `contracts` (all rules).
"""
