"""Video transformers: Wan, LTX-Video and CogVideoX."""

from case import Case, finish
from diffusers import (
    AutoencoderKLWan,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from tiny_t5 import build_t5, build_t5_tokenizer

FLOW_SCHEDULERS = (
    FlowMatchEulerDiscreteScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
)
FLOW_SETTINGS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def wan_transformer():
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=16,
        num_layers=2,
        rope_max_seq_len=16,
    )


def wan_vae(**config):
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, -0.4],
        latents_std=[1.5, 0.5, 2.0, 0.7],
        **config,
    )


def build_wan(folder, **settings):
    return finish(
        WanPipeline(
            tokenizer=build_t5_tokenizer(),
            text_encoder=build_t5(umt5=True),
            vae=wan_vae(),
            transformer=wan_transformer(),
            scheduler=UniPCMultistepScheduler(flow_shift=3.0, **FLOW_SETTINGS),
            **settings,
        )
    )


def build_wan_2(folder):
    return build_wan(folder, transformer_2=wan_transformer(), boundary_ratio=0.8)


def build_wan_2_small(folder):
    return build_wan(folder, expand_timesteps=True)


def stock(pipe, noise, cond):
    return {
        "latents": noise,
        "prompt_embeds": cond["encoder_hidden_states"],
        "negative_prompt_embeds": cond.get("negative_encoder_hidden_states"),
    }


def wan_case(name, build, schedulers=()):
    return Case(
        name,
        build,
        stock,
        denoiser="transformer",
        schedulers=schedulers,
        scheduler_settings=FLOW_SETTINGS,
        arguments={"height": 16, "width": 32, "num_frames": 5},
        # Over 512 tokens of padding the gradient of cross-attention is rounding, in both.
        lora_targets=("attn1.to_q", "attn1.to_v"),
    )


CASES = [
    wan_case("Wan 2.1", build_wan, FLOW_SCHEDULERS),
    wan_case("Wan 2.2 (two transformers)", build_wan_2),
    wan_case("Wan 2.2 (time of each token)", build_wan_2_small),
]
