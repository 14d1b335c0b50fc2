"""Readers of native formats, one module a format: each yields `RawFrame`s, which `interpret.structure_from` turns into checked Structures."""
