"""What the site does beyond its plugins: root pages, nav, marks, MathML, the tutorial run."""

from __future__ import annotations

import hashlib
import html
import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "adjointdpm"
CACHE = ROOT / "build" / "notebooks"

ROOT_PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages that stand outside of docs/, where people look for them, and their places on the site."""

ALL_OF = re.compile(r"^::: adjointdpm\.([\w.]+)\.\*$", re.MULTILINE)
"""All that a room hands on, or all rooms in a folder."""

MARK = re.compile(r"<!-- (?:value .*?|given|/) -->", re.DOTALL)
"""What `benchmarks.documented` finds numbers by; brackets in it would be taken for references."""

MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take in the pages of the root, and fill in the patterns of the nav."""
    for source, place in ROOT_PAGES.items():
        text = (ROOT / source).read_text().replace("](docs/", "](")
        files.append(File.generated(config, place, content=text))
    pages = {Path(file.src_uri) for file in files.documentation_pages()}
    left = pages - set(_named(config.nav))
    config.nav = _filled(config.nav, left)
    return files


def _named(nav: Any) -> list[Path]:
    """Return the pages that a nav names."""
    if isinstance(nav, str):
        return [] if "*" in nav else [Path(nav)]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in _named(part)]


def _filled(nav: list[Any], left: set[Path]) -> list[Any]:
    """Replace each pattern by the pages in its folder that are left."""
    filled: list[Any] = []
    for part in nav:
        if isinstance(part, dict):
            [(title, value)] = part.items()
            part = {title: _filled(value, left) if isinstance(value, list) else value}
        if isinstance(part, str) and "*" in part:
            folder = Path(part).parent
            filled += [str(page) for page in sorted(left) if page.parent == folder]
        else:
            filled.append(part)
    return filled


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Take out marks of numbers, name what stars stand for, run the pages that are notebooks."""
    if page.file.src_uri not in ROOT_PAGES.values():  # which say how numbers are marked
        markdown = MARK.sub("", markdown)
    if not page.meta.get("notebook"):
        return ALL_OF.sub(named_one_by_one, markdown)
    run = config.extra["run_notebooks"]
    notebook = executed(markdown) if run else jupytext.reads(markdown, fmt="md")
    exporter = MarkdownExporter(preprocessors=[CoalesceStreamsPreprocessor])
    text, resources = exporter.from_notebook_node(notebook)
    name = Path(page.file.src_uri).stem
    contents = {**resources["outputs"], f"{name}.ipynb": nbformat.writes(notebook)}
    for uri, content in contents.items():
        files.append(File.generated(config, uri, content=content))
    return text.replace("![png]", "![what the cell above shows]")


def named_one_by_one(star: re.Match[str]) -> str:
    """Return a line for mkdocstrings for each function and class that a star stands for."""
    room = PACKAGE.joinpath(*star[1].split("."))
    faces = room.glob("*/__init__.py")
    rooms = [room] if _handed_on(room) else sorted(face.parent for face in faces)
    names = [
        ".".join([*each.relative_to(PACKAGE).parts, name])
        for each in rooms
        for name in _handed_on(each)
    ]
    if not names:
        raise ValueError(f"{star[0]} stands for nothing")
    return "\n\n".join(f"::: adjointdpm.{name}" for name in names)


def _handed_on(room: Path) -> list[str]:
    """Return the functions and classes that a room's face names: a stub, where there is one."""
    stub, face = room / "__init__.pyi", room / "__init__.py"
    text = (stub if stub.is_file() else face).read_text()
    return re.findall(r'^    "(\w*[a-z]\w*)",$', text, re.MULTILINE)


def executed(markdown: str) -> Any:
    """Run a Markdown page as a notebook, once for each state of the page and of the library."""
    state = hashlib.sha256(markdown.encode())
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":  # the weights of the embedded model too
            state.update(path.read_bytes())
    kept = CACHE / f"{state.hexdigest()[:16]}.ipynb"
    if kept.is_file():
        return nbformat.read(kept, as_version=4)
    notebook = jupytext.reads(markdown, fmt="md")
    CACHE.mkdir(parents=True, exist_ok=True)
    NotebookClient(
        notebook,
        kernel_name="python3",
        startup_timeout=600,
        timeout=600,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    ).execute(cwd=str(CACHE))
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    nbformat.write(notebook, kept)
    return notebook


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn formulas into MathML, which browsers draw without a script."""

    def mathml(formula: re.Match[str]) -> str:
        display = "block" if formula[1] == "div" else "inline"
        return convert(html.unescape(formula[2]).strip(), display=display)

    return MATH.sub(mathml, content)
