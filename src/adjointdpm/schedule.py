"""The diffusion process: how much of the data and how much noise a state holds at each time.

Every process here is ``x_t = alpha(t) x_0 + sigma(t) eps``. What the sampling ODE needs of it is
the ratio ``r = sigma / alpha``, in which the ODE has no linear term (exponential integration,
AdjointDPM, arXiv 2307.10711, eq. 8-10), and the way back from a ratio to the network's own time.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Times = TypeVar("Times", bound=float | np.ndarray | Tensor)

PAPER_COSINE_OFFSET = 0.008
"""The offset ``s`` of the cosine schedule (Nichol and Dhariwal, arXiv 2102.09672, eq. 17)."""


def _in_float64(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply a float64 tensor function to a float, an array or a tensor, and return its kind."""
    if isinstance(value, Tensor):
        return function(value.to(torch.float64))
    result = function(torch.from_numpy(np.array(value, dtype=np.float64))).numpy()
    return result if isinstance(value, np.ndarray) else float(result)


class Schedule(ABC):
    """A noise schedule: ``x_t = alpha(t) x_0 + sigma(t) eps``, in the network's own time ``t``.

    The four functions take and return floats, numpy arrays or tensors (on any device), and always
    compute in float64. Limits are exact: where ``alpha`` is zero the ratio is ``inf``.

    >>> schedule = Schedule.vp_linear()
    >>> round(schedule.alpha(0.5) ** 2 + schedule.sigma(0.5) ** 2, 12)
    1.0
    >>> round(schedule.time(schedule.ratio(0.3)), 12)
    0.3
    """

    t_min: float
    """The smallest time that the network was trained for."""
    t_max: float
    """The time of (nearly) pure noise, where sampling starts."""

    @abstractmethod
    def _alpha(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _sigma(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _time(self, ratio: Tensor) -> Tensor: ...

    def _ratio(self, t: Tensor) -> Tensor:
        return self._sigma(t) / self._alpha(t)

    def alpha(self, t: Times) -> Times:
        """Return the scale of the data at time ``t``."""
        return _in_float64(self._alpha, t)

    def sigma(self, t: Times) -> Times:
        """Return the standard deviation of the noise at time ``t``."""
        return _in_float64(self._sigma, t)

    def ratio(self, t: Times) -> Times:
        """Return the noise ratio ``sigma(t) / alpha(t)``, ``inf`` where no data is left."""
        return _in_float64(self._ratio, t)

    def time(self, ratio: Times) -> Times:
        """Return the network's time at which the noise ratio is ``ratio``.

        Outside the ratios of a table read from a config, the nearest time of the table is returned:
        the network knows no other.
        """
        return _in_float64(self._time, ratio)

    def init_noise_sigma(self, t: float) -> float:
        """Return what a standard-normal latent is multiplied with to start sampling at ``t``."""
        return self.sigma(t)

    @staticmethod
    def vp_linear(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
        """Return the VP process with linear beta (arXiv 2011.13456, eq. 32), t in (0, 1]."""
        return _LinearVP(beta_min, beta_max)

    @staticmethod
    def vp_cosine() -> Schedule:
        """Return the continuous cosine VP process (arXiv 2102.09672, eq. 17), t in (0, 1]."""
        return _CosineVP()

    @staticmethod
    def sub_vp(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
        """Return the sub-VP process (arXiv 2011.13456, eq. 29): alpha of VP, its sigma squared."""
        return _SubVP(beta_min, beta_max)

    @staticmethod
    def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Schedule:
        """Return the variance-exploding process: alpha = 1 and the time is sigma itself."""
        return _SigmaTime(sigma_min, sigma_max)

    @staticmethod
    def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Schedule:
        """Return the process of EDM (arXiv 2206.00364): alpha = 1 and the time is sigma itself."""
        return _SigmaTime(sigma_min, sigma_max)

    @staticmethod
    def rectified_flow() -> Schedule:
        """Return the straight-line process alpha = 1 - t, sigma = t, t in (0, 1]."""
        return _RectifiedFlow()

    @staticmethod
    def from_betas(
        betas: Sequence[float] | np.ndarray | Tensor, zero_snr: bool = False
    ) -> Schedule:
        """Return the VP schedule of a table of betas; its time is the (fractional) index.

        Args:
            betas: the variances added by each training step, from the first.
            zero_snr: rescale so that the last entry holds no data (arXiv 2305.08891, alg. 1).
        """
        log_alphas = 0.5 * np.cumsum(np.log1p(-np.asarray(betas, dtype=np.float64)))
        if zero_snr:
            alphas = np.exp(log_alphas)
            alphas = (alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])
            ratios = np.sqrt((1 - alphas) * (1 + alphas)) / np.where(alphas > 0, alphas, np.nan)
            ratios[-1] = np.inf
        else:
            ratios = np.sqrt(np.expm1(-2 * log_alphas))
        if not (np.diff(ratios) > 0).all():
            raise ValueError("the betas do not give a noise ratio that grows with every timestep")
        return _TabulatedVP(tuple(ratios.tolist()))

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Schedule:
        """Read the noise schedule out of a diffusers scheduler's config.

        Args:
            config: ``scheduler.config``. Known are the beta schedules of diffusers (linear,
                scaled_linear, squaredcos_cap_v2, sigmoid, trained_betas), zero-SNR rescaling,
                flow matching, and EDM.

        Returns:
            The schedule in the scheduler's own time: 0 ... num_train_timesteps - 1 for betas,
            ``num_train_timesteps * sigma`` for flow matching (whose shift moves the timesteps
            that are visited, not the process), ``log(sigma) / 4`` for EDM.

        Raises:
            ValueError: the config has no noise schedule that is known here.
        """
        steps = int(config.get("num_train_timesteps", 1000))
        if config.get("invert_sigmas"):
            raise ValueError(
                "with invert_sigmas=True the time runs from noise to data and the network predicts "
                "x_0 - eps, as in Mochi; that is none of the prediction types here"
            )
        if "sigma_data" in config:
            return _ScaledEDM(config["sigma_min"], config["sigma_max"], config["sigma_data"])
        flow_solver = config.get("use_flow_sigmas") or config.get("prediction_type") in (
            "flow_prediction",
        )
        if flow_solver or ("shift" in config and "beta_schedule" not in config):
            return _RectifiedFlow(steps)
        if "beta_schedule" not in config:
            raise ValueError(
                f"{config.get('_class_name', 'this scheduler')} has no noise schedule that can be "
                "read (no beta_schedule, no flow-matching shift, no sigma_data in its config); "
                "make one with Schedule.from_betas or one of the continuous constructors"
            )
        zero_snr = bool(config.get("rescale_betas_zero_snr"))
        return Schedule.from_betas(_betas(config, steps), zero_snr)


def _betas(config: Mapping[str, Any], steps: int) -> np.ndarray:
    """Return the table of betas that a diffusers config describes, in float64."""
    betas = _unshifted_betas(config, steps)
    shift = config.get("snr_shift_scale", 1.0)
    # Other schedulers that are made from a config of CogVideoX carry the entry and ignore it.
    if shift == 1.0 or "CogVideoX" not in config.get("_class_name", "CogVideoX"):
        return betas
    # The squared noise ratio times the shift.
    alpha_bar = np.cumprod(1 - betas)
    alpha_bar = alpha_bar / (shift + (1 - shift) * alpha_bar)
    return 1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])


def _unshifted_betas(config: Mapping[str, Any], steps: int) -> np.ndarray:
    if config.get("trained_betas") is not None:
        return np.asarray(config["trained_betas"], dtype=np.float64)
    name = config["beta_schedule"]
    if name == "squaredcos_cap_v2":  # has no ends of its own: UnCLIP's config names none
        grid = np.arange(steps + 1) / steps
        s = PAPER_COSINE_OFFSET
        alpha_bar = np.cos((grid + s) / (1 + s) * math.pi / 2) ** 2
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    missing = {"beta_start", "beta_end"} - set(config)
    if missing:
        raise ValueError(
            f"the config of {config.get('_class_name', 'this scheduler')} has beta_schedule="
            f"{name!r} but no {' and no '.join(sorted(missing))}; pass the betas themselves to "
            "Schedule.from_betas"
        )
    start, end = config["beta_start"], config["beta_end"]
    if name == "linear":
        return np.linspace(start, end, steps)
    if name == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, steps) ** 2
    if name == "sigmoid":
        return (end - start) / (1 + np.exp(-np.linspace(-6, 6, steps))) + start
    raise ValueError(
        f"beta_schedule {name!r} is not known; pass the betas themselves to Schedule.from_betas"
    )


@dataclass(frozen=True)
class _LinearVP(Schedule):
    beta_min: float
    beta_max: float
    t_min: float = 1e-3
    t_max: float = 1.0

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def _alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def _sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def _ratio(self, t: Tensor) -> Tensor:
        return torch.expm1(-2 * self._log_alpha(t)).sqrt()

    def _time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        # The root of the quadratic in the form that does not cancel for small times.
        c = -2 * log_alpha
        return (
            2
            * c
            / (self.beta_min + (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * c).sqrt())
        )

    def _time(self, ratio: Tensor) -> Tensor:
        return self._time_of_log_alpha(-0.5 * torch.log1p(ratio**2))

    def init_noise_sigma(self, t: float) -> float:
        return 1.0


@dataclass(frozen=True)
class _SubVP(_LinearVP):
    def _sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(2 * self._log_alpha(t))

    def _ratio(self, t: Tensor) -> Tensor:
        return -2 * torch.sinh(self._log_alpha(t))

    def _time(self, ratio: Tensor) -> Tensor:
        return self._time_of_log_alpha(-torch.asinh(0.5 * ratio))

    def init_noise_sigma(self, t: float) -> float:
        return self.sigma(t)


@dataclass(frozen=True)
class _CosineVP(Schedule):
    t_min: float = 1e-3
    t_max: float = 1.0

    # With u the angle of t and u0 that of 0: alpha = cos u / cos u0. Everything is written in
    # products of sines, since 1 - alpha^2 would cancel at one end and cos(pi/2) at the other.
    @property
    def _u0(self) -> float:
        return 0.5 * math.pi * PAPER_COSINE_OFFSET / (1 + PAPER_COSINE_OFFSET)

    def _angle(self, t: Tensor) -> Tensor:
        return t * (0.5 * math.pi - self._u0)

    def _alpha(self, t: Tensor) -> Tensor:
        return torch.sin((1 - t) * (0.5 * math.pi - self._u0)) / math.cos(self._u0)

    def _sigma(self, t: Tensor) -> Tensor:
        angle = self._angle(t)
        return (angle.sin() * torch.sin(angle + 2 * self._u0)).sqrt() / math.cos(self._u0)

    def _time(self, ratio: Tensor) -> Tensor:
        # tan u = sqrt(ratio^2 + sin^2 u0) / cos u0,
        # sin(u - u0) = (sin^2 u - sin^2 u0) / sin(u + u0)
        c0, s0 = math.cos(self._u0), math.sin(self._u0)
        u = torch.atan2((ratio**2 + s0**2).sqrt(), torch.full_like(ratio, c0))
        sigma_squared = ratio.atan().sin() ** 2
        sine = sigma_squared * c0**2 / torch.sin(u + self._u0)
        return torch.atan2(sine, torch.cos(u - self._u0)) / (0.5 * math.pi - self._u0)

    def init_noise_sigma(self, t: float) -> float:
        return 1.0


@dataclass(frozen=True)
class _SigmaTime(Schedule):
    t_min: float
    t_max: float

    def _alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def _sigma(self, t: Tensor) -> Tensor:
        return t

    def _time(self, ratio: Tensor) -> Tensor:
        return ratio


@dataclass(frozen=True)
class _ScaledEDM(Schedule):
    """EDM as diffusers runs it: inputs scaled by c_in, time c_noise (arXiv 2206.00364, table 1)."""

    sigma_min: float
    sigma_max: float
    sigma_data: float

    @property
    def t_min(self) -> float:  # type: ignore[override]
        return 0.25 * math.log(self.sigma_min)

    @property
    def t_max(self) -> float:  # type: ignore[override]
        return 0.25 * math.log(self.sigma_max)

    def _ratio(self, t: Tensor) -> Tensor:
        return (4 * t).exp()

    def _alpha(self, t: Tensor) -> Tensor:
        return (self._ratio(t) ** 2 + self.sigma_data**2).rsqrt()

    def _sigma(self, t: Tensor) -> Tensor:
        return self._ratio(t) * self._alpha(t)

    def _time(self, ratio: Tensor) -> Tensor:
        return 0.25 * ratio.log()


@dataclass(frozen=True)
class _RectifiedFlow(Schedule):
    time_scale: float = 1.0

    @property
    def t_min(self) -> float:  # type: ignore[override]
        return 1e-3 * self.time_scale

    @property
    def t_max(self) -> float:  # type: ignore[override]
        return float(self.time_scale)

    def _alpha(self, t: Tensor) -> Tensor:
        return (self.time_scale - t) / self.time_scale

    def _sigma(self, t: Tensor) -> Tensor:
        return t / self.time_scale

    def _time(self, ratio: Tensor) -> Tensor:
        return self.time_scale / (1 + 1 / ratio)


@dataclass(frozen=True)
class _TabulatedVP(Schedule):
    """A VP schedule given at whole times; between them log r is linear in t.

    Only where the last ratio is infinite (zero terminal SNR) that is impossible, and 1/r is linear
    in the last interval instead.
    """

    ratios: tuple[float, ...]
    t_min: float = 0.0

    @cached_property
    def _table(self) -> np.ndarray:
        # Steppers ask for single times, each of which would read the tuple anew.
        return np.array(self.ratios, dtype=np.float64)

    def _ratios(self, device: torch.device) -> Tensor:
        return torch.from_numpy(self._table).to(device)

    @property
    def t_max(self) -> float:  # type: ignore[override]
        return float(len(self.ratios) - 1)

    def _ratio(self, t: Tensor) -> Tensor:
        ratios = self._ratios(t.device)
        t = t.clamp(0, len(ratios) - 1)
        left = t.floor().long().clamp(max=len(ratios) - 2)
        u, r0, r1 = t - left, ratios[left], ratios[left + 1]
        unbounded = torch.isinf(r1)
        log_linear = torch.exp(torch.lerp(r0.log(), torch.where(unbounded, r0, r1).log(), u))
        return torch.where(unbounded, r0 / (1 - u), log_linear)

    def _time(self, ratio: Tensor) -> Tensor:
        ratios = self._ratios(ratio.device)
        left = (torch.searchsorted(ratios, ratio.contiguous(), right=True) - 1).clamp(
            0, len(ratios) - 2
        )
        r0, r1 = ratios[left], ratios[left + 1]
        unbounded = torch.isinf(r1)
        spread = (torch.where(unbounded, 2 * r0, r1) / r0).log()
        u = torch.where(unbounded, 1 - r0 / ratio, (ratio / r0).log() / spread)
        return left + u.clamp(0, 1)

    # From the ratio, in the form that is exact for r = 0 and r = inf.
    def _alpha(self, t: Tensor) -> Tensor:
        return (1 + self._ratio(t) ** 2).rsqrt()

    def _sigma(self, t: Tensor) -> Tensor:
        return (1 + self._ratio(t) ** -2).rsqrt()

    def init_noise_sigma(self, t: float) -> float:
        return 1.0
