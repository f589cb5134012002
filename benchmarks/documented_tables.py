"""The tables and phrases of the documents, from what the benchmarks wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "docs" / "benchmarks"

CALLS = (10, 50, 200, 1000)
PRODUCTS = (5, 8, 12, 17, 25)

OURS = (
    "Exact",
    "Exact, all graphs kept",
    "Exact, sqrt(N) latents",
    "Backprop",
    "Symplectic",
    "Reversible",
    "CoarseAdjoint, N/4",
    "Truncated, N/4",
    "ContinuousAdjoint, recorded",
    "ContinuousAdjoint, resolved",
    "ContinuousAdjoint, as in the paper",
)
PEERS = (
    "by hand",
    "by hand, torch checkpoint",
    "torchdiffeq odeint",
    "torchdiffeq odeint_adjoint",
    "torchdiffeq odeint_adjoint, states at the grid",
)
"""Those that take part in all contests."""
OTHERS = (
    "torchode AutoDiffAdjoint",
    "torchode BacksolveAdjoint",
    "torchode JointBacksolveAdjoint",
    "diffrax RecursiveCheckpointAdjoint",
    "diffrax BacksolveAdjoint",
)

RULES = (
    "interpolated, density 1.5",
    "interpolated, density 1.25",
    "interpolated, equal blocks",
    "unipc_bh2_2, density 1.5",
    "dpmpp_2m, density 1.5",
    "ddim, density 1.5",
    "ddim, equal blocks",
    "adjoint ODE, flow form, ab2",
    "adjoint ODE, noise form, ab2",
)
"""Those of coarse.json, in the order of the tables."""

CHANGES = {
    "nothing": "nothing happens",
    "rounding": "another order of all sums in each run",
    "all weights by 1e-3": "all weights scaled by 1 + 1e-3",
    "one layer by 1e-3": "those of one layer",
}
"""What rounding.json says of changes, in words."""


def _read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table with lines around it, as a mark that stands alone needs them."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n"


def size(number_of_bytes: float) -> str:
    """Write bytes with three digits and a unit."""
    unit, name = (2**30, "GiB") if number_of_bytes >= 1000 * 2**20 else (2**20, "MiB")
    return f"{number_of_bytes / unit:.3g}\N{NO-BREAK SPACE}{name}"


def worst_error(contest: str, method: str) -> float:
    """Return the largest relative error of a method over all targets, in float64."""
    targets = _read("gradients")["errors"][contest][method]["float64"]
    return max(target["relative_error"] for target in targets.values())


def lowest_cosine(contest: str, method: str) -> float:
    """Return the lowest cosine of a method over all targets, in float64."""
    targets = _read("gradients")["errors"][contest][method]["float64"]
    return min(target["cosine"] for target in targets.values())


def peak(contest: str, method: str, calls: int) -> str:
    """Return the most bytes that a gradient held at once."""
    found = _read("gradients")["memory"][contest][method].get(str(calls))
    return size(found) if found else ""


def ratio(contest: str, method: str, to: str = "network calls") -> float:
    """Return the time of a method, in that of another."""
    time = _read("gradients")["time"][contest]
    return time[method]["ratio"] / time[to]["ratio"]


def milliseconds(contest: str, method: str) -> float:
    """Return how long a gradient took."""
    return 1000 * _read("gradients")["time"][contest][method]["seconds"]


def side_by_side(contest: str, methods: Sequence[str]) -> str:
    """Return errors, time and memory of gradient methods on one problem."""
    return _table(
        ["method", "largest error", "lowest cosine", "time", *[f"peak, N = {n}" for n in CALLS]],
        (
            [
                method,
                f"{worst_error(contest, method):.1g}",
                f"{lowest_cosine(contest, method):.3f}",
                f"{ratio(contest, method):.2f}",
                *[peak(contest, method, calls) for calls in CALLS],
            ]
            for method in methods
        ),
    )


def measured_on(phase: str) -> str:
    """Say on what machine and with which versions a phase of gradients.json was measured."""
    settings = _read("gradients")["settings"][phase]
    machine = settings["machine"]
    return f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}"


def by_steps() -> str:
    """Return how good `CoarseAdjoint` is, by sampler, steps and share of products."""
    rows = _read("coarse_steps")["rows"]
    runs = list(dict.fromkeys((row["scheduler"], row["num_inference_steps"]) for row in rows))

    def cell(row: dict[str, Any]) -> str:
        return f"{row['cosine']:.3f} / {row['relative_error']:.2f} ({row['estimate']:.2f})"

    return _table(
        ["sampler, steps", "N/4", "N/3", "N/2", "3N/4"],
        (
            [f"{name}, {steps}"]
            + [cell(r) for r in rows if (r["scheduler"], r["num_inference_steps"]) == (name, steps)]
            for name, steps in runs
        ),
    )


def by_rule(scheduler: str) -> str:
    """Return the lowest cosine and mean error of reverse rules, by the number of products."""
    rows = [row for row in _read("coarse")["rows"] if row["scheduler"] == scheduler]

    def cell(rule: str, calls: int) -> str:
        own = [row for row in rows if (row["rule"], row["reverse_calls"]) == (rule, calls)]
        error = sum(row["relative_error"] for row in own) / len(own)
        number = f"{error:.2f}" if error < 10 else f"{error:.0e}"
        return f"{min(row['cosine'] for row in own):.3f} / {number}"

    return _table(
        [f"on {scheduler}", *[f"M = {calls}" for calls in PRODUCTS]],
        ([rule, *[cell(rule, calls) for calls in PRODUCTS]] for rule in RULES),
    )


WAYS = {
    "plain": "the prompt alone",
    "best of n": "best of 20 samples",
    "noise": "noise, 6 updates",
    "one-step, strength 0.25": "steps, 1 inner step, strength 0.25, each repeated 7 times",
    "4 inner steps, strength 0.25": "steps, 4 inner steps, strength 0.25, each repeated twice",
}
"""What guide.json calls a way, in words."""


def ways_to_guide() -> str:
    """Return what becomes of pictures that are led to a goal, by the way."""

    seen = "judge sees the target (95 % interval)"

    def cells(row: dict[str, Any]) -> list[str]:
        low, high = (100 * end for end in row["interval"])
        return [
            f"{row['calls']:.0f}",
            f"{row['recognised']} of {row['of']} ({low:.0f} to {high:.0f} %)",
            f"{round(row['metric'], 1) + 0.0:.1f}",  # no minus before a zero
            f"{row['kid']:.2f} ± {row['kid_std']:.2f}",
            f"{row['cpu_seconds']:.0f}",
        ]

    return _table(
        ["way", "calls", seen, "metric", "KID to the prompt", "CPU s"],
        ([name, *cells(_read("guide")["rows"][way])] for way, name in WAYS.items()),
    )


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


def _styles(first: str, runs: dict[str, str]) -> str:
    def cells(row: dict[str, Any]) -> list[str]:
        changes = [f"{-row[name]['reduction']:+.0%}" for name in ("classifier", "vgg16-hed")]
        low, high = row["still_recognised_low"], row["still_recognised_high"]
        kept = f"{row['still_recognised']} of {row['recognised_before']} ({low:.0%} to {high:.0%})"
        return [*(change.replace("-", "\N{MINUS SIGN}") for change in changes), kept]

    return _table(
        [first, "Gram distance, optimised", "Gram distance, VGG16", "still recognised"],
        ([name, *cells(_read("stylize")[run])] for name, run in runs.items()),
    )


def styles() -> str:
    """Return what becomes of style and content, by picture and way."""
    return _styles("", STYLES)


def styles_by_weight() -> str:
    """Return what becomes of style and content for the brick, by content weight."""
    weights = ("0.3", "0.6", "0.7", "0.8", "1", "2")
    return _styles("brick, `content_weight`", {w: f"brick/sampler/{w}" for w in weights})


def worst_prediction(what: str) -> float:
    """Return how far `Sampler.cost` was off at most, in seconds or peak memory."""
    rows = _read("cost")["rows"] + _read("cost_weights")["rows"]
    return max(abs(row[f"{what}_ratio"] - 1) for row in rows)


def faster(peer: str, method: str) -> str:
    """Return how many times as fast as a peer a method is, from contest to contest."""
    times = _read("gradients")["time"]
    found = [ratio(contest, peer, method) for contest in times if "mixture" not in contest]
    return f"{min(found):.2f} to {max(found):.2f}"


def told_apart() -> str:
    """Return how many gradients raised after each change, by dtype."""
    rows = {(row["dtype"], row["what"]): row for row in _read("rounding")}

    def cell(dtype: str, what: str) -> str:
        row = rows[dtype, what]
        change = f"{row['largest_change']:.1g}"
        return f"{row['raised']} of {row['gradients']} (largest change {change})"

    dtypes = ("float32", "bfloat16")
    return _table(
        ["measured on a CPU, the embedded model, 4 steps with guidance", *dtypes],
        ([name, *[cell(dtype, what) for dtype in dtypes]] for what, name in CHANGES.items()),
    )


def _continuous(**keys: Any) -> dict[str, Any]:
    """Return the one row of continuous.json with these keys."""
    [row] = [row for row in _read("continuous")["rows"] if keys.items() <= row.items()]
    return row


def _errors(row: dict[str, Any]) -> str:
    """Write the relative errors of noise, embedding and weights."""
    if "refused" in row:
        return "refused"
    return " / ".join(f"{error['relative_error']:.2g}" for error in row["errors"].values())


FORMS = ("flow", "angle", "noise", "data")
REVERSE_SOLVERS = (
    "heun, own grid",
    "heun, 25 steps",
    "heun, 12 steps",
    "ab2, own grid",
    "ab2, 25 steps",
    "euler, own grid",
    "euler, 25 steps",
    "bs3, rtol=1e-2",
    "dopri5, rtol=1e-2",
)
"""Settings of continuous.json, in the order of the table."""


def by_form() -> str:
    """Return the errors of `ContinuousAdjoint`, by solver and form."""

    def cells(setting: str) -> list[str]:
        rows = [_continuous(setting=setting, form=form) for form in FORMS]
        return [f"{_errors(row)} ({row.get('reverse_calls', '')})" for row in rows]

    return _table(["reverse solver", *FORMS], ([name, *cells(name)] for name in REVERSE_SOLVERS))


def by_truncation() -> str:
    """Return the cosines of `Truncated`, by calls and mode."""

    def cells(setting: str) -> list[str]:
        errors = _continuous(setting=setting)["errors"]
        return [f"{error['cosine']:.2f}" for error in errors.values()]

    settings = [f"last={k}, {mode}" for k in (5, 25) for mode in ("detach_steps", "detach_outputs")]
    return _table(
        ["cosine, N = 50", "noise", "embedding", "weights"],
        ([setting, *cells(setting)] for setting in settings),
    )


def of_the_ode() -> str:
    """Return how far the gradient of the ODE is from that of the sampler, by steps."""
    steps = (10, 20, 50, 100)
    return _table(
        ["sampler", *[f"{n} steps" for n in steps]],
        (
            [
                name,
                *[
                    _errors(_continuous(setting="default", scheduler=name, num_inference_steps=n))
                    for n in steps
                ],
            ]
            for name in ("DDIM", "DPM-Solver++")
        ),
    )


def scaling_workers(name: str) -> str:
    """Write the table of how many workers are worth their place in training a network."""
    scaling = _read("scaling")
    rows = [
        [
            kind,
            f"{row['seconds']:.2f} s",
            *[_count(row[link]["workers"]) for link in scaling["links"]],
        ]
        for kind, row in scaling["on_paper"]["training"][name].items()
    ]
    return _table(["update", "alone", *scaling["links"]], rows)


def scaling_pictures(name: str) -> str:
    """Write the table of how many pictures a worker needs to be worth its place among many."""
    scaling = _read("scaling")
    rows = [
        [kind, *[_count(row[link]["pictures"], 1000) for link in scaling["links"]]]
        for kind, row in scaling["on_paper"]["training"][name].items()
    ]
    return _table(["update", *scaling["links"]], rows)


def scaling_audits() -> str:
    """Write the table of what audits take."""
    rows = [
        [
            name,
            f"{row['seconds_per_update']:.3g} s",
            f"{1e3 * row['driver_seconds_per_update']:.2g} ms",
            _count(int(row["workers"])),
            f"{row['worker_hours_per_million']:,.0f}",
            f"{row['simulated_efficiency']:.1%}",
        ]
        for name, row in _read("scaling")["on_paper"]["audit"].items()
    ]
    head = ["model", "update of 8 pictures", "of it the driver's", "workers at most"]
    return _table([*head, "worker hours for a million", "efficiency of 16, simulated"], rows)


def _count(number: int, most: int = 2**20) -> str:
    return f"over {most:,}" if number >= most else f"{number:,}"
