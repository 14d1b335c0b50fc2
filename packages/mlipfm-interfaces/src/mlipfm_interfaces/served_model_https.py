"""As `served_model`, for an address that encrypts."""

from __future__ import annotations

from mlipfm_interfaces.served_model import ServedModel, load as load_plain


def load(argument: str) -> ServedModel:
    """Return the model at `//HOST`."""
    return load_plain(argument, "https")
