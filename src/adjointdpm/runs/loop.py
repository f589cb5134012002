"""The loop that all jobs share: an optimiser of tensors, with a progress bar and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .checkpoint import History, RunState, find_checkpoints, resume
from .config import OptimizeConfig
from .optimizers import build_optimizer

Loss = Callable[[torch.Generator], Tensor]
"""Returns the scalar to make smaller; draws whatever is random from the generator it is given."""


def optimize(
    variables: Mapping[str, Tensor],
    loss: Loss,
    config: OptimizeConfig,
    *,
    project: Callable[[], object] | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> History:
    """Make a loss smaller by changing tensors in place.

    Args:
        variables: leaf tensors that require grad, by the name under which checkpoints keep them.
        loss: what to make smaller; called once a step, with the generator it must draw from.
        config: settings.
        project: called after every update, without a graph, to bring the variables back to where
            they are allowed.
        on_step: called after every step with its number, from 1, and its loss.

    Returns:
        The losses and timings, including those of the run that was resumed.

    Raises:
        ValueError: a variable that cannot be optimised, or that the loss does not depend on; or a
            checkpoint of other variables.
        FileExistsError: the folder has checkpoints of a run that went further.
        FloatingPointError: the loss or its gradient is not finite. The variables are those that the
            loss was computed from: no update was made with it.
    """
    for name, tensor in variables.items():
        if not tensor.is_leaf or not tensor.requires_grad:
            raise ValueError(
                f"{name} cannot be optimised: it must be a leaf tensor that requires grad, such as "
                "tensor.detach().clone().requires_grad_()"
            )
    optimizer = build_optimizer(config.optimizer, variables.values(), config.learning_rate)
    generator = torch.Generator().manual_seed(config.seed)
    history = History()
    state = RunState(variables, optimizer, generator, history)
    resumed = resume(state, config)
    bar = tqdm(
        total=config.max_train_steps,
        initial=len(history),
        desc=config.description,
        disable=not config.progress_bar,
        unit="step",
    )
    with bar:
        for step in range(len(history) + 1, config.max_train_steps + 1):
            started = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            optimizer.param_groups[0]["lr"] = config.learning_rate_at(step)
            total = loss(generator)
            total.backward()
            value = _checked(total, variables, step, config, resumed)
            optimizer.step()
            if project is not None:
                with torch.no_grad():
                    project()
            history.losses.append(value)
            history.seconds.append(time.perf_counter() - started)
            bar.set_postfix_str(f"loss {value:.3f}", refresh=False)
            bar.update()
            if config.checkpointing_steps and step % config.checkpointing_steps == 0:
                state.save(config)
            if on_step is not None:
                on_step(step, value)
    return history


def _checked(
    loss: Tensor,
    variables: Mapping[str, Tensor],
    step: int,
    config: OptimizeConfig,
    resumed: Path | None,
) -> float:
    """Return the value of a loss, if an update may be made with its gradient.

    Raises:
        ValueError: in the first step a variable has no gradient, and would stay as it is.
        FloatingPointError: something is not finite.
    """
    gradients = {name: v.grad.detach() for name, v in variables.items() if v.grad is not None}
    if step == 1 and (unused := variables.keys() - gradients.keys()):
        raise ValueError(
            f"the loss does not depend on {', '.join(sorted(unused))}: it got no gradient. Compute "
            "the loss from the tensors that are passed as variables, not from copies of them"
        )
    numbers = [loss.detach().reshape(()), *(g.abs().amax() for g in gradients.values())]
    dtype = torch.promote_types(loss.dtype, torch.float32)
    # The one synchronisation of the step.
    value, *sizes = torch.stack([number.to(loss.device, dtype) for number in numbers]).tolist()
    if math.isfinite(value) and all(map(math.isfinite, sizes)):
        return value
    spoilt = [name for name, size in zip(gradients, sizes, strict=True) if not math.isfinite(size)]
    what = f"the gradient of {', '.join(spoilt)} is not finite (the loss is {value})"
    if not math.isfinite(value):
        what = f"the loss is {value}"
    raise FloatingPointError(
        f"{what} at step {step}; no update was made with it. {_way_back(config, resumed)}A smaller "
        f"learning_rate (now {config.learning_rate}) is the usual remedy; so is a loss without "
        "log or sqrt of zero"
    )


def _way_back(config: OptimizeConfig, resumed: Path | None) -> str:
    """Return a sentence on the last good checkpoint."""
    written = [] if config.output_dir is None else find_checkpoints(config.output_dir)
    last = written[0] if config.checkpointing_steps and written else resumed
    return "" if last is None else f"The last good checkpoint is {last}. "
