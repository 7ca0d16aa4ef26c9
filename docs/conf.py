"""The site: Sphinx, furo, MyST.  ``make docs`` builds it, and a warning is an error."""

from __future__ import annotations

import gc
import os
import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

#: Documents are trees of many small objects that live until the end: looking through them costs 8% of the build.
gc.freeze()
gc.set_threshold(200_000, 50, 1000)

project = "mtl_ops"
author = "The mtl_ops authors"
copyright = author

#: The folder of the site that this build is for, and so its place in the URL: ``latest`` or ``v0.1``.
version = os.environ.get("DOCS_VERSION", "latest")
release = metadata.version("mtl-ops")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "generate.extension",
]
exclude_patterns = ["generate"]

# ---- pages ------------------------------------------------------------------------------------------

myst_enable_extensions = ["colon_fence"]
#: Every heading has the anchor that GitHub gives it, so a link works there and here, and is checked.
myst_heading_anchors = 4
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# ---- docstrings -------------------------------------------------------------------------------------

toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 100  # a longer one has a parameter a line
#: Their names are all that is needed, and importing them takes long.
autodoc_mock_imports = ["accelerate", "lightning", "transformers"]
napoleon_numpy_docstring = False
napoleon_use_rtype = False
#: A name in a docstring that leads nowhere is an error, but for other packages' names and those of types in signatures.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|numpy|lightning|accelerate|transformers|collections|typing|pathlib)\b.*"),
    (
        r"py:class",
        r"Tensor|mtl_ops\..*\.(M|MergingOptimizer|Parts|Remembering|Rules|Settings|Trainable|Writer)",
    ),
    (r"py:(data|mod)", r"MAX_TASKS|mtl_ops\.reference"),
    (r"py:class", r"\w+\[.*"),  # a part of an annotation
]

# ---- looks ------------------------------------------------------------------------------------------

html_theme = "furo"
html_title = f"mtl_ops {version}"
html_baseurl = os.environ.get("DOCS_URL", "")
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["versions.js"]
templates_path = ["_templates"]
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/versions.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False
html_show_sourcelink = False
