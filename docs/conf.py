"""Settings of the site: `sphinx-build -W docs OUT` makes it. What is done to the pages stands in _ext/book.py."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parents[1])]

from book import resolve_code as linkcode_resolve  # noqa: E402, F401

from minidiff import __version__  # noqa: E402

project = "minidiff"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.linkcode", "sphinx_copybutton", "book"]
exclude_patterns = ["_*"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 6
html_math_renderer = "mathml"
default_role = "literal"
highlight_language = "none"

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
add_module_names = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "minidiff"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_copyright = False
copybutton_selector = "div:not(.output) > div.highlight pre"  # what a notebook printed is not to be copied
pygments_style = "default"
pygments_dark_style = "native"
