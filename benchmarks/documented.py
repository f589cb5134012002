"""The numbers of the documents: each is computed from the files that the benchmarks wrote.

    python -m benchmarks.documented    # renews them all

A document marks a number, or a table, by what it is:

    <!-- value core["time"]["exact"] as .2f -->1.00<!-- / -->

is an expression over the JSON files of docs/benchmarks, by their names, and over the functions of
`benchmarks.tables`, with a format. `file_block` shows a file that the site does not have. What only
looks like a measurement (`NUMBER`), but is a goal, a setting or a limit, is marked as given:

    <!-- given -->95 %<!-- / -->
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.tables import (
    audits,
    experiments,
    exponential,
    jobs,
    methods,
    networks,
    peers,
    scaling,
    solvers,
)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "benchmarks"

BESIDE = [
    ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "PACKAGE.md", "training/README.md")
]
"""Pages outside of the site."""

VALUE = re.compile(r"(<!-- value (.+?)(?: as (\S+))? -->)(.*?)(<!-- / -->)", re.DOTALL)
GIVEN = re.compile(r"<!-- given -->.*?<!-- / -->", re.DOTALL)
CODE = re.compile(
    r"^( *)```.*?^\1```|`[^`\n]*`|\]\([^)]*\)|\$\$.*?\$\$|\$[^$\n]+\$", re.DOTALL | re.MULTILINE
)
"""Code, addresses and formulas."""

VERSION = re.compile(
    r"\b(?:Diffusion|Kandinsky|Wan|CogVideoX|CC-BY|Python|torch|diffusers|transformers)"
    r"(?: from)? \d+\.\d+(?:(?:,| and| to) \d+\.\d+)*|\bApache-2\.0\b|\b\d{4}\.\d{5}\b"
)
"""Versions of what has a name, and numbers of arXiv."""

_N = r"\d(?:[\d.,]*\d)?(?:e-?\d+)?"
NUMBER = re.compile(
    rf"(?<![\w.])(?:{_N}\s?(?:%|×|dB\b|[KMG]iB\b|[mµ]?s\b|(?:milli)?seconds\b|minutes\b|times\b)"
    rf"|{_N}\sof\s(?:the\s)?{_N}|-?{_N}\sto\s-?{_N}"
    r"|\d+(?:\.\d+)?e-?\d+|\d+\.\d+(?!\d|\.\d)|±\s?\d[\d.]*)"
)
"""What may have been measured: with a unit, "3 of 4", "0.1 to 0.2", decimals, powers of ten."""


def documents() -> list[Path]:
    """Return the README and all pages of the site."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def names() -> dict[str, Any]:
    """Return what an expression may use: all results, and the tables."""
    files = [*sorted(RESULTS.glob("*.json")), ROOT / "docs" / "model" / "evaluation.json"]
    results = {path.stem: json.loads(path.read_text()) for path in files}
    return {
        **vars(audits),
        **vars(experiments),
        **vars(exponential),
        **vars(jobs),
        **vars(methods),
        **vars(networks),
        **vars(peers),
        **vars(scaling),
        **vars(solvers),
        "file_block": file_block,
        **results,
    }


def file_block(path: str) -> str:
    """Return a file of the repository as a block of code."""
    return f"\n```{Path(path).suffix[1:]}\n{(ROOT / path).read_text()}```\n"


def renewed(text: str, known: dict[str, Any]) -> str:
    """Return a document with each marked value computed anew."""

    def value(mark: re.Match[str]) -> str:
        try:
            found = format(eval(mark[2], dict(known)), mark[3] or "")
        except Exception as error:
            raise ValueError(f"the mark {mark[1]} cannot be computed: {error!r}") from error
        return f"{mark[1]}{found}{mark[5]}"

    return VALUE.sub(value, text)


def unmarked(text: str) -> list[str]:
    """Return the numbers that look measured, and are neither computed nor called given."""
    for pattern in (VALUE, GIVEN, CODE, VERSION):
        text = pattern.sub("", text)
    return [match[0] for match in NUMBER.finditer(text)]


def main() -> None:
    known = names()
    for path in [*documents(), *BESIDE]:
        text = path.read_text()
        if (new := renewed(text, known)) != text:
            path.write_text(new)
            print(f"renewed {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
