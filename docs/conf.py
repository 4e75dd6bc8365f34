"""The site. Sources are read from the repository's root, where a relative link means what it means on its host."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
VERSION: dict = {}
exec((ROOT / "mmsema/version.py").read_text(), VERSION)

project = "mmsema"
author = "The mmsema authors"
copyright = "the mmsema authors, Apache-2.0"
release = version = VERSION["__version__"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
root_doc = "docs/index"
highlight_language = "none"  # of blocks that name none: equations and what a program prints
smartquotes = False  # error messages are searched for as they are
include_patterns = ["docs/*.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "kernels/README.md"]
exclude_patterns = [".*", "data", "work_dirs", "outputs", "docs/_build"]  # not to be walked through

myst_enable_extensions = ["colon_fence", "attrs_block"]
myst_heading_anchors = 3

nitpicky = True  # a name in a docstring's :func: or :mod: must be on the site
nitpick_ignore_regex = [("py:(class|exc|data|obj)", ".*")]  # types of signatures: other projects' and Python's own

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"mmsema {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
templates_path = ["_templates"]
html_additional_pages = {"index": "to_docs.html"}
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = "$ "
