"""Sana."""

from case import Case, finish
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
    UniPCMultistepScheduler,
)
from families_pixart import UNBINNED, stock
from families_stable_diffusion_3 import FLOW
from tiny_t5 import PIECES, build_t5_tokenizer
from transformers import Gemma2Config, Gemma2Model


def build_deep_autoencoder():
    blocks = ("ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock")
    multiscales = ((), (), (), (5,))
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=(4,) * 4,
        decoder_block_out_channels=(4,) * 4,
        encoder_layers_per_block=(1,) * 4,
        decoder_layers_per_block=(1,) * 4,
        encoder_qkv_multiscales=multiscales,
        decoder_qkv_multiscales=multiscales,
        upsample_block_type="interpolate",
        downsample_block_type="conv",
        scaling_factor=0.4,
    )


def build(folder):
    text_config = Gemma2Config(
        vocab_size=len(PIECES),
        hidden_size=8,
        intermediate_size=8,
        head_dim=4,
        num_attention_heads=2,
        num_hidden_layers=1,
        num_key_value_heads=2,
    )
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=4,
        timestep_scale=0.125,  # a power of two, so that nothing is rounded
    )
    return finish(
        SanaPipeline(
            tokenizer=build_t5_tokenizer(),
            text_encoder=Gemma2Model(text_config),
            vae=build_deep_autoencoder(),
            transformer=transformer,
            scheduler=DPMSolverMultistepScheduler(flow_shift=3.0, **FLOW),
        )
    )


CASES = [
    Case(
        "Sana",
        build,
        stock,
        denoiser="transformer",
        schedulers=(
            FlowMatchEulerDiscreteScheduler,
            FlowMatchHeunDiscreteScheduler,
            UniPCMultistepScheduler,
        ),
        stock_prompt=lambda prompt: {"prompt": prompt, **UNBINNED},
        arguments={"height": 32, "width": 64},
    ),
]
