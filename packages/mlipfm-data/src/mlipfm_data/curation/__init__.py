"""Curation: duplicates and leakage, splits, weights, coverage, references."""
