"""The coverage report as one HTML page without scripts or outside files."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape

from mlipfm_interfaces.elements import symbol

from .coverage import Coverage, gaps
from .coverage_figures import PANELS, panel

_STYLE = """
body{margin:0 auto;padding:1rem;max-width:66rem;font:16px/1.45 system-ui,sans-serif;color:#1a202c;background:#fff}
h1{font-size:1.5rem;margin:.4rem 0;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:1.6rem 0 .4rem}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.6rem}
.facts div{background:#f7fafc;border:1px solid #e2e8f0;border-radius:.4rem;padding:.5rem .7rem}
.facts b{display:block;font-size:1.2rem}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(22rem,100%),1fr));gap:1rem;align-items:start}
img{width:100%;max-width:30rem;height:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem}
td,th{text-align:left;vertical-align:top;padding:.3rem .5rem;border-bottom:1px solid #e2e8f0}
td{overflow-wrap:anywhere}td.n,th.n{text-align:right;white-space:nowrap}.none{color:#c05621}.told{color:#718096}
"""

_ALT = {
    "elements": "periodic table shaded by the number of structures",
    "forces": "histogram of forces",
    "equilibrium": "structures at, near and far from equilibrium",
    "states": "structures by charge and multiplicity",
    "contacts": "histogram of contacts between molecules",
}


def page(found: Coverage, name: str) -> str:
    """The whole page; every number in it is also in `found`."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>Coverage of {escape(name)}</title><style>{_STYLE}</style><body><h1>Coverage of {escape(name)}</h1>"
        f"{_facts(found)}<h2>Pictures</h2><div class=panels>{''.join(_image(found, key) for key in PANELS)}</div>"
        f"<h2>Gaps of the field (figure 2 of the perspective)</h2>{_gaps(found)}"
        f"<h2>Levels of theory</h2>{_counts(found.levels.most_common(), 'level', found.structures)}"
        f"<h2>Labels</h2>{_counts(found.labels.most_common(), 'label', found.structures)}"
        f"<h2>Elements</h2><p>{_elements(found)}</p></body></html>\n"
    )


def _facts(found: Coverage) -> str:
    sizes = sorted(found.sizes)
    periodic = found.structures - found.periodic[0]
    shares = [found.force_share(0, 10), found.force_share(50, float("inf"))]
    facts = [
        (f"{found.structures:,}", "structures"),
        (f"{found.atoms:,}", "atoms"),
        (f"{sizes[0]} to {sizes[-1]}", "atoms a structure"),
        (str(len(found.elements)), "elements"),
        (f"{periodic:,}", "periodic structures"),
        (_share(shares[0]), "of forces up to 10 eV/Å"),
        (_share(shares[1]), "of forces over 50 eV/Å"),
    ]
    return f"<div class=facts>{''.join(f'<div><b>{escape(value)}</b>{escape(what)}</div>' for value, what in facts)}</div>"


def _share(value: float) -> str:
    return "no forces" if value != value else "0 %" if value == 0 else f"{100 * value:.3g} %"


def _image(found: Coverage, key: str) -> str:
    data = base64.b64encode(panel(found, key)).decode()
    return f"<img alt='{_ALT[key]}' src='data:image/png;base64,{data}'>"


def _gaps(found: Coverage) -> str:
    rows = []
    for gap in gaps(found):
        kind = "told" if not gap.told else "none" if not gap.count else ""
        rows.append(f"<tr class='{kind}'><td>{gap.letter}<td>{escape(gap.name)}<td>{escape(gap.seen)}<td class=n>{gap.count:,}")
    note = f"<p class=told>Bonds and contacts: of {found.sampled:,} structures spread over the set.</p>"
    return f"<table><tr><th><th>area<th>found here<th class=n>count{''.join(rows)}</table>{note}"


def _counts(counts: Iterable[tuple[str, int]], what: str, total: int) -> str:
    rows = "".join(f"<tr><td>{escape(name)}<td class=n>{n:,}<td class=n>{100 * n / total:.3g} %" for name, n in counts)
    return f"<table><tr><th>{what}<th class=n>structures<th class=n>share{rows}</table>" if rows else "<p>none</p>"


def _elements(found: Coverage) -> str:
    return ", ".join(f"{symbol(z)} {n:,}" for z, n in sorted(found.elements.items()))
