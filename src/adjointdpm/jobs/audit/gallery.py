"""The pictures of an audit, as its page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...report import Shown, data_uri, percent
from .panel import read_picture
from .summary import is_fooled, still_seen

MOST_SHOWN = 400
"""Items in the gallery; all of them are in ``results.jsonl``."""
SMALL = 128
"""Pictures up to this width are within the page; larger ones stay files beside it."""
ORDER = ("seen", "fooled", "held", "wrong", "broken")
"""What becomes of items, in the order of the gallery."""


@dataclass(frozen=True)
class Card:
    """An item in the gallery.

    Args:
        kind: what became of it, as the gallery sorts it.
        verdict: the same in words.
        label: its true class.
        prompt: what it is of.
        seed: of its noise.
        pictures: source, alternative text and lines below, of the start and the strongest.
        margin: by how much the true class is ahead in the strongest picture.
        ssim: of the strongest picture and the start.
        evaluations: how many sampling runs with a gradient it took.
    """

    kind: str
    verdict: str
    label: str
    prompt: str
    seed: int
    pictures: list[tuple[str, str, Sequence[str]]]
    margin: float
    ssim: float
    evaluations: int


def gallery(results: Sequence[Mapping[str, Any]], folder: Path, judged: bool) -> list[Card]:
    """Return what the gallery shows: those that were fooled first, and of them the worst.

    Args:
        results: one an item, whole.
        folder: where their pictures are.
        judged: whether a judge looked on.
    """
    cards = [_card(result, folder, judged) for result in results[:MOST_SHOWN]]
    return sorted(cards, key=lambda card: (ORDER.index(card.kind), card.margin))


def _card(result: Mapping[str, Any], folder: Path, judged: bool) -> Card:
    wrong = result["start"]["answer"] != result["label"]
    if result["status"] == "not finite":
        kind, verdict = "broken", "numbers that are not finite"
    elif wrong:
        kind, verdict = "wrong", "wrong from the start"
    elif not is_fooled(result, "best"):
        kind, verdict = "held", "not fooled"
    elif judged and still_seen(result):
        kind, verdict = "seen", "fooled, and the judge still sees it"
    else:
        kind, verdict = (
            "fooled",
            "fooled" if not judged else "fooled, but the judge sees another thing",
        )
    return Card(
        kind=kind,
        verdict=verdict,
        label=result["label"],
        prompt=result["prompt"],
        seed=result["seed"],
        pictures=[
            _on_card(show(result, which, folder), result[which]["picture"])
            for which in ("start", *(() if wrong else ("best",)))
        ],
        margin=result["best"]["margin"],
        ssim=1.0 if result["best"]["ssim"] is None else result["best"]["ssim"],
        evaluations=result["evaluations"],
    )


def _on_card(shown: Shown, name: str) -> tuple[str, str, Sequence[str]]:
    """Return source, alternative text and lines of a picture."""
    small = shown.image.shape[2] <= SMALL
    return data_uri(shown.image) if small else name, shown.alt, shown.lines


def show(result: Mapping[str, Any], which: str, folder: Path) -> Shown:
    """Return a picture of an item with what is said of it.

    Args:
        result: of the item, whole.
        which: ``start``, ``last`` or ``best``.
        folder: where its pictures are.
    """
    reading = result[which]
    image = read_picture(folder / reading["picture"])
    when = "as it is drawn" if which == "start" else "after the attack"
    alt = (
        f"{result['prompt']}, seed {result['seed']}, {when}: the classifier says "
        f"“{reading['answer']}”"
    )
    lines = [f"{reading['answer']} {percent(reading['confidence'])}"]
    if reading["judge"] is not None:
        alt += f", the judge “{reading['judge']}”"
        lines.append(f"judge: {reading['judge']}")
    return Shown(image, alt, lines)
