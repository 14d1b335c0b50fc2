"""A trajectory as an SVG picture that moves by itself: no script, a few kilobytes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from mlipfm_interfaces.elements import COVALENT_RADII, number

#: Colours of elements after Corey, Pauling and Koltun; others are pink.
_COLOURS = {"H": "#e8e8e8", "C": "#555555", "N": "#3050f8", "O": "#e02020", "F": "#70c040", "S": "#d8b020", "Cl": "#20b020", "P": "#f08000"}

#: Pixels of an Å; of a margin; seconds of a frame.
_SCALE, _MARGIN, _FRAME = 48.0, 30.0, 0.06


def moving_molecule(symbols: Sequence[str], positions: Sequence[Sequence[Sequence[float]]], title: str) -> str:
    """Return an SVG in which the atoms follow `positions` [frames, atoms, 3] in Å, forward and backward for ever.

    The view is along the direction in which the first frame is thinnest. Bonds are those of the first frame: atoms closer than 1.2 times the sum of
    their covalent radii.
    """
    frames = np.asarray(positions, dtype=float)
    frames = frames - frames.mean(axis=1, keepdims=True)
    seen = frames @ np.linalg.svd(frames[0], full_matrices=False)[2].T if len(symbols) > 2 else frames
    flat = _SCALE * (seen[..., :2] - seen[..., :2].min(axis=(0, 1))) + _MARGIN
    there_and_back = np.concatenate([flat, flat[-2:0:-1]])
    width, height = flat.max(axis=(0, 1)) + _MARGIN
    parts = [_bond(there_and_back, i, j) for i, j in _bonds(symbols, frames[0])]
    parts += [_atom(there_and_back[:, k], symbols[k]) for k in np.argsort(seen[..., 2].mean(axis=0)).tolist()]
    box = f'viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px;width:100%"'
    return f'<svg {box} role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>{"".join(parts)}</svg>'


def _bonds(symbols: Sequence[str], first: np.ndarray) -> list[tuple[int, int]]:
    radii = np.array([COVALENT_RADII[number(symbol)] for symbol in symbols])
    distance = np.linalg.norm(first[:, None] - first[None], axis=-1)
    i, j = np.nonzero(np.triu(distance < 1.2 * (radii[:, None] + radii[None]), 1))
    return list(zip(i.tolist(), j.tolist(), strict=True))


def _bond(path: np.ndarray, i: int, j: int) -> str:
    moves = _moved("x1", path[:, i, 0]) + _moved("y1", path[:, i, 1]) + _moved("x2", path[:, j, 0]) + _moved("y2", path[:, j, 1])
    return f'<line stroke="#999" stroke-width="7" stroke-linecap="round">{moves}</line>'


def _atom(path: np.ndarray, symbol: str) -> str:
    radius = 12 + 10 * COVALENT_RADII[number(symbol)]
    moves = _moved("cx", path[:, 0]) + _moved("cy", path[:, 1])
    return (
        f'<circle r="{radius:.0f}" fill="{_COLOURS.get(symbol, "#e080c0")}" stroke="#333"><title>{escape(symbol)}</title>{moves}</circle>'
    )


def _moved(attribute: str, values: np.ndarray) -> str:
    """Return the animation of one coordinate."""
    text = ";".join(f"{value:.0f}" for value in [*values, values[0]])
    return f'<animate attributeName="{attribute}" values="{text}" dur="{_FRAME * len(values):.1f}s" repeatCount="indefinite"/>'
