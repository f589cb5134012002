"""The settings of the job `fid`, checked; nothing here takes long to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...runs import check_at_least_1, check_choice, check_seed

Network = Literal["inception-v3", "judge", "classifier", "mobilenet-v2", "vgg16-hed"]
Resizing = Literal["clean", "legacy_pytorch", "legacy_tensorflow"]


@dataclass(frozen=True)
class FidConfig:
    """Settings of the job that measures how far pictures are from others, by FID and KID.

    Args:
        reference: folder of pictures, or a statistics file (.npz) as pytorch-fid, clean-fid or this
            job writes it.
        images: folder of pictures, or a statistics file, to be measured; by default pictures are
            drawn from the pipeline.
        output_dir: folder of the report.
        overwrite_output_dir: remove the earlier run that ``output_dir`` holds.
        pretrained_model_name_or_path: folder of a diffusers pipeline, or its id on the hub; the
            embedded model by default.
        prompts: a text file with a prompt in each line, or a class for class-conditional models;
            picture i is of line i, from the first again after the last. By default all captions of
            the embedded model, or all classes; unconditional pipelines take none.
        num_images: how many pictures are drawn.
        num_inference_steps: sampling steps.
        guidance_scale: weight of classifier-free guidance.
        scheduler: class of a diffusers scheduler in place of the pipeline's, such as
            ``DPMSolverMultistepScheduler``.
        solver: one of ``adjointdpm.solvers`` in place of any scheduler, such as ``dpmpp_2m``.
        spacing: how the steps of ``solver`` lie, such as ``linspace``, ``log_snr`` or ``karras``.
        batch_size: how many pictures are drawn and looked at together; numbers do not depend on it.
        seed: picture i is drawn from the seed ``seed + i``; KID's subsets from ``seed``.
        feature_network: whose features are compared. ``inception-v3`` is the standard, for whoever
            has its weights; see `load_feature_network`.
        feature_weights: safetensors file of ``inception-v3`` or ``mobilenet-v2``.
        resizing: how pictures come to the size of ``inception-v3``: as in clean-fid, in
            pytorch-fid, or in TensorFlow.
        subset_size: pictures of a subset of KID; by default half of the smaller set, at most 1000.
        num_subsets: how many subsets are drawn.
        save_statistics: write ``images.npz`` and ``reference.npz``, for later runs.
        device: ``cpu`` or ``cuda``; by default a GPU if there is one.
    """

    reference: str | Path
    images: str | Path | None = None
    output_dir: str | Path = "adjointdpm-fid"
    overwrite_output_dir: bool = False
    pretrained_model_name_or_path: str | Path | None = None
    prompts: str | Path | None = None
    num_images: int = 5000
    num_inference_steps: int = 25
    guidance_scale: float = 1.0
    scheduler: str | None = None
    solver: str | None = None
    spacing: str = "linspace"
    batch_size: int = 64
    seed: int = 0
    feature_network: Network = "judge"
    feature_weights: str | Path | None = None
    resizing: Resizing = "clean"
    subset_size: int | None = None
    num_subsets: int = 100
    save_statistics: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_choice("feature_network", self.feature_network, Network)
        check_choice("resizing", self.resizing, Resizing)
        check_at_least_1(self, "num_inference_steps", "batch_size", "num_subsets")
        if self.num_images < 2:
            raise ValueError(f"num_images must be at least 2, not {self.num_images}")
        if self.scheduler is not None and self.solver is not None:
            raise ValueError("scheduler and solver both choose the sampler; set one of them")
        drawn = ("pretrained_model_name_or_path", "prompts", "scheduler", "solver")
        if self.images is not None:
            for name in drawn:
                if getattr(self, name) is not None:
                    raise ValueError(f"images are there already, and {name} is for drawing them")
        if self.feature_network == "inception-v3" and self.feature_weights is None:
            raise ValueError(
                "inception-v3 needs feature_weights, the safetensors file that "
                "benchmarks/convert.py writes; without it take another feature_network"
            )
