"""The loop that all tasks share: an optimiser of tensors, with a progress bar and checkpoints."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from .config import OptimizeConfig
from .optimizers import build_optimizer, optimizer_state, set_optimizer_state

STATE_FILE = "state.safetensors"

Loss = Callable[[torch.Generator], Tensor]
"""Returns the scalar to make smaller; draws whatever is random from the generator it is given."""


@dataclass
class History:
    """What happened.

    Args:
        losses: the loss before each update.
        seconds: how long each step took.
    """

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.losses)


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
        ValueError: a variable that cannot be optimised, or a checkpoint of other variables.
        FloatingPointError: the loss is not finite.
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
    checkpoint = _find_checkpoint(config)
    if checkpoint is not None:
        history = _load(checkpoint, config, variables, optimizer, generator)
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
            value = total.item()  # the one synchronisation of the step
            if not torch.isfinite(torch.tensor(value)):
                raise FloatingPointError(
                    f"the loss is {value} at step {step}. A smaller learning_rate (now "
                    f"{config.learning_rate}) is the usual remedy"
                )
            optimizer.step()
            if project is not None:
                with torch.no_grad():
                    project()
            history.losses.append(value)
            history.seconds.append(time.perf_counter() - started)
            bar.set_postfix_str(f"loss {value:.3f}", refresh=False)
            bar.update()
            if config.checkpointing_steps and step % config.checkpointing_steps == 0:
                _save(config, step, variables, optimizer, generator, history)
            if on_step is not None:
                on_step(step, value)
    return history


def _find_checkpoint(config: OptimizeConfig) -> Path | None:
    wanted = config.resume_from_checkpoint
    if wanted is None:
        return None
    if wanted != "latest":
        if not (Path(wanted) / STATE_FILE).is_file():
            raise FileNotFoundError(f"{wanted} is no checkpoint: it has no {STATE_FILE}")
        return Path(wanted)
    found = {
        int(number): path
        for path in Path(config.output_dir or ".").glob("checkpoint-*")
        if (number := path.name.removeprefix("checkpoint-")).isdigit()
        and (path / STATE_FILE).is_file()
    }
    return found[max(found)] if found else None


def _random_states(
    variables: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    states = {"random.loss": generator.get_state(), "random.cpu": torch.get_rng_state()}
    if any(tensor.is_cuda for tensor in variables.values()):
        states["random.cuda"] = torch.cuda.get_rng_state()
    return states


def _save(
    config: OptimizeConfig,
    step: int,
    variables: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    history: History,
) -> None:
    state = _random_states(variables, generator)
    numbers = {}
    for name, tensor in variables.items():
        state[f"variable.{name}"] = tensor.detach().contiguous()
        kept, numbers[name] = optimizer_state(optimizer, tensor)
        state |= {f"{key}.{name}": value.contiguous() for key, value in kept.items()}
    metadata = {
        "optimizer": config.optimizer,
        "losses": json.dumps(history.losses),
        "seconds": json.dumps(history.seconds),
        "numbers": json.dumps(numbers),
    }
    folder = Path(str(config.output_dir)) / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    # Renamed into place, so that a run that is killed leaves no half-written checkpoint.
    partial = folder / f"{STATE_FILE}.part"
    save_file(state, partial, metadata)
    os.replace(partial, folder / STATE_FILE)


def _load(
    checkpoint: Path,
    config: OptimizeConfig,
    variables: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> History:
    with safe_open(checkpoint / STATE_FILE, "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    saved = {
        key.removeprefix("variable."): value
        for key, value in state.items()
        if key.startswith("variable.")
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in variables.items()}
    saved_shapes = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    if shapes != saved_shapes:
        raise ValueError(
            f"{checkpoint} holds {saved_shapes}, but this run optimises {shapes}: it is the "
            "checkpoint of another run"
        )
    if metadata["optimizer"] != config.optimizer:
        raise ValueError(
            f"{checkpoint} was written with optimizer={metadata['optimizer']!r}; this run has "
            f"{config.optimizer!r}, which cannot go on from the moments of the other"
        )
    numbers = json.loads(metadata["numbers"])
    for name, tensor in variables.items():
        with torch.no_grad():
            tensor.copy_(saved[name])
        # Names may have dots in them; the keys of optimisers do not.
        split = {entry: entry.split(".", 1) for entry in state}
        kept = {key: state[entry] for entry, (key, of) in split.items() if of == name}
        kept.pop("variable")
        set_optimizer_state(optimizer, tensor, kept, numbers[name])
    generator.set_state(state["random.loss"])
    torch.set_rng_state(state["random.cpu"])
    if "random.cuda" in state:
        torch.cuda.set_rng_state(state["random.cuda"])
    return History(json.loads(metadata["losses"]), json.loads(metadata["seconds"]))
