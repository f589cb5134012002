"""Conditioning that changes on the way: prompt schedules, embeddings and guidance by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class PerStep:
    """Conditioning with an entry for each step of the sampler.

    Pass it wherever the conditioning takes a tensor: ``sampler(noise, emb=PerStep(embs))``, and as
    ``guidance_scale``. Entry k holds from the time of step k until that of step k + 1, so that the
    stages of a step of several network calls have the entry of the step that their time is in.
    Every entry can receive a gradient.

    Args:
        values: (steps, ...) entries, or a sequence of tensors of one shape; each is what the
            conditioning would be for a single step, with its batch.
        timesteps: where each entry begins to hold, in the network's time and in the order of
            sampling; by default the steps of the sampler's plan.

    Raises:
        TypeError: values that are no tensors.
        ValueError: entries of several shapes, or more or fewer of them than timesteps.

    >>> words = PerStep(torch.arange(6.0).reshape(3, 1, 2), timesteps=(999, 666, 333))
    >>> words.at(700.0, batch=1), words.at(333, batch=1)
    (tensor([[0., 1.]]), tensor([[4., 5.]]))
    """

    def __init__(
        self, values: Tensor | Sequence[Tensor], timesteps: Sequence[float] | None = None
    ) -> None:
        self.values = values if isinstance(values, Tensor) else _stacked(values)
        if self.values.ndim == 0:
            raise ValueError("PerStep needs a tensor of shape (steps, ...), not one number")
        self.timesteps = None if timesteps is None else tuple(float(t) for t in timesteps)
        if self.timesteps is not None and len(self.timesteps) != len(self.values):
            raise ValueError(
                f"PerStep has {len(self.values)} entries and {len(self.timesteps)} timesteps; give "
                "as many"
            )

    def on(self, timesteps: Sequence[float], what: str) -> PerStep:
        """Return the same for the steps of a plan, unless it has timesteps of its own.

        Args:
            timesteps: of the plan's steps.
            what: the plan's name.

        Raises:
            ValueError: the plan has more or fewer steps.
        """
        if self.timesteps is not None:
            return self
        if len(timesteps) != len(self.values):
            raise ValueError(
                f"PerStep holds {len(self.values)} entries, but {what} has {len(timesteps)} steps; "
                "give one entry for each, or timesteps=... at which each begins to hold"
            )
        return PerStep(self.values, timesteps)

    def at(self, t: float | Tensor, batch: int) -> Tensor:
        """Return the entry of a time.

        Args:
            t: a number, or a tensor of shape () or (batch,).
            batch: how many samples there are.

        Raises:
            ValueError: it is on no plan's steps yet, or a tensor of times that the entries have not
                a row each for.
        """
        sign, begins, tolerance = self._begins()
        now = sign * t - tolerance
        if not isinstance(now, Tensor):
            return self.values[int((begins[1:] >= now).sum())]
        later = torch.from_numpy(begins[1:].copy()).to(now)
        index = (later >= now.reshape(-1, 1)).sum(1)
        if self.values.ndim == 1:
            return self.values[index]
        rows = self.values.shape[1]
        if rows not in (1, batch):
            raise ValueError(
                f"the entries of PerStep begin with {rows}, neither 1 nor the batch of {batch}, so "
                "they cannot be chosen by a time for each sample (as for a compiled denoiser)"
            )
        row = torch.arange(batch, device=index.device) if rows > 1 else torch.zeros_like(index)
        return self.values[index, row]

    def _begins(self) -> tuple[float, np.ndarray, float]:
        """Return a sign that makes the times fall, them, and how far a rounded one may be off."""
        if self.timesteps is None:
            raise ValueError(
                "PerStep has no timesteps yet; pass it to a Sampler, or give it timesteps=..."
            )
        times = np.array(self.timesteps)
        sign = -1.0 if times[-1] > times[0] else 1.0
        gap = float(np.abs(np.diff(times)).min(initial=np.inf))
        return sign, sign * times, min(1e-6 * float(np.abs(times).max()), gap / 8)


def _stacked(values: Any) -> Tensor:
    if not isinstance(values, list | tuple) or not values:
        raise TypeError(f"PerStep needs a tensor or a list of tensors, not {values!r:.80}")
    if not all(isinstance(value, Tensor) for value in values):
        kinds = sorted({type(value).__name__ for value in values})
        raise TypeError(f"PerStep needs a list of tensors, not of {', '.join(kinds)}")
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise ValueError(
            f"the entries of PerStep must have one shape, not {sorted(shapes)}; pad them"
        )
    return torch.stack(list(values))


def _unflatten(children: Any, timesteps: Any) -> PerStep:
    (values,) = children
    found = PerStep.__new__(PerStep)
    found.values, found.timesteps = values, timesteps
    return found


pytree.register_pytree_node(
    PerStep,
    lambda per_step: ([per_step.values], per_step.timesteps),
    _unflatten,
    flatten_with_keys_fn=lambda per_step: (
        [(pytree.GetAttrKey("values"), per_step.values)],
        per_step.timesteps,
    ),
)


def is_per_step(value: Any) -> bool:
    """Say whether a part of the conditioning changes on the way."""
    return isinstance(value, PerStep)


def on_steps(cond: dict[str, Any], timesteps: Sequence[float], what: str) -> dict[str, Any]:
    """Return a nest of conditioning that knows the steps of a plan; see `PerStep.on`."""
    return pytree.tree_map(
        lambda leaf: leaf.on(timesteps, what) if is_per_step(leaf) else leaf,
        cond,
        is_leaf=is_per_step,
    )


def at_time(cond: dict[str, Any], t: float | Tensor, batch: int) -> dict[str, Any]:
    """Return a nest of conditioning as it is at a time; see `PerStep.at`."""
    return pytree.tree_map(
        lambda leaf: leaf.at(t, batch) if is_per_step(leaf) else leaf, cond, is_leaf=is_per_step
    )


def refuse_gradient_by_step(cond: dict[str, Any], method: str) -> None:
    """Raise where an entry of a step is to get a gradient of which a method takes the sum only.

    Args:
        cond: conditioning.
        method: takes products at other times than those of the sampler's calls.

    Raises:
        ValueError: a `PerStep` requires grad.
    """
    leaves = pytree.tree_leaves(cond, is_leaf=is_per_step)
    if any(is_per_step(leaf) and leaf.values.requires_grad for leaf in leaves):
        raise ValueError(
            f"{method} does not take the product of every network call, so entries of a PerStep "
            "would not get a gradient each. Use Exact(), or detach them"
        )
