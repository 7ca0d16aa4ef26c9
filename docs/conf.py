"""The site: Sphinx, furo, MyST.  ``make docs`` builds it, and a warning is an error."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import mtl_ops

project = "mtl_ops"
author = "The mtl_ops authors"
copyright = author

#: The folder of the site that this build is for, and so its place in the URL: ``latest`` or ``v0.1``.
version = os.environ.get("DOCS_VERSION", "latest")
release = mtl_ops.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["generate"]

# ---- pages -------------------------------------------------------------------------------------

myst_enable_extensions = ["colon_fence", "deflist"]
#: Every heading has the anchor that GitHub gives it, so a link works there and here, and is checked.
myst_heading_anchors = 4
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# ---- docstrings --------------------------------------------------------------------------------

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autoclass_content = "both"
napoleon_numpy_docstring = False
#: A name in a docstring that is neither here nor another package's is a typing error.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|numpy|lightning|collections|typing|pathlib|matplotlib)\b.*"),
    # What signatures say of the standard library and of torch.
    (r"py:(class|exc|data|func|mod|obj|meth|attr)", r"[A-Z]\w*|[a-z]\w*"),
]

# ---- looks -------------------------------------------------------------------------------------

html_theme = "furo"
html_title = f"mtl_ops {version}"
html_static_path = ["_static"]
templates_path = ["_templates"]
html_baseurl = os.environ.get("DOCS_URL", "")
html_theme_options = {"navigation_with_keys": True}

#: A page at the top of the repository, which the site shows as a page of its own.
TOP = {"../CONTRIBUTING.md": "contributing.md", "../CHANGELOG.md": "changelog.md"}


def links_within_the_site(app: Sphinx, page: str, content: list[str]) -> None:
    """What is right on GitHub, where a page links to a file above ``docs/``, is right here, too."""
    depth = "../" * page.count("/")
    for file, here in TOP.items():
        content[0] = content[0].replace(f"]({depth}{file}", f"]({depth}{here}")


def setup(app: Sphinx) -> None:
    app.connect("source-read", links_within_the_site)
