"""Duplicates, near-duplicates and leakage: fingerprints, candidates, and an exact comparison of each pair."""
