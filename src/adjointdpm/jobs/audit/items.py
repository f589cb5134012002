"""The items of an audit: a prompt, a seed and the true label each."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...assets import Concepts, assets_folder, read_concepts
from .config import AuditConfig

EMBEDDED_PROMPTS = 24
"""Prompts of the embedded model, where the settings do not say how many."""
COLUMNS = {"prompt", "label", "target", "seed", "picture"}


def audit_items(config: AuditConfig) -> list[dict[str, Any]]:
    """Return the items that the settings name, each with an ``id`` of its own.

    Args:
        config: settings.

    Returns:
        Items with ``id``, ``prompt``, ``label``, ``target`` (None for any other class), ``picture``
        (a file to begin with, or None) and ``seed``: that of the noise. Each picture has a seed of
        its own, counted from the settings'.

    Raises:
        ValueError: the file is empty or not in UTF-8, or a column is missing, empty or unknown.
        FileNotFoundError: there is no such file.
    """
    rows: list[Mapping[str, Any]]
    if config.prompts_file is None:
        concepts = read_concepts(assets_folder() / "concepts.json")
        rows = [*embedded_prompts(concepts, config.num_prompts or EMBEDDED_PROMPTS)]
    else:
        try:
            rows = list(_read(Path(config.prompts_file)))[: config.num_prompts]
        except UnicodeDecodeError:
            raise ValueError(f"{config.prompts_file} is not in UTF-8; save it as UTF-8") from None
        if not rows:
            raise ValueError(f"{config.prompts_file} has no rows")
    items: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        for copy in range(config.num_images_per_prompt):
            first = row.get("seed")
            seed = (
                config.seed + number * config.num_images_per_prompt if first is None else first
            ) + copy
            item = {
                "prompt": row["prompt"],
                "label": row["label"],
                "target": row.get("target") or config.target,
                "picture": row.get("picture") or None,
                "seed": seed,
            }
            name = _name(item)
            if name in items:
                raise ValueError(f"{config.prompts_file} has the same prompt and seed twice: {row}")
            items[name] = {"id": name, **item}
    _check_targets(list(items.values()))
    return list(items.values())


def embedded_prompts(concepts: Concepts, count: int) -> list[dict[str, Any]]:
    """Return prompts of the embedded model with their labels: every concept before any twice.

    Args:
        concepts: its words; those without a word of their own are left out.
        count: how many.

    Raises:
        ValueError: there are not so many.
    """
    named = [concept for concept in concepts.concepts if not concept.wordless]
    most = len(named) * len(concepts.styles)
    if count > most:
        raise ValueError(
            f"num_prompts is {count}, but the embedded model has {most}; raise "
            "num_images_per_prompt for more pictures of each"
        )
    # A few are spread over all concepts, whose neighbours are alike.
    places = [i * len(named) // count for i in range(count)] if count < len(named) else None
    pairs = [
        (concept, concepts.styles[(i + turn) % len(concepts.styles)])
        for turn in range(len(concepts.styles))
        for i, concept in enumerate(named)
    ]
    chosen = pairs[:count] if places is None else [pairs[i] for i in places]
    return [
        {"prompt": concepts.prompt(concept.name, style), "label": concept.label}
        for concept, style in chosen
    ]


def _read(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a file of prompts."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        is_csv = path.suffix.lower() == ".csv"
        rows = (
            csv.DictReader(file) if is_csv else (json.loads(line) for line in file if line.strip())
        )
        for number, row in enumerate(rows, 2 if is_csv else 1):
            where = f"line {number} of {path}"
            if unknown := set(row) - COLUMNS:
                raise ValueError(f"{where} has the unknown column {min(map(str, unknown))}")
            for name in ("prompt", "label"):
                if not row.get(name):
                    raise ValueError(f"{where} has no {name}; each needs a prompt and a true label")
            seed = row.get("seed")
            yield {**row, "seed": int(seed) if seed not in (None, "") else None}


def _check_targets(items: list[dict[str, Any]]) -> None:
    targeted = [item["target"] is not None for item in items]
    if any(targeted) and not all(targeted):
        raise ValueError(
            f"{sum(targeted)} of {len(items)} items have a target: give one to all or to none"
        )
    for item in items:
        if item["target"] == item["label"]:
            raise ValueError(
                f"the target of {item['prompt']!r} is its own label, {item['label']!r}"
            )


def _name(item: Mapping[str, Any]) -> str:
    """Return a name for files: words of the prompt, what else tells items apart, and the seed."""
    words = re.sub(r"[^a-z0-9]+", "-", item["prompt"].lower()).strip("-")[:40]
    rest = json.dumps([item["prompt"], item["label"], item["target"], item["picture"]])
    return f"{words}-{hashlib.sha256(rest.encode()).hexdigest()[:6]}-{item['seed']}"
