"""README and the pages of docs/: links lead somewhere, numbers are those of the files."""

from __future__ import annotations

import json
import re
import runpy
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

import adjointdpm
from benchmarks.documented import BESIDE, RESULTS, ROOT, VALUE, documents, names, renewed, unmarked
from training.model_card import model_card

PAGES = documents()
ALL = [*PAGES, *BESIDE]

DOCS = ROOT / "docs"
ON_THE_SITE = {*DOCS.rglob("*.md"), ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"}
MADE_WITH_THE_SITE = {DOCS / name for name in ("changelog.md", "contributing.md", "tutorial.ipynb")}
"""Pages that a build of the site adds, see docs/_hooks/site.py."""

WRITTEN = {
    "docs/benchmarks/embed.md",
    "docs/benchmarks/gradients_table.md",
    "docs/pipelines.md",
}
"""Whole pages that a program writes, with its numbers."""

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+?)(?: \{.*\})?$", re.MULTILINE)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    texts = HEADING.findall(FENCE.sub("", page.read_text()))
    plain = (re.sub(r"[^\w\s-]", "", text).strip().lower() for text in texts)
    return {re.sub(r"\s", "-", text) for text in plain}


@pytest.mark.parametrize("page", ALL, ids=_id)
def test_links(page: Path) -> None:
    for image, text, target in LINK.findall(FENCE.sub("", page.read_text())):
        assert text, f"{target} has no text to read out"
        parts = urlsplit(target)
        if parts.scheme:
            assert parts.scheme == "https", target
            assert "." in parts.netloc, target
            continue
        found = (page.parent / parts.path).resolve() if parts.path else page
        if found in MADE_WITH_THE_SITE:
            continue
        assert found.exists(), target
        leads_there = page not in ON_THE_SITE or found.is_relative_to(DOCS)
        assert leads_there, f"{target} is not on the site"
        assert not image or found.suffix in (".png", ".svg"), target
        if parts.fragment:
            assert parts.fragment in _anchors(found), target


def test_the_page_of_a_package_index_needs_nothing_beside_it() -> None:
    text = (ROOT / "PACKAGE.md").read_text()
    assert all(target.startswith("https://") for _, _, target in LINK.findall(text))
    [loop] = [block for _, language, block in FENCE.findall(text) if language == "python"]
    assert loop in (ROOT / "README.md").read_text()


def test_what_is_cited_is_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    [in_bibtex] = re.findall(r"version = \{(.*)\}", (DOCS / "citing.md").read_text())
    assert citation["version"] == in_bibtex == adjointdpm.__version__
    assert ("date-released" in citation) == (".dev" not in adjointdpm.__version__)


@pytest.mark.parametrize("page", ALL, ids=_id)
def test_numbers_are_those_of_the_files(page: Path) -> None:
    text = page.read_text()
    assert renewed(text, names()) == text, "run python -m benchmarks.documented"
    for mark in VALUE.finditer(text):
        begins_a_line = text[: mark.start()].rsplit("\n", 1)[-1].strip() == ""
        stands_alone = mark[4].startswith("\n") or not mark[4]
        assert stands_alone or not begins_a_line, f"{mark[1]} begins a line, and would be a block"


@pytest.mark.parametrize("page", ALL, ids=_id)
def test_no_measured_number_is_typed(page: Path) -> None:
    if _id(page) not in WRITTEN:
        assert not unmarked(page.read_text()), "mark them, see benchmarks/documented.py"


def test_marks_are_understood_and_mistakes_are_seen() -> None:
    known = {"run": {"seconds": 1.25}}
    right = '<!-- value run["seconds"] as .1f -->1.2<!-- / --> s'
    assert renewed(right.replace("1.2<", "7<"), known) == right
    with pytest.raises(ValueError, match="KeyError"):
        renewed('<!-- value run["minutes"] --><!-- / -->', known)
    assert unmarked(right) == []
    assert unmarked("took 3.4 s, 20 % or 2× of 5 GiB, `7 s`, <!-- given -->95 %<!-- / -->") == [
        "3.4 s",
        "20 %",
        "2×",
        "5 GiB",
    ]
    assert unmarked("3 of 24 within 1e-14, 0.1 to 0.2, then 0.25, 980 ± 65, $x = 0.5$") == [
        "3 of 24",
        "1e-14",
        "0.1 to 0.2",
        "0.25",
        "± 65",
    ]
    assert (
        unmarked("torch from 2.6, Stable Diffusion 1.5, arXiv 2307.10711, clean-fid 0.1.35") == []
    )


def test_the_model_card_has_the_numbers_of_the_evaluation() -> None:
    evaluation = json.loads((ROOT / "docs" / "model" / "evaluation.json").read_text())
    card = ROOT / "src" / "adjointdpm" / "assets" / "README.md"
    assert model_card(evaluation) == card.read_text()


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_say_where_and_when(path: Path) -> None:
    assert all(f'"{key}": ' in path.read_text() for key in ("machine", "date"))


IN_CODE = re.compile(r"^( *)```.*?^\1```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
DOTTED = re.compile(r"\b(?:adp|adjointdpm)(?:\.[a-zA-Z_]\w*)+")
IMPORTED = re.compile(r"from (adjointdpm[\w.]*) import (\([^)]*\)|.*)")


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """Return what API pages show, by the names there, as the site fills in their stars."""
    site = runpy.run_path(str(ROOT / "docs/_hooks/site.py"))
    text = "\n".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    text = site["ALL_OF"].sub(site["named_one_by_one"], text)
    return {name: _found(name)[-1] for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)}


def _found(name: str) -> list[Any]:
    """Return what a dotted name passes, and at its end what it means."""
    found = [adjointdpm]
    for i, part in enumerate(name.split(".")[1:], 2):
        if isinstance(found[-1], ModuleType) and not hasattr(found[-1], part):
            import_module(".".join(name.split(".")[:i]))
        found.append(getattr(found[-1], part))
    return found


def _used(text: str) -> set[str]:
    """Return the names of the library in a page's code, from its root."""
    code = "\n".join(match[0] for match in IN_CODE.finditer(text))
    names = {re.sub(r"^adp\b", "adjointdpm", name) for name in DOTTED.findall(code)}
    for module, imported in IMPORTED.findall(code):
        names |= {f"{module}.{name}" for name in re.findall(r"\w+", imported)}
    return names


def _is_shown(name: str, shown: dict[str, Any]) -> bool:
    """Say whether API pages show a name or what it is a part of; of a module, anything in it."""
    found = _found(name)
    if isinstance(found[-1], ModuleType):
        return any(each.startswith(f"{name}.") for each in shown)
    return any(part is each for part in found for each in shown.values())


def test_every_public_name_is_on_an_api_page(shown: dict[str, Any]) -> None:
    for name in adjointdpm.__all__:
        is_own = not isinstance(getattr(adjointdpm, name), ModuleType | str)
        assert not is_own or _is_shown(f"adjointdpm.{name}", shown), name


@pytest.mark.parametrize("page", ALL, ids=_id)
def test_names_in_code_are_on_api_pages(page: Path, shown: dict[str, Any]) -> None:
    for name in _used(page.read_text()) - {"adjointdpm.__version__"}:
        assert _is_shown(name, shown), f"{name} is on no page of docs/api"
