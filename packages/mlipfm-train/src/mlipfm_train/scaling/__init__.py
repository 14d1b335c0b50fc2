"""Scaling laws: a sweep is planned, run, fitted, and its largest run predicted before it starts (`mlipfm scaling`)."""
