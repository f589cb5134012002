"""Ending the gradient before the last steps of a pipeline's scheduler."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from ...gradients import Cut
from ...recompute import Handler, intercepted
from ..diffusers_private import announced_steps


class Steps:
    """Ends the gradient before the last steps of the scheduler, and of copies that are made of it.

    A pipeline that denoises a second latent (the sound of a video) steps it with a copy.
    """

    def __init__(self, pipe: Any, cut: Cut) -> None:
        if not hasattr(pipe, "scheduler"):
            raise ValueError(
                f"{type(pipe).__name__} has no scheduler whose steps Truncated could count. Use "
                "Exact"
            )
        self._pipe = pipe
        self._cut = cut
        self._done: dict[int, int] = {}

    def follow(self, scheduler: Any, stack: ExitStack) -> None:
        """Stand in for the steps of a scheduler, until the end of the stack."""
        number = len(self._done)
        self._done[number] = 0

        def copied(stock: Callable[..., Any], memo: dict[int, Any]) -> Any:
            twin = stock(memo)
            self.follow(twin, stack)
            return twin

        handlers: dict[tuple[Any, str], Handler] = {
            (scheduler, "step"): partial(self.step, number),
            (scheduler, "__deepcopy__"): copied,
        }
        stack.enter_context(intercepted(handlers))

    def _early(self, number: int = 0) -> bool:
        total = announced_steps(self._pipe)
        if total is None:
            raise ValueError(
                f"{type(self._pipe).__name__} does not say how many steps it takes, so Truncated "
                "cannot count from the end. Use Exact, or adp.from_pipeline"
            )
        return self._done[number] < total - self._cut.last

    def network(self, run: Handler, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the network, whose output is a constant in an early step."""
        if not self._early():
            return run(stock, *args, **kwargs)
        with torch.no_grad():
            return stock(*args, **kwargs)

    def step(self, number: int, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Take a step of a scheduler, whose result is a constant if it is early."""
        constant = self._early(number) and self._cut.detach_latent
        with torch.set_grad_enabled(torch.is_grad_enabled() and not constant):
            result = stock(*args, **kwargs)
        self._done[number] += 1
        return result

    def check_count(self) -> None:
        """Raise if the number of steps was not the one that was announced."""
        total = announced_steps(self._pipe)
        if self._done[0] != total:
            raise ValueError(
                f"{type(self._pipe).__name__} announced {total} steps and took {self._done[0]}, so "
                "that Truncated counted wrongly. Use Exact, or adp.from_pipeline"
            )
