"""What the training scripts share: arguments, the learning-rate schedule, EMA, checkpoints.

A run is as long as `max_train_steps` or `max_train_seconds`, whichever ends first, and the learning
rate follows the fraction of the run that is over. On a machine with other work to do, a time limit
therefore still ends with the learning rate at zero.

With `cuda_graph` a whole update, from drawing the batch to averaging the weights, is recorded once
and replayed: these networks are so small that a GPU otherwise waits for Python.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

WARMUP_UPDATES = 3
"""Updates before the recording: compilation, the optimiser's state and caches come first."""


def add_training_arguments(parser: argparse.ArgumentParser, **defaults) -> None:
    """Arguments under the names of diffusers' training scripts."""
    parser.add_argument("--data_dir", type=Path, default=Path("training/runs/data"))
    parser.add_argument("--output_dir", type=Path)
    parser.add_argument("--learning_rate", type=float)
    parser.add_argument("--lr_warmup_steps", type=int, default=100)
    parser.add_argument("--max_train_steps", type=int)
    parser.add_argument("--max_train_seconds", type=float, default=float("inf"))
    parser.add_argument("--train_batch_size", type=int)
    parser.add_argument("--checkpointing_steps", type=int, default=500)
    parser.add_argument("--resume_from_checkpoint", action="store_true")
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default="bf16")
    parser.add_argument("--ema_decay", type=float, default=0.999)
    parser.add_argument("--logging_steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cuda_graph", action="store_true", help="replay one recorded update")
    parser.set_defaults(**defaults)


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, mixed_precision: str) -> contextlib.AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision == "bf16")


@contextlib.contextmanager
def recording_stream() -> Iterator[None]:
    """Work on another stream than the default one, which must stay idle during a recording."""
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        yield
    torch.cuda.synchronize()


class Ema:
    """Exponential moving average of parameters, with diffusers' warm-up of the decay."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay
        self.step = 0
        # A tensor: a recorded update reads it anew in every replay.
        self.weight = torch.zeros((), device=next(module.parameters()).device)

    def advance(self) -> None:
        """Set the weight that the next update gives to the new parameters."""
        self.step += 1
        self.weight.fill_(1 - min(self.decay, (1 + self.step) / (10 + self.step)))

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        averages = list(self.module.parameters())
        changes = torch._foreach_sub([p.detach() for p in module.parameters()], averages)
        torch._foreach_mul_(changes, self.weight)
        torch._foreach_add_(averages, changes)
        for average, value in zip(self.module.buffers(), module.buffers(), strict=True):
            average.copy_(value)


class Run:
    """One resumable training run: optimiser, schedule, EMA, checkpoints, log lines."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, args) -> None:
        self.module, self.optimizer, self.args = module, optimizer, args
        self.ema = Ema(module, args.ema_decay)
        self.step = 0
        self.seconds_before = 0.0
        self.started = time.time()
        self.path = Path(args.output_dir) / "checkpoint.pt"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.losses: dict[str, torch.Tensor] = {}
        if args.resume_from_checkpoint and self.path.exists():
            self._load()
        if args.cuda_graph:
            for group in optimizer.param_groups:
                group["capturable"] = True
                group["lr"] = torch.zeros((), device=self.ema.weight.device)

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.time() - self.started

    @property
    def progress(self) -> float:
        """Fraction of the run that is over."""
        by_steps = self.step / self.args.max_train_steps
        return min(1.0, max(by_steps, self.seconds / self.args.max_train_seconds))

    def train(self, losses: Callable[[], dict[str, torch.Tensor]]) -> None:
        """Update until the run is over.

        Args:
            losses: draws a batch and returns scalars; the one called "loss" is minimised, the
                others are logged beside it.
        """

        def plain_update() -> None:
            self._update(losses())

        update = plain_update
        with recording_stream() if self.args.cuda_graph else contextlib.nullcontext():
            first = self.step
            while self.progress < 1:
                if self.args.cuda_graph and self.step == first + WARMUP_UPDATES:
                    update = self._record(update)
                self._set_learning_rate()
                self.ema.advance()
                update()
                self.step += 1
                if self.step % self.args.logging_steps == 0:
                    self._log()
                if self.step % self.args.checkpointing_steps == 0:
                    self.save()
        self.save()

    def _set_learning_rate(self) -> None:
        warmup = min(1.0, (self.step + 1) / max(1, self.args.lr_warmup_steps))
        rate = self.args.learning_rate * warmup * (1 - self.progress)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _update(self, losses: dict[str, torch.Tensor], max_grad_norm: float = 1.0) -> None:
        """Backward, clip, step, average. Nothing here waits for the device."""
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.module)
        for name, value in losses.items():
            if name in self.losses:
                self.losses[name].lerp_(value.detach().float(), 0.02)
            else:
                self.losses[name] = value.detach().float().clone()

    def _record(self, update: Callable[[], None]) -> Callable[[], None]:
        """Record one update on the device; what is returned replays it."""
        before = next(self.module.parameters()).detach().clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            update()
        graph.replay()
        if torch.equal(before, next(self.module.parameters())):
            raise RuntimeError("the recorded update changes nothing; train without --cuda_graph")
        return graph.replay

    def _log(self) -> None:
        text = "  ".join(f"{name} {value.item():.4f}" for name, value in self.losses.items())
        print(
            f"step {self.step}  {self.seconds:.0f}s  {self.progress:.3f}  {text}",
            flush=True,
        )

    def save(self) -> None:
        """Write the checkpoint beside the old one and swap, so that a kill leaves a whole file."""
        partial = self.path.with_suffix(".partial")
        torch.save(
            {
                "module": self.module.state_dict(),
                "ema": self.ema.module.state_dict(),
                "ema_step": self.ema.step,
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
            },
            partial,
        )
        partial.replace(self.path)

    def _load(self) -> None:
        state = torch.load(self.path, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.ema.module.load_state_dict(state["ema"])
        self.ema.step = state["ema_step"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds_before = state["step"], state["seconds"]
        print(f"resumed at step {self.step}", flush=True)
