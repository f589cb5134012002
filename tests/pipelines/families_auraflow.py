"""AuraFlow."""

from case import Case, finish
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from families_stable_diffusion_3 import FLOW
from tiny_parts import build_vae
from tiny_t5 import build_t5, build_t5_tokenizer


def build(folder):
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    )
    return finish(
        AuraFlowPipeline(
            tokenizer=build_t5_tokenizer(),
            text_encoder=build_t5(umt5=True),
            vae=build_vae(),
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.7),
        )
    )


def stock(pipe, noise, cond):
    embeds = cond["encoder_hidden_states"]
    mask = embeds.new_ones(embeds.shape[:2])  # demanded, but of no effect on given embeddings
    return {
        "latents": noise,
        "prompt_embeds": embeds,
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": cond["negative_encoder_hidden_states"],
        "negative_prompt_attention_mask": mask,
    }


CASES = [
    Case(
        "AuraFlow",
        build,
        stock,
        denoiser="transformer",
        schedulers=(FlowMatchHeunDiscreteScheduler, UniPCMultistepScheduler),
        scheduler_settings=FLOW,
        arguments={"height": 16, "width": 24},
    ),
]
