"""Pictures of how a run is getting on, while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..runs import Callback, Step, Tracker, is_main_process
from .pictures import contact_sheet, save_picture

FOLDER = "previews"


class Previews(Callback):
    """Draws pictures every few steps, into ``previews/step-000040.png`` and the tracker.

    What is drawn changes nothing in the run: the random generators of torch are put back.

    Args:
        draw: returns pictures, (batch, 3, height, width) in [0, 1]; called without a graph.
        output_dir: folder of the run.
        every: number of updates between two previews; the first is drawn before any.
        enlarge: pixels of the file for each pixel of a picture.
    """

    def __init__(
        self, draw: Callable[[], Tensor], output_dir: str | Path, every: int, enlarge: int = 1
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, not {every}")
        self.draw, self.every, self.enlarge = draw, every, enlarge
        self.folder = Path(output_dir) / FOLDER

    def on_start(self, steps: int, tracker: Tracker) -> None:
        """Draw what the run begins with."""
        if steps == 0:
            self._show(0, tracker)

    def on_step(self, step: Step) -> None:
        """Draw if it is time."""
        if step.number % self.every == 0:
            self._show(step.number, step.tracker)

    def _show(self, number: int, tracker: Tracker) -> None:
        gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(gpus), torch.no_grad():
            images = self.draw().float().clamp(0, 1).cpu()
        if not is_main_process():
            return
        save_picture(self.folder / f"step-{number:06d}.png", contact_sheet([images]), self.enlarge)
        pixels = images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
        tracker.log_images("previews", pixels.numpy(), number)
