"""The state of an optimisation in a file: written whole, found again, and checked when read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..sharded import is_sharded
from ..storage import read_tensors, remove_folder, replacing_folder, write_tensors
from .config import LATEST, OptimizeConfig
from .optimizers import optimizer_state, set_optimizer_state
from .processes import (
    agreed,
    all_gather,
    is_main_process,
    process_index,
    wait_for_processes,
)
from .random_states import random_states, set_random_states
from .shards import checksums, read_shards, spread_like, write_shards

KIND = "checkpoint"
STATE_FILE = "state.safetensors"
SHARDS = "shards"
"""The folder of the tensors that are spread over processes."""
PREFIX = "checkpoint-"
RANDOM = "random/"


@dataclass
class History:
    """What happened in a run so far.

    Args:
        losses: the loss before each update.
        seconds: how long each step took.
    """

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.losses)


@dataclass(frozen=True)
class Checkpoint:
    """What is read from a file.

    Args:
        folder: where it lies.
        tensors: variables, moments and random states, by name, but for what lies in shards.
        fields: the rest.
    """

    folder: Path
    tensors: Mapping[str, Tensor]
    fields: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Read a checkpoint; to be called in every process.

        Raises:
            ValueError: it is damaged.
        """
        tensors, fields = read_tensors(folder / STATE_FILE, KIND)
        files = fields.get("files", {})
        found = checksums(folder / SHARDS, list(files))
        if damaged := [name for name in files if found[name] != files[name]]:
            raise ValueError(
                f"{folder / SHARDS / damaged[0]} is damaged or missing: it does not match the "
                "checksum that was written with it"
            )
        return cls(folder, tensors, fields)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors, those in shards too."""
        sharded = {name: tuple(shape) for name, shape in self.fields.get("sharded", {}).items()}
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()} | sharded

    def spread(self, variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all tensors of variables, spread over processes as these are now.

        Args:
            variables: those of the run, by name.
        """
        # Names may have dots in them; keys do not.
        like = {entry: entry.split(".", 1)[1] for entry in self.fields.get("sharded", {})}
        sharded = {entry: torch.empty_like(variables[name]) for entry, name in like.items()}
        if sharded:
            read_shards(self.folder / SHARDS, sharded)
        for entry, value in sorted(self.tensors.items()):  # in one order in all processes
            if not entry.startswith(RANDOM):
                variable = variables[entry.split(".", 1)[1]]
                alike = value.shape == variable.shape and value.ndim > 0
                sharded[entry] = spread_like(value, variable) if alike else value
        return sharded


@dataclass(frozen=True)
class RunState:
    """All that a run needs to go on as if it had never stopped; changed in place by the loop.

    Args:
        variables: what is optimised, by name.
        optimizer: the optimiser, with its moments.
        generator: what the loss draws from.
        history: losses and timings.
        scaler: scales the gradients of float16.
    """

    variables: Mapping[str, Tensor]
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    history: History
    scaler: torch.amp.GradScaler

    def save(self, config: OptimizeConfig, add: Callable[[Path], object]) -> Path:
        """Write a checkpoint named by the number of updates; to be called in every process.

        Args:
            config: settings.
            add: given the folder before it gets its name, to write more into it.

        Returns:
            The folder.
        """
        tensors = self._random_states()
        numbers = {}
        for name, tensor in self.variables.items():
            tensors[f"variable.{name}"] = tensor
            kept, numbers[name] = optimizer_state(self.optimizer, tensor)
            tensors |= {f"{key}.{name}": value for key, value in kept.items()}
        sharded = {entry: tensor for entry, tensor in tensors.items() if is_sharded(tensor)}
        fields = {
            "sharded": {entry: list(tensor.shape) for entry, tensor in sharded.items()},
            "optimizer": config.optimizer,
            "losses": self.history.losses,
            "seconds": self.history.seconds,
            "numbers": numbers,
            "scaler": self.scaler.state_dict(),
        }
        folder = Path(str(config.output_dir)) / f"{PREFIX}{len(self.history)}"
        with _filled_together(folder) as partial:
            files = write_shards(partial / SHARDS, sharded) if sharded else {}
            if is_main_process():
                own = {entry: tensors[entry] for entry in tensors.keys() - sharded.keys()}
                write_tensors(partial / STATE_FILE, KIND, own, {**fields, "files": files})
                add(partial)
        if is_main_process() and config.checkpoints_total_limit is not None:
            for old in find_checkpoints(folder.parent)[config.checkpoints_total_limit :]:
                remove_folder(old)
        return folder

    def restore(self, checkpoint: Checkpoint, config: OptimizeConfig) -> None:
        """Become what a checkpoint holds.

        Raises:
            ValueError: it is that of another run.
        """
        tensors, fields = checkpoint.tensors, checkpoint.fields
        self._check_same_run(checkpoint, config)
        moments: dict[str, dict[str, Tensor]] = {name: {} for name in self.variables}
        for entry, value in checkpoint.spread(self.variables).items():
            key, name = entry.split(".", 1)
            moments[name][key] = value
        for name, tensor in self.variables.items():
            with torch.no_grad():
                tensor.copy_(moments[name].pop("variable"))
            set_optimizer_state(self.optimizer, tensor, moments[name], fields["numbers"][name])
        if fields["scaler"]:
            self.scaler.load_state_dict(fields["scaler"])
        self.generator.set_state(tensors[f"{RANDOM}loss"])
        # A process that the earlier run did not have begins like the first.
        set_random_states(_of_process(tensors, process_index()) or _of_process(tensors, 0))
        self.history.losses[:] = fields["losses"]
        self.history.seconds[:] = fields["seconds"]

    def _random_states(self) -> dict[str, Tensor]:
        """Return the states of all processes."""
        states = {
            f"{RANDOM}{process}/{name}": state
            for name, here in random_states().items()
            for process, state in enumerate(all_gather(here))
        }
        return {f"{RANDOM}loss": self.generator.get_state(), **states}

    def _check_same_run(self, checkpoint: Checkpoint, config: OptimizeConfig) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in self.variables.items()}
        saved = {
            entry.removeprefix("variable."): shape
            for entry, shape in checkpoint.shapes.items()
            if entry.startswith("variable.")
        }
        if shapes != saved:
            raise ValueError(
                f"{checkpoint.folder} holds {saved}, but this run optimises {shapes}: it is the "
                "checkpoint of another run"
            )
        theirs = checkpoint.fields["optimizer"]
        if theirs != config.optimizer:
            raise ValueError(
                f"{checkpoint.folder} was written with optimizer={theirs!r}; this run has "
                f"{config.optimizer!r}, which cannot go on from the moments of the other"
            )


@contextmanager
def _filled_together(folder: Path) -> Iterator[Path]:
    """Give all processes one folder to fill, which gets its name once all is in it."""
    if is_main_process():
        with replacing_folder(folder) as partial:
            agreed(str(partial.resolve()))
            yield partial
            wait_for_processes()
    else:
        yield Path(agreed(""))
        wait_for_processes()


def find_checkpoints(output_dir: str | Path) -> list[Path]:
    """Return the checkpoints in a folder, the latest first."""
    found = {
        int(number): path
        for path in Path(output_dir).glob(f"{PREFIX}*")
        if (number := path.name.removeprefix(PREFIX)).isdigit() and (path / STATE_FILE).is_file()
    }
    return [found[number] for number in sorted(found, reverse=True)]


def resume(state: RunState, config: OptimizeConfig) -> Path | None:
    """Bring a run to where the config says that it goes on.

    Args:
        state: the new run, which is changed.
        config: settings; ``resume_from_checkpoint`` is what matters.

    Returns:
        The checkpoint; None where the run starts afresh.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        FileExistsError: the run would write among later checkpoints of another one.
        ValueError: the checkpoint is damaged, or that of another run.
    """
    wanted = config.resume_from_checkpoint
    present = [] if config.output_dir is None else find_checkpoints(config.output_dir)
    if wanted == LATEST:
        return _restore_latest(state, config, present)
    if wanted is not None:
        folder = Path(wanted)
        if not (folder / STATE_FILE).is_file():
            raise FileNotFoundError(f"{wanted} is no checkpoint: it has no {STATE_FILE}")
        state.restore(Checkpoint.read(folder), config)
    later = [path for path in present if _number(path) > len(state.history)]
    if config.checkpointing_steps and later:
        raise FileExistsError(
            f"{config.output_dir} already holds {later[0].name}, of a run that went further. Set "
            "resume_from_checkpoint='latest' to go on from it, or another output_dir"
        )
    return None if wanted is None else Path(wanted)


def _restore_latest(state: RunState, config: OptimizeConfig, present: list[Path]) -> Path | None:
    """Go on from the latest checkpoint that is whole."""
    damaged = []
    for folder in present:
        try:
            checkpoint = Checkpoint.read(folder)
        except ValueError as error:
            damaged.append(str(error))
            continue
        if damaged:
            warnings.warn(f"going on from {folder.name}: {'; '.join(damaged)}", stacklevel=4)
        state.restore(checkpoint, config)
        return folder
    if damaged:
        raise ValueError(
            f"no checkpoint in {config.output_dir} can be read: {'; '.join(damaged)}. Remove them "
            "to start afresh"
        )
    return None


def _of_process(tensors: Mapping[str, Tensor], process: int) -> dict[str, Tensor]:
    """Return the random states of one process."""
    prefix = f"{RANDOM}{process}/"
    return {e.removeprefix(prefix): state for e, state in tensors.items() if e.startswith(prefix)}


def _number(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(PREFIX))
