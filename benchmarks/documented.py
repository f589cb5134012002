"""The numbers of the documents: each is computed from the files that the benchmarks wrote.

    python -m benchmarks.documented    # renews them all

A document marks a number, or a table, by what it is:

    <!-- value core["time"]["exact"] as .2f -->1.00<!-- / -->

is an expression over the JSON files of docs/benchmarks, by their names, and over the functions of
`benchmarks.tables`, with a format. What is no measurement, but a goal or a setting with
a unit, is marked as given:

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
)  # fmt: skip

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "benchmarks"

VALUE = re.compile(r"(<!-- value (.+?)(?: as (\S+))? -->)(.*?)(<!-- / -->)", re.DOTALL)
GIVEN = re.compile(r"<!-- given -->.*?<!-- / -->", re.DOTALL)
CODE = re.compile(r"^( *)```.*?^\1```|`[^`\n]*`|\]\([^)]*\)", re.DOTALL | re.MULTILINE)
UNIT = re.compile(
    r"(?<![\w.])\d[\d.,e-]*\s?(?:%|×|dB\b|[KMG]iB\b|[mµ]?s\b|(?:milli)?seconds\b|minutes\b|times\b)"
)


def documents() -> list[Path]:
    """Return the README and all pages of the site."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def names() -> dict[str, Any]:
    """Return what an expression may use: all results, and the tables."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    return {
        **vars(audits),
        **vars(experiments),
        **vars(exponential),
        **vars(jobs),
        **vars(methods),
        **vars(networks),
        **vars(peers),
        **vars(scaling),
        **results,
    }


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
    """Return the numbers with units that a document neither computes nor calls given."""
    for pattern in (VALUE, GIVEN, CODE):
        text = pattern.sub("", text)
    return [match[0] for match in UNIT.finditer(text)]


def main() -> None:
    known = names()
    for path in documents():
        text = path.read_text()
        if (new := renewed(text, known)) != text:
            path.write_text(new)
            print(f"renewed {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
