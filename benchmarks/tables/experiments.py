"""What experiments found: stability, quality, inversion."""

from __future__ import annotations

from statistics import median
from typing import Any

from .writing import read, size, table

ODE_METHODS = ("heun", "rk4", "ab2", "ab4")
"""Those of stability.json that are of higher order."""
INTEGRATORS = ("dpmpp_2m", "dpmpp_3m", "deis3", "unipc_bh2_2", "unipc_bh2_3")
UP_TO_20 = (4, 6, 8, 10, 15, 20)
FROM_15 = (15, 20, 30, 50, 100)


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


def exploding(solver: str) -> str:
    """Return where a solver explodes: process, spacing and network calls."""
    found: dict[str, list[str]] = {}
    for row in read("stability")["rows"]:
        if row["solver"] == solver and row["largest_error"] > 1:
            where = f"{row['process']} with spacing `{row['spacing']}`"
            found.setdefault(where, []).append(str(row["budget"]))
    return "; ".join(f"{where}: {', '.join(calls)} calls" for where, calls in found.items())


def spacing_ahead(
    process: str,
    spacing: str,
    calls: tuple[int, ...],
    *solvers: str,
    forms: str = "x noise flow angle",
) -> str:
    """Return how often one spacing of a process is the more stable of its two.

    Args:
        process: as stability.json names it.
        spacing: the one that counts.
        calls: network calls.
        solvers: the solvers to count.
        forms: of ODE methods.
    """
    errors: dict[tuple[str, str, int], dict[str, float]] = {}
    for row in read("stability")["rows"]:
        if (
            row["process"] == process
            and row["budget"] in calls
            and row["solver"] in solvers
            and row["form"] in ("", *forms.split())
        ):
            key = row["solver"], row["form"], row["budget"]
            errors.setdefault(key, {})[row["spacing"]] = row["largest_error"]
    ahead = sum(min(pair, key=pair.__getitem__) == spacing for pair in errors.values())
    return f"{ahead} of {len(errors)}"


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


def _interval(found: dict[str, Any] | None, key: str, digits: int, sign: str = "") -> str:
    """Return a value with half of its interval; nothing for a difference from itself."""
    if found is None or found[key]["value"] == found[key]["half_width"] == 0:
        return ""
    return f"{found[key]['value']:{sign}.{digits}f} ± {found[key]['half_width']:.{digits}f}"


def sample_quality(reference: str) -> str:
    """Return FID and KID by solver, network calls and feature network, and what FID differs by."""
    rows = [row for row in read("quality")["rows"] if row["reference"] == reference]
    return table(
        ["solver", "calls", "features", "samples", "FID", "KID × 1000",
         f"FID less that of {rows[0]['solver']}", f"FID less that with {rows[0]['calls']} calls"],
        (
            [
                row["solver"],
                str(row["calls"]),
                f"{row['feature_network']}, {row['num_features']}",
                str(row["num_images"]),
                _interval(row, "fid", 1),
                _interval(row, "kid_x_1000", 0),
                _interval(row.get("difference_from_first_solver"), "fid", 2, "+"),
                _interval(row.get("difference_from_first_calls"), "fid", 2, "+"),
            ]
            for row in rows
        ),
    )  # fmt: skip


def fid_less(reference: str, solver: str, calls: int, what: str) -> str:
    """Return by how much FID differs from that of the first solver or calls."""
    [row] = [
        row
        for row in read("quality")["rows"]
        if (row["reference"], row["solver"], row["calls"]) == (reference, solver, calls)
    ]
    return _interval(row[f"difference_from_first_{what}"], "fid", 1, "+")


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
