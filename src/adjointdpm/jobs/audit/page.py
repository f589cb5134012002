"""The report of the job `audit`: a page with a gallery, and the numbers for a machine to read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ...evaluation import SetDistance, SuccessRate
from ...report import (
    Fact,
    RunPage,
    ShownRow,
    WrittenFile,
    curves_svg,
    duration,
    size,
    write_run_page,
)
from .gallery import gallery, show
from .run import AuditResult
from .summary import Summary, is_fooled

EXAMPLES = 4
"""Items that stand for all where there is no room for the gallery."""

LOAD_NOISE = """\
import json
import adjointdpm as adp

results = [json.loads(line) for line in open("results.jsonl")]
saved = adp.formats.load_noise(results[0]["noise"], pipe.device)  # of one that was fooled
"""

DISTANCE_NAMES = {
    "linf": "noise, largest change of an entry",
    "l2": "noise, length of the change",
    "ssim": "picture, SSIM (1 is the same)",
    "perceptual": "picture, distance of features (0 to 4)",
    "pixel_l2": "picture, length of the change",
}


def write_audit_report(result: AuditResult, command: str) -> Path:
    """Write ``report.html`` and ``numbers.json``.

    Args:
        result: what came of the audit.
        command: how it was called.

    Returns:
        The page.
    """
    folder = Path(result.config.output_dir)
    whole = [r for r in result.results if "error" not in r]
    cards = gallery(whole, folder, result.judged)
    numbers = {
        "command": command,
        "config": asdict(result.config),
        **asdict(result.summary),
        "predicted": asdict(result.predicted),
        "certificate": None if result.certificate is None else asdict(result.certificate),
        **result.usage(),
    }
    return write_run_page(
        folder,
        "jobs/audit",
        audit_page(result, command),
        numbers,
        result=result,
        summary=result.summary,
        cards=cards,
        left_out=len(whole) - len(cards),
        rates=_rates(result.summary),
        distances=_distances(result.summary),
        sets=_sets(result.summary),
        cost=_cost(result),
        small=bool(cards) and cards[0].pictures[0][0].startswith("data:"),
    )


def audit_page(result: AuditResult, command: str) -> RunPage:
    """Return what the report shows beside its gallery, with a few pictures that fool.

    Args:
        result: what came of the audit.
        command: how it was called.
    """
    config, folder = result.config, Path(result.config.output_dir)
    fooled = [r for r in result.results if "error" not in r and is_fooled(r, "best")]
    files = [
        WrittenFile("results.jsonl", "one line an item: seeds, answers, distances, cost"),
        WrittenFile("pictures/", "the pictures that were judged, before and after"),
    ]
    if any(r.get("noise") for r in result.results):
        files.append(
            WrittenFile(
                "noises/", "the noises that fool, for the pipeline", LOAD_NOISE + result.drawing
            )
        )
    curve = _curve(result)
    return RunPage(
        title="An audit of a classifier",
        command=command,
        settings=asdict(config),
        environment=result.environment,
        facts=_facts(result),
        pictures=[
            ShownRow(r["label"], [show(r, which, folder) for which in ("start", "best")])
            for r in fooled[:EXAMPLES]
        ],
        curves=[curve] if curve else [],
        certificate=result.certificate,
        files=files,
    )


def _facts(result: AuditResult) -> list[Fact]:
    summary = result.summary
    shown = [
        (summary.accuracy, "pictures as they are drawn that the classifier gets right"),
        (summary.fooled, "of those, fooled inside the bounds"),
        (summary.fooled_and_seen, "fooled while the judge still sees the true class"),
    ]
    facts = [
        Fact(f"{rate.successes} of {rate.trials}", f"{meaning} (interval {_interval(rate)})")
        for rate, meaning in shown
        if rate is not None and (result.judged or rate is not summary.fooled_and_seen)
    ]
    taken = f"of this run; at most {size(result.peak_memory)} of memory"
    return [*facts, Fact(duration(result.seconds), taken)]


def _interval(rate: SuccessRate) -> str:
    return f"{100 * rate.low:.0f} to {100 * rate.high:.0f} %"


def _curve(result: AuditResult) -> str | None:
    """Return the plot of how many are fooled by how many sampling runs."""
    attacked = [
        r
        for r in result.results
        if "error" not in r and r["start"]["answer"] == r["label"] and r["status"] != "not finite"
    ]
    when = [r["best"]["evaluation"] for r in attacked if is_fooled(r, "best")]
    if not when or not result.config.stop_at_success:
        return None
    last = max(r["evaluations"] for r in attacked)
    shares = [100 * sum(w <= k for w in when) / len(attacked) for k in range(last)]
    return curves_svg(
        {"fooled": shares},
        xlabel="steps of an item",
        ylabel="fooled, %",
        description=f"How many are fooled by how many steps, up to {shares[-1]:.0f} %.",
    )


def _rates(summary: Summary) -> list[list[str]]:
    named = {
        "right about pictures as they are drawn": summary.accuracy,
        "fooled at the last noise": summary.fooled_last,
        "fooled at the strongest noise": summary.fooled,
        "fooled while the judge sees the true class": summary.fooled_and_seen,
        "of the fooled, the judge still sees the true class": summary.seen,
    }
    named |= {f"of the fooled, fool {name} too": rate for name, rate in summary.transfer.items()}
    return [
        [name, f"{rate.successes} of {rate.trials}", f"{100 * rate.rate:.0f} %", _interval(rate)]
        for name, rate in named.items()
        if rate is not None
    ]


def _distances(summary: Summary) -> list[list[str]]:
    rows = {DISTANCE_NAMES[name]: spread for name, spread in summary.distances.items()}
    if summary.evaluations is not None:
        rows["sampling runs with a gradient"] = summary.evaluations
    if summary.inversion is not None:
        rows["given pictures from what is drawn from their noise"] = summary.inversion
    return [
        [name, *(f"{value:.3g}" for value in (row.low, row.median, row.high))]
        for name, row in rows.items()
    ]


def _sets(summary: Summary) -> list[list[str]]:
    named: dict[str, SetDistance | None] = {
        "fooled, to their own starts": summary.to_starts,
        "fooled, to pictures of other items": summary.to_others,
        "their starts, to the same pictures": summary.starts_to_others,
    }
    return [
        [name, _kid(found), f"{found.fid:.2f}", " and ".join(map(str, found.num_pictures))]
        for name, found in named.items()
        if found is not None
    ]


def _kid(found: SetDistance) -> str:
    assert found.kid is not None
    assert found.kid_std is not None
    return f"{1000 * found.kid:.2f} ± {1000 * found.kid_std:.2f}"


def _cost(result: AuditResult) -> list[list[str]]:
    predicted, summary = result.predicted, result.summary
    calls = predicted.forward_calls + predicted.recomputed_calls + predicted.products
    evaluations = sum(r.get("evaluations", 0) for r in result.results)
    return [
        ["sampling runs with a gradient, of all items", f"{evaluations}"],
        ["network calls and products of one, predicted", f"{calls}"],
        ["network calls and products of all items", f"{summary.network_calls}"],
        ["an update of a whole batch, predicted", duration(predicted.seconds)],
        ["time of all items, each its share of a batch", duration(summary.item_seconds)],
        ["time of this run", duration(result.seconds)],
        ["gradients that were zero", f"{summary.zero_gradients}"],
    ]
