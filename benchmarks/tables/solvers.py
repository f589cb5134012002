"""How exact solvers are with few network calls, and forms with adaptive steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .writing import read, table

SHOWN = {
    "ddim": ("",),
    "deis3": ("noise",),
    "deis_t3": ("noise",),
    "lms": ("noise",),
    "dpm_solver_2": ("noise",),
    "dpm_solver_3": ("noise",),
    "dpmpp_2s": ("data",),
    "dpmpp_2m": ("data",),
    "dpmpp_3m": ("data",),
    "unipc_bh1_1": ("data",),
    "unipc_bh2_2": ("data",),
    "unipc_bh2_3": ("data",),
    "heun": ("noise", "flow", "angle"),
    "midpoint": ("noise", "flow", "angle"),
    "rk4": ("noise", "flow", "angle"),
    "dopri5": ("noise", "flow", "angle"),
    "ab2": ("noise", "flow", "angle"),
    "ab4": ("noise", "flow", "angle"),
}
"""Of the solvers and forms of solvers.json, those of the table."""

COLUMNS = [
    (mixture, spacing) for mixture in ("smooth", "sharp") for spacing in ("karras", "log_snr")
]


def _cells(rows: Iterable[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {tuple(row[key] for key in keys): row for row in rows}


def by_solver() -> str:
    """Return the errors of solvers on two mixtures and spacings, the last column rising."""
    rows = _cells(read("solvers")["fixed"], "solver", "form", "mixture", "spacing")
    shown = [(solver, form) for solver, forms in SHOWN.items() for form in forms]
    shown.sort(key=lambda pair: rows[(*pair, *COLUMNS[-1])]["error"])
    return table(
        ["solver", "form", *map(", ".join, COLUMNS)],
        ([*pair, *[f"{rows[(*pair, *c)]['error']:.1e}" for c in COLUMNS]] for pair in shown),
    )


def by_tolerance() -> str:
    """Return the calls and errors of torchdiffeq's dopri5, by form and tolerance."""
    rows = _cells(read("solvers")["adaptive"], "form", "tolerance", "mixture")

    def cells(form: str, tolerance: float) -> list[str]:
        found = [rows[form, tolerance, mixture] for mixture in ("smooth", "sharp")]
        return [text for row in found for text in (str(row["calls"]), f"{row['error']:.0e}")]

    return table(
        ["form", "tolerance", "smooth: calls", "error", "sharp: calls", "error"],
        (
            [form, f"{tolerance:.0e}", *cells(form, tolerance)]
            for form, tolerance in dict.fromkeys(key[:2] for key in rows)
        ),
    )
