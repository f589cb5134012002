"""Video transformers: Wan, LTX-Video and CogVideoX."""

import torch
from case import Case, finish
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
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


def build_wan(folder, vae=None, **settings):
    return finish(
        WanPipeline(
            tokenizer=build_t5_tokenizer(),
            text_encoder=build_t5(umt5=True),
            vae=vae or wan_vae(),
            transformer=wan_transformer(),
            scheduler=UniPCMultistepScheduler(flow_shift=3.0, **FLOW_SETTINGS),
            **settings,
        )
    )


def build_wan_2(folder):
    return build_wan(folder, transformer_2=wan_transformer(), boundary_ratio=0.8)


def build_wan_2_small(folder):
    vae = wan_vae(
        is_residual=True, patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=16
    )
    return build_wan(folder, vae, expand_timesteps=True)


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
        arguments={"height": 32, "width": 64, "num_frames": 5},
        # Over 512 tokens of padding the gradient of cross-attention is rounding, in both.
        lora_targets=("attn1.to_q", "attn1.to_v"),
    )


def ltx_vae(**config):
    vae = AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        down_block_types=("LTXVideoDownBlock3D",) * 2,
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, True),
        decoder_spatio_temporal_scaling=(True, True),
        decoder_inject_noise=(False,) * 3,
        downsample_type=("conv",) * 2,
        upsample_residual=(False,) * 2,
        upsample_factor=(1,) * 2,
        patch_size=2,
        scaling_factor=0.5,
        **config,
    )
    vae.latents_mean.copy_(torch.tensor([0.1, -0.2, 0.3, -0.4]))
    vae.latents_std.copy_(torch.tensor([1.5, 0.5, 2.0, 0.7]))
    return vae


def build_ltx(folder, **vae_config):
    return finish(
        LTXPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True,
                base_shift=0.95,
                max_shift=2.05,
                base_image_seq_len=4,
                max_image_seq_len=40,
                shift_terminal=0.1,
            ),
            vae=ltx_vae(**vae_config),
            text_encoder=build_t5(),
            tokenizer=build_t5_tokenizer(),
            transformer=LTXVideoTransformer3DModel(
                in_channels=4,
                out_channels=4,
                num_attention_heads=2,
                attention_head_dim=8,
                cross_attention_dim=16,
                num_layers=2,
                caption_channels=16,
            ),
        )
    )


def build_denoising_ltx(folder):
    return build_ltx(folder, timestep_conditioning=True)


def stock_ltx(pipe, noise, cond):
    return {
        **stock(pipe, pipe._pack_latents(noise), cond),
        "prompt_attention_mask": cond["encoder_attention_mask"],
        "negative_prompt_attention_mask": cond["negative_encoder_attention_mask"],
    }


def unpack_ltx(pipe, latents):
    return pipe._unpack_latents(latents, 3, 8, 4)


def ltx_case(name, build, schedulers=()):
    return Case(
        name,
        build,
        stock_ltx,
        denoiser="transformer",
        schedulers=schedulers,
        scheduler_settings=FLOW_SETTINGS,
        arguments={"height": 64, "width": 32, "num_frames": 9},
        from_stock=unpack_ltx,
    )


def build_cogvideox(folder, scheduler_class=CogVideoXDDIMScheduler, **transformer_config):
    return finish(
        CogVideoXPipeline(
            tokenizer=build_t5_tokenizer(),
            text_encoder=build_t5(),
            vae=AutoencoderKLCogVideoX(
                down_block_types=("CogVideoXDownBlock3D",) * 4,
                up_block_types=("CogVideoXUpBlock3D",) * 4,
                block_out_channels=(4, 4, 4, 4),
                latent_channels=4,
                layers_per_block=1,
                norm_num_groups=2,
                scaling_factor=0.7,
            ),
            transformer=CogVideoXTransformer3DModel(
                num_attention_heads=2,
                attention_head_dim=16,
                in_channels=4,
                out_channels=4,
                time_embed_dim=4,
                text_embed_dim=16,
                num_layers=2,
                sample_width=4,
                sample_height=2,
                sample_frames=9,
                **transformer_config,
            ),
            scheduler=scheduler_class(
                prediction_type="v_prediction",
                rescale_betas_zero_snr=True,
                timestep_spacing="trailing",
            ),
        )
    )


def build_cogvideox_5b(folder):
    return build_cogvideox(folder, CogVideoXDPMScheduler, use_rotary_positional_embeddings=True)


def build_cogvideox_1_5(folder):
    return build_cogvideox(folder, use_rotary_positional_embeddings=True, patch_size_t=2)


def cogvideox_case(name, build, schedulers=()):
    return Case(
        name,
        build,
        stock,
        denoiser="transformer",
        schedulers=schedulers,
        arguments={"num_frames": 9},
    )


CASES = [
    wan_case("Wan 2.1", build_wan, FLOW_SCHEDULERS),
    wan_case("Wan 2.2 (two transformers)", build_wan_2),
    wan_case("Wan 2.2 (time of each token)", build_wan_2_small),
    ltx_case("LTX-Video", build_ltx, (FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler)),
    ltx_case("LTX-Video (denoising decoder)", build_denoising_ltx),
    cogvideox_case("CogVideoX 2B", build_cogvideox, (DDIMScheduler, CogVideoXDPMScheduler)),
    cogvideox_case("CogVideoX 5B", build_cogvideox_5b),
    cogvideox_case("CogVideoX 1.5", build_cogvideox_1_5),
]
