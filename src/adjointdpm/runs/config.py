"""The settings of the loop and of a run, checked; nothing here takes long to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

OptimizerName = Literal["adam", "adamw", "adamw8bit"]
ScheduleName = Literal[
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
]
Precision = Literal["no", "fp16", "bf16"]
TrackerName = Literal[
    "tensorboard",
    "wandb",
    "comet_ml",
    "aim",
    "mlflow",
    "clearml",
    "dvclive",
    "swanlab",
    "trackio",
]
LATEST = "latest"


@dataclass(frozen=True)
class OptimizeConfig:
    """Settings of the loop, named as in the training scripts of diffusers.

    Args:
        learning_rate: the optimiser's step size.
        optimizer: name of the optimiser; ``adamw8bit`` saves memory where many weights are
            trained. See `build_optimizer`.
        adam_beta1: decay of the mean of gradients.
        adam_beta2: decay of the mean of their squares.
        adam_epsilon: added to the root of the latter.
        adam_weight_decay: the optimiser's own by default, 0 for ``adam``, else 0.01.
        lr_scheduler: how the learning rate changes with the updates.
        lr_warmup_steps: updates in which the learning rate rises from zero.
        lr_num_cycles: how often ``cosine_with_restarts`` falls to zero.
        lr_power: the power of ``polynomial``.
        max_train_steps: number of updates.
        gradient_accumulation_steps: how often the loss is computed for one update, whose gradient
            is the mean.
        max_grad_norm: a gradient longer than this, over all variables, is scaled down to it.
        mixed_precision: ``fp16`` or ``bf16`` compute the loss under autocast. Variables stay as
            they are, and gradients of ``fp16`` are scaled.
        seed: seeds the generator that the loss draws from, from 0 to 2**32 - 1.
        output_dir: folder of the checkpoints.
        checkpointing_steps: number of updates between two checkpoints; None for no checkpoints but
            the one that Ctrl-C leaves.
        checkpoints_total_limit: how many checkpoints are kept; the oldest is removed once a newer
            one is written.
        resume_from_checkpoint: a checkpoint folder to go on from, or ``latest`` for the last one in
            ``output_dir`` that is whole, if there is one. The run goes on as if it had never
            stopped.
        report_to: a tracker that losses and previews are logged to, in ``output_dir/logs`` where it
            writes files. All but ``tensorboard`` are to be installed.
        progress_bar: whether to show a progress bar.
        description: label of the progress bar.
    """

    learning_rate: float = 0.05
    optimizer: OptimizerName = "adam"
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    adam_weight_decay: float | None = None
    lr_scheduler: ScheduleName = "constant"
    lr_warmup_steps: int = 0
    lr_num_cycles: int = 1
    lr_power: float = 1.0
    max_train_steps: int = 30
    gradient_accumulation_steps: int = 1
    max_grad_norm: float | None = None
    mixed_precision: Precision = "no"
    seed: int = 0
    output_dir: str | Path | None = None
    checkpointing_steps: int | None = None
    checkpoints_total_limit: int | None = None
    resume_from_checkpoint: str | Path | None = None
    report_to: TrackerName | None = None
    progress_bar: bool = True
    description: str = "optimising"

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_choice("optimizer", self.optimizer, OptimizerName)
        check_choice("lr_scheduler", self.lr_scheduler, ScheduleName)
        check_choice("mixed_precision", self.mixed_precision, Precision)
        if self.report_to is not None:
            check_choice("report_to", self.report_to, TrackerName)
        for name in ("learning_rate", "max_grad_norm", "lr_power", "adam_epsilon"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1, not {getattr(self, name)}")
        check_at_least_1(
            self,
            "max_train_steps",
            "gradient_accumulation_steps",
            "checkpointing_steps",
            "checkpoints_total_limit",
            "lr_num_cycles",
        )
        if self.lr_warmup_steps < 0:
            raise ValueError(f"lr_warmup_steps must not be negative, but is {self.lr_warmup_steps}")
        if self.lr_warmup_steps and self.lr_scheduler == "constant":
            raise ValueError(
                "lr_scheduler constant has no warm-up: set constant_with_warmup, or leave "
                "lr_warmup_steps out"
            )
        if self.output_dir is None:
            self._check_needs_no_folder()

    def _check_needs_no_folder(self) -> None:
        if self.checkpointing_steps or self.resume_from_checkpoint == LATEST:
            raise ValueError("checkpoints need a place: set output_dir")
        if self.report_to is not None:
            raise ValueError(f"report_to {self.report_to} needs a place: set output_dir")


@dataclass(frozen=True)
class FolderConfig:
    """Settings of whatever writes into a folder of its own.

    Args:
        seed: seeds all that is drawn, from 0 to 2**32 - 1.
        output_dir: folder of all that the run writes: new, empty, or that of the run to go on with.
        overwrite_output_dir: remove the earlier run that ``output_dir`` holds.
        resume_from_checkpoint: ``latest`` to go on with the run in ``output_dir``, if there is one.
        device: ``cpu`` or ``cuda``; by default a GPU if there is one.
        progress_bar: whether to show a progress bar.
        description: label of the progress bar.
    """

    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset(
        {
            "output_dir",
            "overwrite_output_dir",
            "resume_from_checkpoint",
            "progress_bar",
            "description",
            "device",
        }
    )
    """Settings that may be others when the run goes on."""

    seed: int = 0
    output_dir: str | Path = "adjointdpm-run"
    overwrite_output_dir: bool = False
    resume_from_checkpoint: str | Path | None = None
    device: str | None = None
    progress_bar: bool = True
    description: str = "run"

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.overwrite_output_dir and self.resume_from_checkpoint == LATEST:
            raise ValueError(
                "overwrite_output_dir would remove the checkpoints that resume_from_checkpoint "
                "latest goes on from; set one of them"
            )


@dataclass(frozen=True)
class RunConfig(OptimizeConfig, FolderConfig):
    """Settings of a job that is one loop, in a folder of its own; jobs add theirs in a subclass.

    Args:
        output_dir: folder of all that the run writes: new, empty, or that of the run to go on with.
    """

    MAY_CHANGE: ClassVar[frozenset[str]] = FolderConfig.MAY_CHANGE | {
        "max_train_steps",
        "checkpointing_steps",
        "checkpoints_total_limit",
        "report_to",
    }

    output_dir: str | Path = "adjointdpm-run"

    def __post_init__(self) -> None:
        OptimizeConfig.__post_init__(self)
        FolderConfig.__post_init__(self)


def check_seed(seed: int) -> None:
    """Raise unless a seed can seed every generator that is made from it.

    Raises:
        ValueError: it is negative, or has more than 32 bits.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be between 0 and 2**32 - 1, not {seed}")


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise unless a setting is one of a ``Literal``.

    Raises:
        ValueError: it is not.
    """
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, not {value!r}")


def check_at_least_1(config: object, *names: str) -> None:
    """Raise unless settings are numbers from 1 up, or None where that is a choice.

    Raises:
        ValueError: one is not.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
