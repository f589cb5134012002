"""One update: gradients accumulated, averaged over processes, checked, clipped, applied."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..sharded import whole
from .config import OptimizeConfig
from .optimizers import build_optimizer, by_kind
from .processes import average
from .schedules import learning_rate_schedule

Loss = Callable[[torch.Generator], Tensor]
"""Returns the scalar to make smaller; draws whatever is random from the generator it is given."""

AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


class NotFiniteError(FloatingPointError):
    """A loss or a gradient that no update may be made with."""


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the length of all gradients together, some of which may be sharded."""
    norms = [whole(get_total_norm(same)) for same in by_kind(gradients)]
    return norms[0] if len(norms) == 1 else get_total_norm(norms)


@dataclass(frozen=True)
class Numbers:
    """What is known of an update.

    Args:
        loss: the mean over accumulated losses and over processes, before the update.
        grad_norm: length of the gradient over all variables, before it was clipped.
        learning_rate: what the update was made with.
        stop: whether any process was asked to stop.
    """

    loss: float
    grad_norm: float
    learning_rate: float
    stop: bool


class Updater:
    """Makes updates.

    Args:
        variables: leaf tensors that require grad, by name.
        loss: what to make smaller.
        config: settings.
        project: called after every update, without a graph.
    """

    def __init__(
        self,
        variables: Mapping[str, Tensor],
        loss: Loss,
        config: OptimizeConfig,
        project: Callable[[], object] | None,
    ) -> None:
        self.variables, self.loss, self.config, self.project = variables, loss, config, project
        self.device = next(iter(variables.values())).device
        self.optimizer = build_optimizer(
            config.optimizer,
            variables.values(),
            config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.adam_weight_decay,
        )
        self.schedule = learning_rate_schedule(config)
        # Does nothing but for fp16.
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=config.mixed_precision == "fp16"
        )

    def take(self, step: int, generator: torch.Generator, stopping: Callable[[], bool]) -> Numbers:
        """Make an update.

        Args:
            step: its number, from 1.
            generator: what the loss draws from.
            stopping: whether this process was asked to stop by then; the others are told.

        Raises:
            ValueError: in the first step a variable has no gradient, and would stay as it is.
            NotFiniteError: something is not finite; nothing was changed.
        """
        self.optimizer.zero_grad(set_to_none=True)
        rate = self.schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._accumulate(generator)
        if step == 1:
            self._check_used()
        values = torch.stack([loss, torch.full_like(loss, stopping())])
        average([*self._gradients().values(), values])
        self.scaler.unscale_(self.optimizer)  # after all processes know of an overflow in one
        gradients = self._gradients()
        norm = total_norm(list(gradients.values()))
        # The one synchronisation of the step; the scaler of fp16 makes another.
        value, stop, size = torch.cat([values, norm.to(values).reshape(1)]).tolist()
        self._check_finite(value, size)
        if step == 1 and size == 0:
            warnings.warn(
                f"the gradient of {', '.join(self.variables)} is zero in the first update, which "
                "moves nothing: the metric is flat there, or the gradient method cuts the way to "
                "them",
                stacklevel=2,
            )
        if self.config.max_grad_norm is not None:
            for same in by_kind(self.variables.values()):
                clip_grads_with_norm_(same, self.config.max_grad_norm, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.project is not None:
            with torch.no_grad():
                self.project()
        return Numbers(value, size, rate, stop > 0)

    def _accumulate(self, generator: torch.Generator) -> Tensor:
        """Compute gradients; return the mean loss."""
        parts = self.config.gradient_accumulation_steps
        precision = self.config.mixed_precision
        losses = []
        for _ in range(parts):
            with torch.autocast(
                self.device.type, AUTOCAST.get(precision), enabled=precision != "no"
            ):
                loss = self.loss(generator)
            self.scaler.scale(loss / parts).backward()
            losses.append(loss.detach().reshape(()))
        mean = torch.stack(losses).mean()
        return mean.to(self.device, torch.promote_types(mean.dtype, torch.float32))

    def _gradients(self) -> dict[str, Tensor]:
        return {n: v.grad.detach() for n, v in self.variables.items() if v.grad is not None}

    def _check_used(self) -> None:
        if unused := self.variables.keys() - self._gradients().keys():
            raise ValueError(
                f"the loss does not depend on {', '.join(sorted(unused))}: it got no gradient. "
                "Compute the loss from the tensors that are passed as variables, not from copies "
                "of them"
            )

    def _check_finite(self, loss: float, norm: float) -> None:
        if not math.isfinite(loss):
            raise NotFiniteError(f"the loss is {loss}")
        # An overflow of float16 is no error yet: the scaler leaves the update out and scales less.
        scaling = self.scaler.is_enabled() and not math.isfinite(norm)
        if math.isfinite(norm) or (scaling and self.scaler.get_scale() > 1):
            return
        norms = {name: whole(g.norm()) for name, g in self._gradients().items()}
        spoilt = [name for name, size in norms.items() if not size.isfinite()]
        raise NotFiniteError(
            f"the gradient of {', '.join(spoilt)} is not finite (the loss is {loss})"
        )
