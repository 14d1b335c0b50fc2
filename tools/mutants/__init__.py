"""Planted mistakes: single changed lines, each of which a test beside it has to notice."""
