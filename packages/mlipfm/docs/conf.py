"""Configure Sphinx: pages in Markdown, formulas as MathML, reference pages from `reference_pages.py`."""

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from reference_pages import write_reference_pages  # noqa: E402

project = "mlipfm"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "mlipfm"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_copyright = False
html_copy_source = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests execute notebooks; pages show the outputs they were saved with
nb_merge_streams = True

autodoc_typehints_format = "short"
default_role = "literal"  # docstrings write code in single backticks


def _write_mathml(writer: Any, node: nodes.Element) -> None:
    """Write a formula as MathML, which browsers draw without a script."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    writer.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def _escape_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Escape what reStructuredText would read as markup outside of backticks: `|E|`, `*`, `name_`."""
    for k, line in enumerate(lines):
        pieces = re.split(r"(`[^`]*`)", line)
        pieces[::2] = [re.sub(r"(\||\*|(?<=\w)_(?!\w))", r"\\\1", piece) for piece in pieces[::2]]
        lines[k] = "".join(pieces)


def setup(app: Sphinx) -> None:
    """Register the MathML writer, the escaping of docstrings and the pages that are made from the code."""
    app.add_html_math_renderer("mathml", (_write_mathml, None), (_write_mathml, None))
    app.connect("autodoc-process-docstring", _escape_docstring, priority=400)
    app.connect("builder-inited", lambda app: write_reference_pages(HERE / "reference"))
