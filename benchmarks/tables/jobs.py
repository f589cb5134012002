"""What jobs reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from statistics import fmean
from typing import Any

from adjointdpm.evaluation import wilson_interval

from .writing import read, table

WAYS = {
    "plain": "the prompt alone",
    "best of n": "best of 20 samples",
    "noise": "noise, 6 updates",
    "1 inner step": "steps, 1 inner step, each repeated 7 times",
    "4 inner steps": "steps, 4 inner steps, each repeated twice",
}
"""What guide.json calls a way, in words."""

STYLE_GRADIENTS = {
    "sampler": "Exact(memory_budget='1GiB')",
    **{m: m for m in ("CoarseAdjoint(2)", "Truncated(1)", "ContinuousAdjoint()")},
}
"""Gradient methods by what stylize.json calls their runs; the first is the job's own."""

STYLES = {
    "brick, adapter, 0.7": "brick/sampler/0.7",
    "brick, adapter, 1": "brick/sampler/1",
    "coffee, adapter, 0.8": "coffee/sampler/0.8",
    "coffee, adapter, 0.9": "coffee/sampler/0.9",
    "coffee, adapter, 1": "coffee/sampler/1",
    "tissue (`ihc`), adapter, 0.8": "ihc/sampler/0.8",
    "tissue (`ihc`), adapter, 1": "ihc/sampler/1",
    "brick, neural style, 1": "brick/neural/1",
    "coffee, neural style, 1": "coffee/neural/1",
    "tissue, neural style, 1": "ihc/neural/1",
    "brick, fine-tuned": "brick/finetuned",
}
"""What stylize.json calls a run, by what the table does."""


def _guided(names: Iterable[tuple[str, str]]) -> str:
    head = ["way", "calls + products", "judge sees the target (95 % interval)", "metric"]

    def cells(row: dict[str, Any]) -> list[str]:
        low, high = (100 * end for end in row["interval"])
        return [
            f"{row['calls']:.0f} + {row['products']:.0f}",
            f"{row['recognised']} of {row['of']} ({low:.0f} to {high:.0f} %)",
            f"{row['metric']:.1f}",
            f"{row['kid']:.2f} ± {row['kid_std']:.2f}",
            f"{row['cpu_seconds'] / row['of']:.1f}",
        ]

    rows = read("guide")["summaries"]
    return table(
        [*head, "KID to the prompt", "CPU s a picture"],
        ([name, *cells(rows[key])] for key, name in names),
    )


def ways_to_guide() -> str:
    """Return what becomes of pictures that are led to a goal, by the way."""
    rows = read("guide")["summaries"]

    def name(key: str, words: str) -> str:
        settings = rows[key]["settings"]
        return f"{words}, {' or '.join(settings)}" if settings else words

    return _guided((key, name(key, words)) for key, words in WAYS.items())


def ways_by_setting() -> str:
    """Return the same of each way at each of its settings."""
    return _guided((key, key) for key in read("guide")["summaries"] if ", " in key)


def guides_by_gradient() -> str:
    """Return where noises are led in equal CPU time, by gradient method."""
    content = read("guide_gradients")

    def cells(name: str, row: dict[str, Any]) -> list[str]:
        low, high = (100 * end for end in row["interval"])
        updates = {one["updates"] for one in content["rows"][name].values()}
        return [
            f"`{name}`",
            " or ".join(f"{count}" for count in sorted(updates)),
            f"{row['cpu_seconds'] / row['of']:.1f}",
            f"{row['recognised']} of {row['of']} ({low:.0f} to {high:.0f} %)",
            f"{row['judge']:.2f}",
            f"{row['metric']:.1f}",
        ]

    head = ["gradient", "updates", "CPU s a picture", "judge sees the target (95 % interval)"]
    return table(
        [*head, "probability by the judge", "metric"],
        (cells(name, row) for name, row in content["summaries"].items()),
    )


def _kept(row: dict[str, Any]) -> str:
    return f"{row['still_recognised']} of {row['recognised_before']}"


def _style_cells(row: dict[str, Any]) -> list[str]:
    changes = [f"{-row[name]['reduction']:+.0%}" for name in ("classifier", "vgg16-hed")]
    low, high = row["still_recognised_low"], row["still_recognised_high"]
    kept = f"{_kept(row)} ({low:.0%} to {high:.0%})"
    return [*(change.replace("-", "\N{MINUS SIGN}") for change in changes), kept]


STYLE_HEAD = ["Gram distance, optimised", "Gram distance, VGG16", "still recognised"]


def _styles(first: str, runs: dict[str, str], name: str = "stylize") -> str:
    rows = read(name)["rows"]
    return table(
        [first, *STYLE_HEAD],
        ([called, *_style_cells(rows[run])] for called, run in runs.items()),
    )


def styles() -> str:
    """Return what becomes of style and content, by picture and way."""
    return _styles("", STYLES)


def styles_by_gradient() -> str:
    """Return what becomes of style and content in equal CPU time, by gradient method."""
    rows = read("stylize_gradients")["rows"]

    def cells(picture: str, method: str) -> list[str]:
        row = rows[f"{picture}/{method}/1"]
        spent = [f"{len(row['losses'])}", f"{row['cpu_seconds']:.0f}"]
        return [f"{picture}, `{STYLE_GRADIENTS[method]}`", *spent, *_style_cells(row)]

    return table(
        ["", "updates", "CPU s", *STYLE_HEAD],
        (cells(picture, m) for picture in ("brick", "coffee") for m in STYLE_GRADIENTS),
    )


def styles_of_longer_runs() -> str:
    """Return the same for runs with more updates, in the order of their updates and weights."""

    def key(run: str) -> tuple[int, str, float]:
        picture, _, weight, updates = run.split("/")
        return int(updates), picture, float(weight)

    names = {}
    for run in sorted(read("stylize_longer")["rows"], key=key):
        updates, picture, weight = key(run)
        names[f"{picture}, {updates} updates, {weight:g}"] = run
    return _styles("", names, "stylize_longer")


def _style_run(run: str, usual: bool = False) -> dict[str, Any]:
    """Return a run of stylize.json, or what it gives as people draw."""
    found = read("stylize")["rows"][run]
    return found["usual"] if usual else found


def style_fall(run: str, network: str = "classifier", *, usual: bool = False) -> str:
    """Return by how much a run lowers a Gram distance.

    Args:
        run: as stylize.json calls it.
        network: whose features.
        usual: with the pictures drawn as people draw.
    """
    return f"{_style_run(run, usual)[network]['reduction']:.0%}"


def style_kept(run: str, *, usual: bool = False) -> str:
    """Return how many pictures are recognised after a run, of those that were before."""
    return _kept(_style_run(run, usual))


def style_kept_share(run: str) -> str:
    """Return the same as a share."""
    found = _style_run(run)
    return f"{found['still_recognised'] / found['recognised_before']:.0%}"


def style_seconds(end: Callable[[Iterable[float]], float]) -> float:
    """Return the fewest or the most CPU seconds of an adapter's training.

    Args:
        end: ``min`` or ``max``.
    """
    rows = read("stylize")["rows"].items()
    return end(row["cpu_seconds"] for name, row in rows if "/sampler/" in name)


def styles_by_weight() -> str:
    """Return what becomes of style and content for the brick, by content weight."""
    weights = ("0.3", "0.6", "0.7", "0.8", "1", "2")
    return _styles("brick, `content_weight`", {w: f"brick/sampler/{w}" for w in weights})


DISTANCES = ("ssim", "perceptual", "pixel_l2")


def attacks(name: str) -> str:
    """Return the audit in noise beside attacks in pixels, from a file of results."""
    head = [
        "attack",
        "fooled (95 % interval)",
        "and the judge still sees it",
        "fools the judge too",
        "SSIM",
        "perceptual distance",
        "L2 of the pixels",
        "CPU s",
    ]

    def share(rate: dict[str, Any] | None) -> str:
        if rate is None:
            return "none to count"
        low, high = (100 * end for end in rate["interval"])
        return f"{rate['yes']} of {rate['of']} ({low:.0f} to {high:.0f} %)"

    def cells(row: dict[str, Any]) -> list[str]:
        distances = row["distances"]
        return [
            share(row["fooled"]),
            share(row["fooled_and_seen"]),
            share(row["fools_the_judge_too"]),
            *(f"{distances[d]:.2f}" if distances else "" for d in DISTANCES),
            f"{row['cpu_seconds']:.0f}" if "cpu_seconds" in row else "",
        ]

    rows = read(name)["rows"]
    named = {"noise": f"noise, sign steps, box of {read(name)['radius']}"}
    return table(head, ([named.get(key, key), *cells(row)] for key, row in rows.items()))


TEACHERS = {
    "exact": "`Exact`",
    "coarse": "`CoarseAdjoint(3)`",
    "truncated": "`Truncated(2)`",
    "continuous": "`ContinuousAdjoint`",
    "start only": "the start for all of the time, no gradient through the sampler",
    "textual inversion": "textual inversion of five pictures that were given",
}


def words(method: str = "exact") -> list[dict[str, Any]]:
    """Return the rows of one method of teaching."""
    return [row for row in read("embed")["rows"] if row["method"] == method]


def _pooled(found: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Return the pictures of several words that were seen, and all of them."""
    counts = list(found)
    return {key: sum(each[key] for each in counts) for key in ("successes", "trials")}


def _seen(found: dict[str, Any]) -> str:
    return f"{found['successes']} of {found['trials']}"


def share_of_words(when: str, method: str = "exact") -> str:
    """Return in how many pictures of all words the judge saw them, with a Wilson interval.

    Args:
        when: ``before``, ``after`` (both in the style left out) or ``usual`` (in a trained style).
        method: how they were taught.
    """
    found = _pooled(row[when] for row in words(method))
    low, high = wilson_interval(**found)
    return f"{found['successes'] / found['trials']:.0%} ({100 * low:.0f} to {100 * high:.0f})"


def seconds_a_word() -> float:
    """Return the CPU seconds that `Exact` took for a word on average."""
    return fmean(row["cpu_seconds"] for row in words())


def words_taught() -> str:
    """Return how often the judge sees each word before and after it was taught by `Exact`."""

    def cells(row: dict[str, Any]) -> list[str]:
        before, after, usual = (row[when] for when in ("before", "after", "usual"))
        low, high = after["interval"]
        else_seen = [name for name in after["seen"] if name != row["concept"]]
        return [
            row["concept"],
            row["style"],
            _seen(before),
            f"{_seen(after)} ({100 * low:.0f} to {100 * high:.0f} %)",
            _seen(usual),
            else_seen[0] if else_seen else "",
        ]

    head = ["word", "style left out", "before", "after (95 % interval)", "in a trained style"]
    return table([*head, "most often seen instead"], map(cells, words()))


PARTS = {
    "exact": "all of it",
    "exact, no error": "nothing but the classifier in the updates (`inversion_weight=0`)",
    "exact, any distance": "vectors at any distance (`max_distance=None`)",
    "exact, one vector": "one vector",
    "exact, no contexts": "no contexts",
}


def words_without() -> str:
    """Return how often words are seen that were taught without one part of the job each."""
    found = {(row["method"], row["concept"]): row for part in PARTS for row in words(part)}
    known = [c for m, c in found if m == "exact" and all((part, c) in found for part in PARTS)]
    head = [""]
    for concept in known:
        head += [f"{concept}, style left out", f"{concept}, trained style"]
    return table(
        head,
        (
            [told, *(_seen(found[part, c][when]) for c in known for when in ("after", "usual"))]
            for part, told in PARTS.items()
        ),
    )


def _given_to_all() -> tuple[dict[tuple[str, str], dict[str, Any]], list[str]]:
    """Return the rows of all methods, by method and word, and the words that each was given."""
    found = {(row["method"], row["concept"]): row for row in chain(*map(words, TEACHERS))}
    given = [
        row["concept"] for row in words() if all((m, row["concept"]) in found for m in TEACHERS)
    ]
    return found, given


def updates_a_word(method: str = "exact") -> float:
    """Return the mean number of updates for the words that every method was given."""
    found, given = _given_to_all()
    return fmean(found[method, word]["updates"] for word in given)


def words_by_method() -> str:
    """Return how often the judge sees the words that every method was given."""
    found, given = _given_to_all()

    def line(method: str) -> list[str]:
        rows = [found[method, word] for word in given]
        return [
            TEACHERS[method],
            f"{fmean(row['cpu_seconds'] for row in rows):.0f}",
            *(_seen(row["after"]) for row in rows),
            _seen(_pooled(row["after"] for row in rows)),
            _seen(_pooled(row["usual"] for row in rows)),
        ]

    head = ["method", "CPU s a word", *given, "all", "all, in a trained style"]
    return table(head, map(line, TEACHERS))
