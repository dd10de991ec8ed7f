"""The documentation site: the repository's own Markdown pages, and the reference made of the docstrings.

    pip install '.[docs]'
    python -m sphinx -W -c docs . build/site

The source is the whole repository, so that pages link to one another as they do on GitHub. The core need not
be compiled: its module is mocked.
"""

import html
import importlib.resources
import os
import re
import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "src"))

project = "pybptt"
author = "the pybptt contributors"
copyright = author
release = re.search(r"project\(pybptt\s+VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text())[1]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**"]
exclude_patterns = ["docs/_templates"]
templates_path = [str(Path(__file__).parent / "_templates")]

html_theme = "furo"
html_title = f"pybptt {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "to_front_page.html"}
copybutton_prompt_text = ">>> "

# GitHub's mathematics and anchors.
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3
mathjax_path = "mathjax/tex-chtml.js"  # a copy of ours (see below): the site loads nothing from elsewhere

autodoc_mock_imports = ["pybptt._core", "torch"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {"Array": "ndarray", "ArrayLike": "ArrayLike", "DTypeLike": "DTypeLike"}
napoleon_google_docstring = False
napoleon_use_param = napoleon_use_rtype = False  # types are described in words
napoleon_custom_sections = [("Attributes", "params_style")]
python_maximum_signature_line_length = 88
default_role = "py:obj"
nitpicky = True
# A short name in backticks may be an argument. Types of signatures may be other packages' or of no page here.
nitpick_ignore_regex = [
    ("py:obj", r"\w+|(numpy|matplotlib)\..*"),
    ("py:class", r".*"),
    ("py:data", r".*"),
    ("py:exc", r".*"),
]


def copy_mathjax(app):
    """Out of the package, which is made for Django and needs nothing of it."""
    source = importlib.resources.files("mathjax") / "static/mathjax/es5"
    to = app.outdir / "_static" / "mathjax"
    (to / "output/chtml").mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "tex-chtml.js", to)
    shutil.copytree(source / "output/chtml/fonts", to / "output/chtml/fonts", dirs_exist_ok=True)


def escape_bars(app, what, name, obj, options, lines):
    """|dL/dh_t| is a norm, not a substitution; but not in code."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[i] = re.sub(r"(``.*?``)|\|", lambda found: found[1] or r"\|", line)


def name_aliases(app, what, name, obj, options, signature, returned):
    """Not by how Sphinx writes it where it is in a union."""
    return [text and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text) for text in (signature, returned)]


def skip_fields(app, what, name, obj, skip, options):
    """Fields of a NamedTuple are described under Attributes."""
    return True if type(obj).__name__ == "_tuplegetter" else None


# Links to the repository's files become links to pages of their own, with colours and line numbers.

LEXERS = {".py": "python", ".cpp": "cpp", ".hpp": "cpp", ".h": "c", ".c": "c", ".rs": "rust", ".json": "json"}


def page_of(app, path):
    """The name of the page of a file or folder of the repository, which is made if it is linked."""
    app.env.linked_files.add(path)
    return f"source/{path.as_posix()}"


def line_of(path, quoted):
    """Where a page quotes a line behind the link: its anchor."""
    for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
        if quoted in line:
            return f"#line-{number}"
    return ""


def is_link(node):
    """To what is no page: a file (MyST would have it downloaded) or a folder (which it does not know)."""
    return isinstance(node, addnodes.download_reference | addnodes.pending_xref) and node["reftype"] == "myst"


def link_files(app, doctree):
    for node in list(doctree.findall(is_link)):
        path = Path(os.path.normpath(Path(app.env.docname).parent / node["reftarget"]))
        if path.suffix in LEXERS or ("/" in node["reftarget"] and (ROOT / path).is_dir()):
            behind = node.parent[node.parent.index(node) + 1 :]
            quoted = behind[1].astext() if len(behind) == 2 and isinstance(behind[1], nodes.literal) else None
            anchor = line_of(path, quoted) if quoted else ""
            uri = app.builder.get_relative_uri(app.env.docname, page_of(app, path)) + anchor
            node.replace_self(nodes.reference("", "", *node.children, refuri=uri))


def source_pages(app):
    files = {path for path in app.env.linked_files if (ROOT / path).is_file()}
    for folder in app.env.linked_files - files:
        inside = [p.relative_to(ROOT) for p in sorted((ROOT / folder).iterdir()) if p.is_file()]
        files.update(inside)
        here = f"source/{folder.as_posix()}"
        links = (app.builder.get_relative_uri(here, f"source/{path.as_posix()}") for path in inside)
        rows = (f'<li><a href="{link}">{p.name}</a></li>' for link, p in zip(links, inside, strict=True))
        yield here, {"title": f"{folder}", "body": f"<h1>{folder}</h1><ul>{''.join(rows)}</ul>"}, "page.html"
    for path in sorted(files):
        code = app.builder.highlighter.highlight_block(
            (ROOT / path).read_text(encoding="utf-8"),
            LEXERS.get(path.suffix, "text"),
            linenos="inline",
            linespans="line",
        )
        title = html.escape(path.as_posix())
        yield f"source/{title}", {"title": title, "body": f"<h1>{title}</h1>{code}"}, "page.html"


def setup(app):
    app.connect("builder-inited", copy_mathjax)
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("autodoc-process-signature", name_aliases)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("env-before-read-docs", lambda app, env, docnames: setattr(env, "linked_files", set()))
    app.connect("doctree-read", link_files, priority=400)  # before Sphinx collects the downloads
    app.connect("html-collect-pages", source_pages)
