"""Readers of native formats, one module a format: each yields `RawFrame`s, which `conventions.structure_from` turns into checked Structures."""
