"""The sampling ODE and its adjoint in the hands of torchdiffeq, which is an optional dependency.

AdjointDPM's own experiments ran dopri5 and the Adams methods of torchdiffeq on the reparameterised
ODE, and `odeint_adjoint` for the gradient (arXiv 2307.10711, section 3). `odeint` is that setting,
and, with ``form="x"``, the same on the ODE in x and t, to see what the reparameterisation is worth.
There is no plan here: the result is the solver's own, and so is its gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..adaptive import drift_of, first_step
from ..denoiser import Denoiser
from ..form import DATA, Form, Point, SamplingOde
from ..schedule import Schedule

OdeForm = Literal["x", "noise", "data", "flow", "angle"]
Gradient = Literal["adjoint", "backprop"]

ADAMS = ("explicit_adams", "implicit_adams", "fixed_adams")
FIXED_STEP = ("euler", "midpoint", "heun2", "heun3", "rk4", *ADAMS)
"""Methods of torchdiffeq that step through a given grid."""
ADAPTIVE = {"dopri8": 8, "dopri5": 5, "bosh3": 3, "fehlberg2": 2, "adaptive_heun": 2}
"""Methods that choose their steps, and their orders."""
MAX_ADAMS_ORDER = 4
"""From here on torchdiffeq's uniform-step weights are unstable on the grids of diffusion."""


@dataclass(frozen=True)
class Solution:
    """What a run of torchdiffeq gives.

    Args:
        sample: (batch, ...) samples, attached to the autograd graph.
        num_calls: network calls of the forward run.
        counter: returns the calls so far, those of the reverse run included once it has happened.
    """

    sample: Tensor
    num_calls: int
    counter: Callable[[], int]


class _Drift(nn.Module):
    """The right side as torchdiffeq calls it, ``(tau, u) -> du/dtau``, counting its calls."""

    def __init__(self, denoiser: Denoiser, drift: Callable[..., Tensor]) -> None:
        super().__init__()
        self.denoiser = denoiser
        self._drift = drift
        self.num_calls = 0

    def forward(self, tau: Tensor, u: Tensor) -> Tensor:
        self.num_calls += 1
        return self._drift(u, float(tau.detach()))


def odeint(
    denoiser: Denoiser,
    noise: Tensor,
    cond: dict[str, Any] | None = None,
    *,
    method: str = "dopri5",
    form: OdeForm | None = None,
    gradient: Gradient = "adjoint",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    grid: Sequence[Point] | None = None,
    options: Mapping[str, Any] | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    final_sigmas_type: str = "zero",
    **torchdiffeq_arguments: Any,
) -> Solution:
    """Sample by solving the ODE with torchdiffeq, and get gradients as it gives them.

    Args:
        denoiser: the network. Its weights and every tensor of ``cond`` that require a gradient are
            ``adjoint_params``: the adjoint carries a copy of each in its state, as torchdiffeq
            does it.
        noise: (batch, ...) standard-normal latents.
        cond: conditioning, as the sampler would be given it by keyword.
        method: any of torchdiffeq's: ``dopri5``, ``dopri8``, ``bosh3``, ``fehlberg2``,
            ``adaptive_heun``, ``euler``, ``midpoint``, ``heun3``, ``rk4``, ``implicit_adams``,
            ``explicit_adams``, ...
        form: of the ODE, as for `adjointdpm.solvers.build`, or ``x`` for the ODE in x and the
            network's time, with its linear term.
        gradient: ``adjoint`` for `torchdiffeq.odeint_adjoint` (memory of one call, the gradient of
            the ODE), ``backprop`` for autograd through `torchdiffeq.odeint`.
        rtol: relative tolerance of adaptive methods.
        atol: absolute tolerance.
        grid: points that a fixed-step method steps through, as from `adjointdpm.solvers.grid`;
            required by those methods. An adaptive method uses its ends only.
        options: passed to torchdiffeq. The Adams methods get ``max_order`` 4 unless it is given.
        adjoint_options: likewise, for the reverse run.
        final_sigmas_type: ``zero`` adds an Euler step from the last time to the clean image.
        **torchdiffeq_arguments: ``adjoint_rtol``, ``adjoint_atol``, ``adjoint_method``,
            ``adjoint_params``, ...

    Returns:
        The samples and the number of network calls.

    Raises:
        ImportError: torchdiffeq is not installed.
        ValueError: an unknown word, a fixed-step method without a grid, or an Adams order above 4.
    """
    torchdiffeq = _import_torchdiffeq()
    if gradient not in get_args(Gradient):
        raise ValueError(f"gradient must be adjoint or backprop, not {gradient!r}")
    cond = cond or {}
    schedule = denoiser.schedule
    ends = [Point.at(schedule, schedule.t_max), Point.at(schedule, schedule.t_min)]
    points = [point for point in (grid or ends) if point.sigma > 0]
    if grid is None and method in FIXED_STEP:
        raise ValueError(
            f"{method} takes fixed steps: give it the points to step through, such as "
            "grid=adjointdpm.solvers.grid(schedule, num_inference_steps)"
        )
    ode = _ode(denoiser, form, points)
    drift = _Drift(denoiser, drift_of(ode, denoiser, cond))
    # torchdiffeq takes its time in float64 and hands it on in the latent's dtype.
    taus = torch.tensor([ode.form.tau(p) for p in points], dtype=torch.float64, device=noise.device)
    settings: dict[str, Any] = {
        "method": method,
        "options": _options(method, options, taus),
        "rtol": rtol,
        "atol": atol,
    }
    solve = torchdiffeq.odeint
    if gradient == "adjoint":
        solve = torchdiffeq.odeint_adjoint
        torchdiffeq_arguments.setdefault("adjoint_params", _adjoint_params(denoiser, cond))
        reverse_method = torchdiffeq_arguments.get("adjoint_method", method)
        settings["adjoint_options"] = _options(reverse_method, adjoint_options, taus)
    elif torchdiffeq_arguments or adjoint_options:
        raise ValueError("arguments of the adjoint are for gradient='adjoint'")
    noise = noise.to(torch.promote_types(noise.dtype, torch.float32))
    start, last = points[0], points[-1]
    u = noise * (schedule.init_noise_sigma(start.t) / ode.form.scale(start))
    if gradient == "backprop" and method in ADAPTIVE:
        # torchdiffeq differentiates its own choice of a first step: not of any use, and wrong where
        # the drift has no derivative in time. Given as a number, it is a constant.
        settings["options"].setdefault("first_step", _constant_first_step(drift, u, taus, settings))
    u = solve(drift, u, taus[[0, -1]], **settings, **torchdiffeq_arguments)[-1]
    x = ode.form.scale(last) * u
    if final_sigmas_type == "zero":
        drift.num_calls += 1
        a, b = DATA.drift(denoiser.prediction_type, last)
        x = a * x + b * denoiser(x, last.t, **cond)
    return Solution(x, drift.num_calls, lambda: drift.num_calls)


@dataclass(frozen=True)
class _StateForm(Form):
    """The ODE as it stands, ``dx/dt = alpha'(t) x_0 + sigma'(t) eps``, in x and the network's time.

    In the usual form ``f(t) x + g(t)^2 / (2 sigma) eps`` (arXiv 2011.13456, eq. 13) x_0 is written
    with x and eps, which divides by alpha.
    """

    schedule: Schedule
    name = "x"

    def tau(self, point: Point) -> float:
        return point.t

    def scale(self, point: Point) -> float:
        return 1.0

    def slope(self, point: Point) -> tuple[float, float]:
        return rates(self.schedule, point.t)

    def point(self, schedule: Schedule, tau: float) -> Point:
        return Point.at(schedule, min(max(tau, schedule.t_min), schedule.t_max))


def _ode(denoiser: Denoiser, form: OdeForm | None, points: Sequence[Point]) -> SamplingOde:
    ends = points[0], points[-1]
    if form == "x":
        chosen: Form = _StateForm(denoiser.schedule)
    else:
        chosen = Form.named(form) if form else Form.finite(*ends)
    chosen.check_finite(*ends)
    return SamplingOde(chosen, denoiser.schedule, denoiser.prediction_type, points)


def rates(schedule: Schedule, t: float) -> tuple[float, float]:
    """Return the derivatives of alpha and sigma in the schedule's own time.

    >>> alpha_rate, sigma_rate = rates(Schedule.rectified_flow(), 0.3)
    >>> round(alpha_rate, 12), round(sigma_rate, 12)
    (-1.0, 1.0)
    """
    # Tables have one-sided derivatives at their ends: take the inner ones.
    inside = 1e-9 * (schedule.t_max - schedule.t_min)
    t = min(max(t, schedule.t_min + inside), schedule.t_max - inside)
    with torch.enable_grad():
        at = torch.tensor(t, dtype=torch.float64, requires_grad=True)
        values = schedule.alpha(at), schedule.sigma(at)
        found = [
            torch.autograd.grad(value, at, retain_graph=True, allow_unused=True)[0]
            if value.requires_grad
            else None
            for value in values
        ]
    alpha_rate, sigma_rate = (0.0 if rate is None else float(rate) for rate in found)
    return alpha_rate, sigma_rate


def _options(method: str, options: Mapping[str, Any] | None, taus: Tensor) -> dict[str, Any]:
    """Return torchdiffeq's options, with the grid of a fixed-step method, in either direction."""
    options = dict(options or {})
    if method in FIXED_STEP and "step_size" not in options:
        options.setdefault("grid_constructor", partial(_grid_between, taus))
    if method in ADAPTIVE:
        # Else the last step goes past the end, to noise levels that the network does not know, and
        # the end is interpolated. The adjoint's run is over negated times where ours descend.
        ends = taus[[0, -1]]
        options.setdefault("step_t", torch.cat([ends, -ends]).unique())
    if method in ADAMS:
        order = options.setdefault("max_order", MAX_ADAMS_ORDER)
        if order > MAX_ADAMS_ORDER:
            raise ValueError(
                f"{method} of order {order}: torchdiffeq's Adams weights are for equal steps and "
                "diverge on the grids of diffusion at high order. Use "
                f"max_order={MAX_ADAMS_ORDER}, or adjointdpm.solvers.build('am4', ...), which has "
                "the weights of the grid"
            )
    return options


@torch.no_grad()
def _constant_first_step(
    drift: _Drift, u: Tensor, taus: Tensor, settings: Mapping[str, Any]
) -> float:
    def at(u: Tensor, tau: float) -> Tensor:
        return drift(torch.tensor(tau, dtype=torch.float64), u)

    start, end = float(taus[0]), float(taus[-1])
    order = ADAPTIVE[settings["method"]]
    rtol, atol = settings["rtol"], settings["atol"]
    return abs(first_step(at, u, at(u, start), start, end, rtol, atol, order))


def _grid_between(taus: Tensor, func: Any, y0: Tensor, t: Tensor) -> Tensor:
    """Return the grid in the direction, and with the sign, in which torchdiffeq asks for it."""
    for steps in (taus, taus.flip(0), -taus, -taus.flip(0)):
        if steps[0] == t[0] and steps[-1] == t[-1]:
            return steps
    raise ValueError(f"the grid does not go from {float(t[0]):g} to {float(t[-1]):g}")


def _adjoint_params(denoiser: Denoiser, cond: dict[str, Any]) -> tuple[Tensor, ...]:
    tensors = [*denoiser.parameters(), *pytree.tree_leaves(cond)]
    return tuple(t for t in tensors if isinstance(t, Tensor) and t.requires_grad)


def _import_torchdiffeq() -> Any:
    try:
        import torchdiffeq
    except ImportError as error:
        raise ImportError(
            "solving with torchdiffeq needs the package: pip install torchdiffeq==0.2.5"
        ) from error
    return torchdiffeq
