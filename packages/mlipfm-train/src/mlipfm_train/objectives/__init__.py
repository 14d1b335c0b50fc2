"""Objectives of mlipfm-train: energies, forces and stresses."""
