"""Ctrl-C and SIGTERM end a run after the step that it is in."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(KeyboardInterrupt):
    """The run was asked to stop, has written a checkpoint, and says how to go on from it."""


class StopRequest:
    """Whether the run was asked to stop."""

    def __init__(self) -> None:
        self.made = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first waits for the step to end, the second does not."""
        if self.made:
            raise KeyboardInterrupt("stopped within a step; the last checkpoint stays as it is")
        self.made = True
        # Not print, which must not be interrupted by itself.
        os.write(2, b"\nstopping after this step, with a checkpoint; once more to stop at once\n")


@contextmanager
def stop_request(folder: str | Path | None) -> Iterator[StopRequest]:
    """Turn signals into a request, for the length of the block.

    Args:
        folder: where a checkpoint can be written; without one, signals do what they always did.
    """
    request = StopRequest()
    # Python lets only the main thread handle signals.
    if folder is None or threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield request
        if request.made:  # after the last step had looked
            raise KeyboardInterrupt("stopped after the last step")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def stopped(checkpoint: Path, step: int) -> StoppedError:
    """Return what ends the run, with a sentence on how to go on."""
    return StoppedError(
        f"stopped after step {step}, and saved {checkpoint}; the same command with "
        "--resume_from_checkpoint latest goes on from there"
    )
