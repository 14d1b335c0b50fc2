"""From atomistic data to a foundation model and the fast potentials distilled from it."""
