"""What surrounds a call besides its arguments: autocast, the random state, compilation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Environment:
    """What surrounds a call besides its arguments: autocast and the random state."""

    device: torch.device
    autocast: dict[str, Any] | None
    cpu_random_state: Tensor
    device_random_state: Tensor | None

    @classmethod
    def now(cls, device: torch.device, last: Environment | None = None) -> Environment:
        """Record the present autocast settings and random states, sharing what did not change."""
        kind = device.type
        autocast: dict[str, Any] | None = None
        if torch.amp.is_autocast_available(kind):
            autocast = {"enabled": False}
            if torch.is_autocast_enabled(kind):
                autocast = {"enabled": True, "dtype": torch.get_autocast_dtype(kind)}
        state = torch.cuda.get_rng_state(device) if kind == "cuda" else None
        cpu_state = torch.get_rng_state()
        # One state a call (5 KiB on a CPU) would also riddle the heap that latents come from.
        if last is not None and torch.equal(cpu_state, last.cpu_random_state):
            cpu_state = last.cpu_random_state
        return cls(device, autocast, cpu_state, state)

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Run a block under the recorded settings, leaving the present ones as they are."""
        devices = [self.device] if self.device_random_state is not None else []
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices))
            torch.set_rng_state(self.cpu_random_state)
            if self.device_random_state is not None:
                torch.cuda.set_rng_state(self.device_random_state, self.device)
            if self.autocast is not None:
                stack.enter_context(torch.autocast(self.device.type, **self.autocast))
            yield

    @property
    def in_float16(self) -> bool:
        """Whether autocast made float16 of what it could."""
        return self.autocast is not None and self.autocast.get("dtype") == torch.float16


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module is what ``torch.compile`` returned, or was compiled in place."""
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
