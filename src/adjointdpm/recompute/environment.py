"""What surrounds a call besides its arguments: autocast, the random state, compilation."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_DRAWING = threading.RLock()
PATIENCE = 20.0
"""Seconds to wait for another thread's call to end that draws."""


@contextlib.contextmanager
def drawing_alone() -> Iterator[None]:
    """Let no other call of this library draw from the random state, which all threads share.

    Only for a while: calls may be nested and hold other locks. What comes of two that draw at once
    is another answer when one is run again, which is noticed.
    """
    held = _DRAWING.acquire(timeout=PATIENCE)
    try:
        yield
    finally:
        if held:
            _DRAWING.release()


@dataclass(frozen=True)
class Environment:
    """What surrounds a call besides its arguments: autocast and the random state."""

    device: torch.device
    autocast: dict[str, Any] | None
    random_states: tuple[Tensor, ...]
    """That of the CPU, and that of the device; empty for a call that draws nothing."""

    @classmethod
    def now(cls, device: torch.device) -> Environment:
        """Record the present autocast settings and random states."""
        kind = device.type
        autocast: dict[str, Any] | None = None
        if torch.amp.is_autocast_available(kind):
            autocast = {"enabled": False}
            if torch.is_autocast_enabled(kind):
                autocast = {"enabled": True, "dtype": torch.get_autocast_dtype(kind)}
        return cls(device, autocast, random_states(device))

    def settled(self) -> Environment:
        """Return the same without random states if none has moved since: the call drew nothing.

        Most networks draw nothing. Their random states need not be restored, and are not rewound
        under the eyes of other threads.
        """
        present = random_states(self.device)
        pairs = zip(present, self.random_states, strict=True)
        if all(torch.equal(now, before) for now, before in pairs):
            return self.without_draws()
        return self

    def without_draws(self) -> Environment:
        """Return the same for a call that is known to draw nothing."""
        return replace(self, random_states=())

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Run a block under the recorded settings, leaving the present ones as they are."""
        with contextlib.ExitStack() as stack:
            if self.random_states:
                stack.enter_context(drawing_alone())
                devices = [self.device] if len(self.random_states) > 1 else []
                stack.enter_context(torch.random.fork_rng(devices))
                torch.set_rng_state(self.random_states[0])
                for state in self.random_states[1:]:
                    torch.cuda.set_rng_state(state, self.device)
            if self.autocast is not None:
                stack.enter_context(torch.autocast(self.device.type, **self.autocast))
            yield

    @property
    def in_float16(self) -> bool:
        """Whether autocast made float16 of what it could."""
        return self.dtype == torch.float16

    @property
    def dtype(self) -> torch.dtype | None:
        """What autocast makes of what it can; None where it is off."""
        return None if self.autocast is None else self.autocast.get("dtype")


class Drawing(TorchDispatchMode):
    """Notes whether a block draws from the random state.

    Where several threads run, a state that has moved does not tell who moved it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None:
            names = [argument.name for argument in func._schema.arguments]
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            attends = "scaled_dot_product" in func.__name__
            self.found |= not attends or bool(given.get("dropout_p", 0.0))
        return func(*args, **kwargs)


def random_states(device: torch.device) -> tuple[Tensor, ...]:
    """Return the random state of the CPU, and that of a device with one of its own."""
    own = (torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()
    return torch.get_rng_state(), *own


def is_transformed() -> bool:
    """Return whether a transform of ``torch.func`` or forward-mode differentiation is at work.

    Neither passes a node of a kind of its own.
    """
    in_transform = torch._C._functorch.peek_interpreter_stack() is not None
    return in_transform or torch.autograd.forward_ad._current_level >= 0


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Compute in a block in the dtypes that are given."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module is what ``torch.compile`` returned, or was compiled in place."""
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None


def copied(generator: torch.Generator) -> torch.Generator:
    """Return a generator that draws what another draws next."""
    return torch.Generator(generator.device).set_state(generator.get_state())
