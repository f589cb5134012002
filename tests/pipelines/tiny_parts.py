"""Parts of pipelines with random weights: an autoencoder and CLIP's text encoders."""

from diffusers import AutoencoderKL
from tiny_pipeline import TOKENS
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection


def build_vae(latent_channels=4, **settings):
    """An autoencoder whose pictures are twice as large as its latents."""
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        norm_num_groups=2,
        sample_size=16,
        scaling_factor=0.5,
        **settings,
    )


def build_clip(dim=16, projection=False, num_layers=1):
    """A text encoder for the tokenizer of `tiny_pipeline.build_tokenizer`."""
    config = CLIPTextConfig(
        vocab_size=len(TOKENS),
        hidden_size=dim,
        intermediate_size=dim,
        projection_dim=dim,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=3,
        eos_token_id=4,
        pad_token_id=4,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
