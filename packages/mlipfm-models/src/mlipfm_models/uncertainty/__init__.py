"""Uncertainty of any checkpoint without training it again: LLPR, ensembles of last layers drawn from it, conformal intervals."""
