"""The loop that all jobs share: updates of tensors, with a progress bar and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..sharded import is_sharded, num_shards
from .callbacks import Callback, Step
from .checkpoint import History, RunState, find_checkpoints, resume
from .config import OptimizeConfig
from .interruption import StopRequest, stop_request, stopped
from .processes import (
    broadcast,
    is_main_process,
    join_processes,
    num_processes,
    wait_for_processes,
)
from .trackers import Tracker, start_tracker
from .update import Loss, NotFiniteError, Updater


def optimize(
    variables: Mapping[str, Tensor],
    loss: Loss,
    config: OptimizeConfig,
    *,
    project: Callable[[], object] | None = None,
    on_step: Callable[[int, float], None] | None = None,
    callbacks: Sequence[Callback] = (),
) -> History:
    """Make a loss smaller by changing tensors in place.

    Where ``accelerate launch`` or ``torchrun`` started several processes, each calls this, and the
    gradients are averaged over them; `share` gives each its part of a batch. One of them writes.

    Args:
        variables: leaf tensors that require grad, by the name under which checkpoints keep them.
        loss: what to make smaller; called ``gradient_accumulation_steps`` times a step, with the
            generator it must draw from.
        config: settings.
        project: called after every update, without a graph, to bring the variables back to where
            they are allowed.
        on_step: called after every step with its number, from 1, and its loss.
        callbacks: told of steps and checkpoints.

    Returns:
        The losses and timings, including those of the run that was resumed.

    Raises:
        ValueError: a variable that cannot be optimised, or that the loss does not depend on; or a
            checkpoint of other variables.
        FileExistsError: the folder has checkpoints of a run that went further.
        FloatingPointError: the loss or its gradient is not finite. The variables are those that the
            loss was computed from: no update was made with it.
        StoppedError: Ctrl-C or SIGTERM; the step was finished and a checkpoint written. This is a
            ``KeyboardInterrupt``. Without ``output_dir`` a signal does what it always does.
    """
    join_processes()
    _check_leaves(variables)
    updater = Updater(variables, loss, config, project)
    generator = torch.Generator().manual_seed(config.seed)
    state = RunState(variables, updater.optimizer, generator, History(), updater.scaler)
    resumed = resume(state, config)
    broadcast(variables.values())
    steps = len(state.history)
    tracker = start_tracker(config, steps) if is_main_process() else Tracker()
    loop = _Loop(updater, state, config, resumed, tracker, callbacks, on_step)
    try:
        for callback in callbacks:
            callback.on_start(steps, tracker)
        with stop_request(config.output_dir) as request:
            loop.run(request)
    finally:
        tracker.finish()
    wait_for_processes()
    return state.history


@dataclass(frozen=True)
class _Loop:
    """The steps of one run, and what happens after each."""

    updater: Updater
    state: RunState
    config: OptimizeConfig
    resumed: Path | None
    tracker: Tracker
    callbacks: Sequence[Callback]
    on_step: Callable[[int, float], None] | None

    def run(self, request: StopRequest) -> None:
        """Make the steps that are left."""
        config, done = self.config, len(self.state.history)
        with tqdm(
            total=config.max_train_steps,
            initial=done,
            desc=config.description,
            disable=not (config.progress_bar and is_main_process()),
            unit="step",
        ) as bar:
            for number in range(done + 1, config.max_train_steps + 1):
                step, stop = self._step(number, request)
                bar.set_postfix_str(f"loss {step.loss:.3f}", refresh=False)
                bar.update()
                self._after(step, stop)

    def _step(self, number: int, request: StopRequest) -> tuple[Step, bool]:
        """Make a step; return it, and whether the run was asked to stop."""
        started = time.perf_counter()
        try:
            numbers = self.updater.take(number, self.state.generator, lambda: request.made)
        except NotFiniteError as error:
            raise FloatingPointError(
                f"{error} at step {number}; no update was made with it. {self._way_back()}A "
                f"smaller learning_rate (now {self.config.learning_rate}) is the usual remedy; so "
                "is a loss without log or sqrt of zero"
            ) from None
        seconds = time.perf_counter() - started
        self.state.history.losses.append(numbers.loss)
        self.state.history.seconds.append(seconds)
        step = Step(
            number, numbers.loss, numbers.grad_norm, numbers.learning_rate, seconds, self.tracker
        )
        return step, numbers.stop

    def _after(self, step: Step, stop: bool) -> None:
        """Tell whoever wants to know of a step, and write a checkpoint if one is due."""
        self.tracker.log(
            {
                "loss": step.loss,
                "lr": step.learning_rate,
                "grad_norm": step.grad_norm,
                "seconds": step.seconds,
            },
            step.number,
        )
        if self.on_step is not None:
            self.on_step(step.number, step.loss)
        for callback in self.callbacks:
            callback.on_step(step)
        every = self.config.checkpointing_steps
        if stop or (every and step.number % every == 0):
            saved = self.state.save(self.config, self._add_to_checkpoint)
            if stop:
                raise stopped(saved, step.number)

    def _add_to_checkpoint(self, folder: Path) -> None:
        for callback in self.callbacks:
            callback.on_save(folder)

    def _way_back(self) -> str:
        """Return a sentence on the last good checkpoint."""
        config = self.config
        written = [] if config.output_dir is None else find_checkpoints(config.output_dir)
        last = written[0] if config.checkpointing_steps and written else self.resumed
        return "" if last is None else f"The last good checkpoint is {last}. "


def _check_leaves(variables: Mapping[str, Tensor]) -> None:
    if not variables:
        raise ValueError("there is nothing to optimise: variables is empty")
    for name, tensor in variables.items():
        if is_sharded(tensor) and num_shards(tensor) != num_processes():
            raise ValueError(
                f"{name} is spread over {num_shards(tensor)} of {num_processes()} processes, so "
                "that its gradient would not be the mean over all: shard over all of them"
            )
        if not tensor.is_leaf or not tensor.requires_grad:
            raise ValueError(
                f"{name} cannot be optimised: it must be a leaf tensor that requires grad, such as "
                "tensor.detach().clone().requires_grad_()"
            )
