"""Measurements against a peer or a floor in the same run: `python tools/bench NAME`. See README.md."""
