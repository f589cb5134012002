"""What experiments found: stability, exponential integration, quality, inversion."""

from __future__ import annotations

from statistics import median
from typing import Any

from .writing import read, size, table


def inversions() -> str:
    """Return how near a sampler comes to pictures from the noise that each way finds."""
    head = ["way", "error of the latents", "of the pixels", "std of the noise", "network calls"]

    def cells(row: dict[str, Any]) -> list[str]:
        return [
            f"{row['latent_error']:.4f} (at most {row['largest_latent_error']:.4f})",
            f"{row['pixel_error']:.4f}",
            f"{row['noise_std']:.2f}",
            f"{row['network_calls']}",
        ]

    return table(head, ([name, *cells(row)] for name, row in read("inversion")["rows"].items()))


def explosions(with_form: bool) -> str:
    """Return how often samplers explode, and the median of their largest errors.

    Args:
        with_form: of ODE methods in each form, or of exponential integrators.
    """
    rows = [row for row in read("stability")["rows"] if bool(row["form"]) == with_form]
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = (row["solver"], row["form"]) if with_form else (row["solver"],)
        found.setdefault(key, []).append(row)

    def line(key: tuple[str, ...]) -> list[str]:
        few = [row for row in found[key] if row["budget"] <= 20]
        exploded = sum(row["largest_error"] > 1 for row in few)
        medians = [
            median(row["largest_error"] for row in found[key] if row["budget"] == calls)
            for calls in (10, 20, 50)
        ]
        return [*key, f"{exploded} of {len(few)}", *[f"{m:.2g}" for m in medians]]

    names = ["solver", "form"] if with_form else ["solver"]
    return table(
        [*names, "explodes, up to 20 calls", "error at 10 calls", "at 20", "at 50"],
        map(line, found),
    )


def errors_by_form(network: str, process: str, calls: int) -> str:
    """Return the errors of solvers in each form, at their better spacing.

    Args:
        network: as exponential.json names it.
        process: likewise.
        calls: the most network calls, give or take a tenth.
    """
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in read("exponential")["rows"]:
        # Adams methods start with Runge-Kutta steps, which take calls of their own.
        if (row["network"], row["process"]) != (network, process) or row["calls"] > 1.1 * calls:
            continue
        key = row["solver"], row["form"]
        known = best.get(key)
        if known is None or (-row["budget"], row["sample_error"]) < (
            -known["budget"],
            known["sample_error"],
        ):
            best[key] = row

    def cell(solver: str, form: str) -> str:
        row = best.get((solver, form))
        return f"{row['sample_error']:.2g} / {row['gradient_error']:.2g}" if row else ""

    with_form = list(dict.fromkeys(solver for solver, form in best if form))
    own = [solver for solver, form in best if not form]
    return table(
        ["solver", "x", "noise", "flow", "its own"],
        [
            *([s, *[cell(s, form) for form in ("x", "noise", "flow")], ""] for s in with_form),
            *([s, "", "", "", cell(s, "")] for s in own),
        ],
    )


def reference_error(network: str) -> str:
    """Return how far exponential.json's reference is from itself with half its steps.

    Args:
        network: as exponential.json names it.
    """
    rows = [row for row in read("exponential")["rows"] if row["network"] == network]
    half = max(rows, key=lambda row: row["budget"])
    return f"{half['sample_error']:.2g} / {half['gradient_error']:.2g}"


def by_steps_on_terrain(solver: str = "ddim") -> str:
    """Return how good gradient methods are on somebody else's network, by number of steps."""
    rows = [row for row in read("terrain")["rows"] if row["solver"] == solver]
    steps = sorted({row["num_inference_steps"] for row in rows})

    def cell(method: str, count: int) -> str:
        for row in rows:
            if (row["method"], row["num_inference_steps"]) == (method, count):
                text = f"{row['cosine_noise']:.3f} / {row['error_noise']:.2g}"
                estimate = row.get("estimate")
                return text if estimate is None else f"{text} ({estimate:.2g})"
        return ""

    return table(
        ["method", *[f"N = {count}" for count in steps]],
        (
            [f"`{method}`", *[cell(method, count) for count in steps]]
            for method in dict.fromkeys(row["method"] for row in rows)
        ),
    )


def least_estimate_on_terrain(error: float) -> float:
    """Return the least that a method says of its error where it is so large at least."""
    rows = [row for row in read("terrain")["rows"] if row["error_noise"] >= error]
    return min(float(row["estimate"]) for row in rows if row.get("estimate") is not None)


def sample_quality(reference: str) -> str:
    """Return FID and KID by solver, network calls and feature network."""

    def interval(found: dict[str, float], digits: int) -> str:
        return f"{found['value']:.{digits}f} ± {found['half_width']:.{digits}f}"

    return table(
        ["solver", "calls", "features", "samples", "FID", "KID × 1000"],
        (
            [
                row["solver"],
                str(row["calls"]),
                f"{row['feature_network']}, {row['num_features']}",
                str(row["num_images"]),
                interval(row["fid"], 1),
                interval(row["kid_x_1000"], 0),
            ]
            for row in read("quality")["rows"]
            if row["reference"] == reference
        ),
    )


def non_smooth() -> str:
    """Return metrics with steps in them, before and after each way of differentiating them."""
    ways = {
        "exact": "its own derivative",
        "without the step": "without the step",
        "straight_through": "straight through",
        "smooth": "smooth",
    }

    def line(row: dict[str, Any], seed: int) -> list[str]:
        after = {way: row[way]["after"] for way in ways}
        best = f"{max(after.values()):.2f}"
        cells = [f"{value:.2f}" for value in after.values()]
        return [
            row["metric"] if seed == 0 else "",
            f"seed {seed}",
            f"{row['before']:.2f}",
            *[f"**{cell}**" if cell == best else cell for cell in cells],
        ]

    pairs = zip(*(read(f"non_smooth_{seed}")["rows"] for seed in (0, 1)), strict=True)
    return table(
        ["metric", "noises", "before", *ways.values()],
        (line(row, seed) for pair in pairs for seed, row in enumerate(pair)),
    )


def kept_by_a_call(*, checkpointing: bool = False, offload: bool = False) -> str:
    """Return what a guided call of the embedded model's network keeps for its graph.

    Args:
        checkpointing: with gradient checkpointing.
        offload: with sequential offloading.
    """
    keys = {"checkpointing": checkpointing, "offload": offload}
    [row] = [row for row in read("low_memory")["rows"] if keys.items() <= row.items()]
    return size(row["bytes"])
