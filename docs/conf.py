"""Settings of the site, for ``python -m sphinx -W --keep-going -j 2 docs docs/build/html``.

``-D plot_gallery=0`` builds it without running the examples.
"""

import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from sklearn_soapbpnn import __version__  # noqa: E402

project = "sklearn_soapbpnn"
author = "The sklearn_soapbpnn developers"
copyright = f"2026, {author}"
version = release = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["build", "gallery/*.ipynb", "gallery/*.py", "gallery/*.md5"]
templates_path = ["_templates"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_mock_imports = ["torch_sim"]  # needs a newer Python than the oldest that is supported
numpydoc_show_class_members = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"sklearn_soapbpnn {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False

sphinx_gallery_conf = {
    # a copy, since some examples write files next to themselves
    "examples_dirs": "build/examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "backreferences_dir": "gallery/backreferences",
    "doc_module": ("sklearn_soapbpnn",),
    "reference_url": {"sklearn_soapbpnn": None},
    "min_reported_time": 5,
    "parallel": True,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
}


def close_doctests(app, page, source):
    """Remove the empty line at the end of code blocks, which doctest needs and readers do not."""
    source[0] = re.sub(r"(```python\n>>>.*?)\n\n```", r"\1\n```", source[0], flags=re.DOTALL)


def setup(app):
    """Copy the examples into the build folder, where sphinx-gallery runs them."""
    app.connect("source-read", close_doctests)
    copy = DOCS / "build" / "examples"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT / "examples", copy, ignore=shutil.ignore_patterns("*.png", "*.joblib"))
