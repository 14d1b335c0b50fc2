"""The testing kit: structures, closed-form potentials, and the contracts of every seam with a planted violator for each rule.

Import what is needed from its module: `structures` (geometries, hypothesis strategies), `closed_forms` (oracles), `potential_rules`
(`check_potential`, free of pytest), `contract_suites` (pytest classes to subclass), `contracts` (rules and
their violators), `faults` (damaged files).
"""
