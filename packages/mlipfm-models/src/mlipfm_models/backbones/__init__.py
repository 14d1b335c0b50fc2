"""Backbones, one file each: initial node scalars and a Batch in, features out."""
