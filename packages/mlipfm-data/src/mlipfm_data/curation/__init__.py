"""Splits, weights, coverage and references of data sets."""
