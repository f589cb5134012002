"""Networks of diffusers with random weights: UNets and transformers of many kinds and sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
    WanTransformer3DModel,
)
from torch import Tensor, nn

from adjointdpm.pipelines.families.flux import FluxNetwork
from adjointdpm.pipelines.families.transformers import Transformer
from adjointdpm.pipelines.families.wan import WanNetwork

TEXT = 64
"""Width of the embeddings of words, of which there are 16."""


@dataclass(frozen=True)
class Subject:
    """A network and what it is given.

    Args:
        build: makes the network, as samplers call it.
        shape: of one sample.
        cond: shapes of the conditioning, without the batch.
        flow: whether it predicts the velocity of a rectified flow, in place of VP's noise.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    cond: dict[str, tuple[int, ...]]
    flow: bool = False


WORDS = {"encoder_hidden_states": (16, TEXT)}
POOLED = {**WORDS, "pooled_projections": (TEXT,)}


def unet(width: int, side: int = 16) -> Subject:
    """A UNet of the shape of Stable Diffusion 1.5, whose width is 320."""
    config = {
        "sample_size": side,
        "block_out_channels": (width, 2 * width, 4 * width, 4 * width),
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "cross_attention_dim": TEXT,
    }
    return Subject(lambda: UNet2DConditionModel(**config), (4, side, side), WORDS)


def pixels() -> Subject:
    config = {
        "sample_size": 64,
        "block_out_channels": (32, 64, 128, 128),
        "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    }
    return Subject(lambda: UNet2DModel(**config), (3, 64, 64), {})


class ClassZero(Transformer):
    """DiT, asked for its first class."""

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Return the prediction for latents ``x``."""
        labels = torch.zeros(len(x), dtype=torch.long)
        return super().forward(x, t, class_labels=labels, **cond)


def dit(heads: int, layers: int) -> Subject:
    config = {
        "num_attention_heads": heads,
        "attention_head_dim": 64,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": layers,
        "sample_size": 16,
        "num_embeds_ada_norm": 10,
    }
    return Subject(lambda: ClassZero(DiTTransformer2DModel(**config)), (4, 16, 16), {})


def sana() -> Subject:
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 4,
        "num_attention_heads": 8,
        "attention_head_dim": 32,
        "num_cross_attention_heads": 4,
        "cross_attention_head_dim": 64,
        "cross_attention_dim": 256,
        "caption_channels": TEXT,
        "sample_size": 16,
    }
    return Subject(
        lambda: Transformer(SanaTransformer2DModel(**config)), (4, 16, 16), WORDS, flow=True
    )


def stable_diffusion_3() -> Subject:
    config = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 4,
        "num_attention_heads": 5,
        "joint_attention_dim": TEXT,
        "caption_projection_dim": 320,
        "pooled_projection_dim": TEXT,
        "pos_embed_max_size": 16,
    }
    return Subject(
        lambda: Transformer(SD3Transformer2DModel(**config)), (4, 16, 16), POOLED, flow=True
    )


def flux() -> Subject:
    config = {
        "in_channels": 16,
        "num_layers": 2,
        "num_single_layers": 3,
        "attention_head_dim": 64,
        "num_attention_heads": 5,
        "joint_attention_dim": TEXT,
        "pooled_projection_dim": TEXT,
        "axes_dims_rope": (8, 28, 28),
    }
    return Subject(
        lambda: FluxNetwork(FluxTransformer2DModel(**config), None), (4, 16, 16), POOLED, flow=True
    )


def video(frames: int) -> Subject:
    """Wan's transformer, of 64 tokens a frame."""
    config = {
        "num_attention_heads": 4,
        "attention_head_dim": 64,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": TEXT,
        "freq_dim": 128,
        "ffn_dim": 1024,
        "num_layers": 6,
        "rope_max_seq_len": 64,
    }
    return Subject(
        lambda: WanNetwork(WanTransformer3DModel(**config)), (16, frames, 16, 16), WORDS, flow=True
    )


GROUPS: dict[str, dict[str, Subject]] = {
    "architecture": {
        "UNet, latents, text (Stable Diffusion)": unet(40),
        "UNet, pixels (DDPM)": pixels(),
        "DiT": dit(4, 8),
        "linear attention (Sana)": sana(),
        "MMDiT (Stable Diffusion 3)": stable_diffusion_3(),
        "MMDiT and single stream (Flux)": flux(),
        "video transformer (Wan), 4 frames": video(4),
    },
    "UNet by width": {str(w): unet(w, side=8) for w in (12, 32, 80, 160)},
    "DiT by width": {str(64 * n): dit(n, layers) for n, layers in ((2, 4), (6, 8), (12, 8))},
    "UNet by side": {str(s): unet(32, s) for s in (8, 16, 32)},
    "video by frames": {str(n): video(n) for n in (1, 4, 16)},
}
