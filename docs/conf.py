"""The documentation site: `make docs`. Its sources are the Markdown files of docs/ and of the repository's root.

The pages read the same on GitHub, so what only Sphinx needs is added here: the tables of contents (from the links of
docs/index.md) and the target of links to code (`gpt1/model/gpt.py#Block`), which become pages of highlighted source.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.application import Sphinx
from sphinx.ext.mathjax import html_visit_displaymath, html_visit_math

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from gpt1.version import __version__  # noqa: E402

project = "gpt1"
author = "The gpt1 authors"
copyright = "2026, The gpt1 authors"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "docs/*.ipynb"]
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "docs"]
exclude_patterns += ["docs/_build", "docs/_static"]

html_theme = "furo"
html_title = f"gpt1 {release}"
html_static_path = ["_static"]
html_css_files = ["katex/katex.min.css", "site.css"]
html_js_files = [
    ("katex/katex.min.js", {"defer": "defer"}),
    ("katex/auto-render.min.js", {"defer": "defer"}),
    ("equations.js", {"defer": "defer"}),
]
html_math_renderer = "katex"
html_copy_source = False
default_role = "literal"  # docstrings write `names` as Markdown does
suppress_warnings = ["myst.header"]  # a page may begin with another heading level

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]  # ```math, as GitHub draws it
myst_heading_anchors = 4
myst_url_schemes: dict[str, Any] = {"http": None, "https": None, "mailto": None}
myst_url_schemes["code"] = "{{path}}.html#{{fragment}}"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False

nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "docs" / "_build" / ".jupyter_cache")
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 900

CODE_LINK = re.compile(r"\]\(((?:\.\./)?)(gpt1/[\w/]+\.py)(#[\w.]+)?\)")


def add_site_parts(app: Sphinx, docname: str, source: list[str]) -> None:
    """Point links to code at the pages that `code_pages` makes; give docs/index its tables of contents."""
    if docname.endswith("tutorial"):  # JSON
        return
    source[0] = CODE_LINK.sub(lambda found: f"](code:{found[1]}_code/{found[2]}{found[3] or ''})", source[0])
    if docname == root_doc:
        source[0] += "".join(toctrees(source[0]))


def toctrees(index: str) -> Iterator[str]:
    """A hidden table of contents for each group of links of docs/index.md: the sidebar."""
    yield "\n"
    for group in re.split(r"^(?=\*\*)", index, flags=re.MULTILINE)[1:]:
        title = group.splitlines()[0].strip("* ")
        pages = [re.sub(r"\.(md|ipynb)$", "", page) for page in re.findall(r"^- \[[^]]*\]\(([^)#]+)\)", group, re.M)]
        entries = "\n".join(page.replace("../", "/") if page.startswith("../") else page for page in pages)
        yield f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{entries}\n```\n"


def code_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(name, context, template) of a page of highlighted source for each file of the package that a page links to."""
    linked: set[str] = set()
    for docname in app.env.found_docs:
        linked |= {found[2] for found in CODE_LINK.finditer(Path(app.env.doc2path(docname)).read_text("utf-8"))}
    for file in sorted(linked):
        body = code_html((ROOT / file).read_text("utf-8"))
        yield f"_code/{file}", {"title": file, "body": f"<h1><code>{file}</code></h1>{body}"}, "page.html"


def code_html(code: str) -> str:
    """Highlighted source in which each function, class, method and constant is an anchor with its name."""
    body = highlight(code, PythonLexer(), HtmlFormatter(lineanchors="line"))
    for name, line in symbols(ast.parse(code)):
        body = body.replace(f'<a id="line-{line}" name="line-{line}"', f'<a id="{name}" class="symbol"', 1)
    return f'<div class="code-page">{body}</div>'


def symbols(node: ast.AST, within: str = "") -> Iterator[tuple[str, int]]:
    """(`Class.method`, line) of what a file defines."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield within + child.name, child.lineno
            yield from symbols(child, f"{within}{child.name}.")
        elif isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            yield from ((within + target.id, child.lineno) for target in targets if isinstance(target, ast.Name))


def escape_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code`: what reStructuredText would read as a reference (`from_`) is escaped."""
    for i, line in enumerate(lines):
        parts = re.split(r"(`+[^`]*`+)", line)
        parts[::2] = [re.sub(r"(?<=\w)_(?!\w)", r"\\_", part) for part in parts[::2]]
        lines[i] = "".join(parts)


def shorten_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Show `int` instead of an annotation with its range, which the page of settings has."""
    return signature and re.sub(r"Annotated\[(\w+), [^]]*\]", r"\1", signature), returns


def redirect_root(app: Sphinx, error: Exception | None) -> None:
    """Make index.html of the site lead to the index of the pages."""
    if error is None and app.builder.format == "html":
        page = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html"><title>gpt1</title>\n'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("katex", (html_visit_math, None), (html_visit_displaymath, None))
    app.connect("source-read", add_site_parts)
    app.connect("autodoc-process-docstring", escape_docstring, priority=900)  # after napoleon
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("html-collect-pages", code_pages)
    app.connect("build-finished", redirect_root)
