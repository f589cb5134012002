"""A StableDiffusionPipeline with random weights, small enough for tests."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline
from diffusers import UNet2DConditionModel as UNet
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
)

from adjointdpm.formats import Noise

TOKENS = ["a</w>", "b</w>", "c</w>", "<|startoftext|>", "<|endoftext|>"]


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    (folder / "merges.txt").write_text("#version: 0.2\n")
    vocabulary = ", ".join(f'"{token}": {i}' for i, token in enumerate(TOKENS))
    (folder / "vocab.json").write_text("{" + vocabulary + "}")
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "CLIPTokenizer", "model_max_length": 8,'
        ' "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",'
        ' "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}'
    )
    return CLIPTokenizer.from_pretrained(folder)


def build_pipeline(folder: Path, scheduler=None, **unet_config) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    unet = UNet(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=16,
        **unet_config,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.5,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(TOKENS),
            hidden_size=16,
            intermediate_size=16,
            projection_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
            bos_token_id=3,
            eos_token_id=4,
            pad_token_id=4,
        )
    )
    scheduler = scheduler or DPMSolverMultistepScheduler(
        prediction_type="v_prediction", steps_offset=1
    )
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=build_tokenizer(folder),
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


LABELS = ["apple", "rocket", "pineapple", "cactus", "octopus"]
WORDLESS = LABELS[3:]


NAMES = {
    "id2label": dict(enumerate(LABELS)),
    "label2id": {label: i for i, label in enumerate(LABELS)},
}


def write_classifier(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 4, 8, 8], "depths": [1, 1, 1, 1]}
    config = ResNetConfig(layer_type="basic", **sizes, **NAMES)
    return _write(ResNetForImageClassification(config), folder)


def write_judge(folder: Path) -> Path:
    """Of the architecture of the embedded one, whose layers are known by name."""
    torch.manual_seed(1)
    sizes = {"num_stages": 3, "hidden_sizes": [4, 4, 8], "depths": [1, 1, 1]}
    return _write(ConvNextV2ForImageClassification(ConvNextV2Config(**sizes, **NAMES)), folder)


def _write(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    preprocessor = {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 16},
        "crop_pct": 1.0,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 2,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def write_assets(folder: Path) -> Path:
    """A folder of the layout of the embedded default, with random weights."""
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True)
    build_pipeline(tokenizer).save_pretrained(folder / "emoji-diffusion")
    write_classifier(folder / "classifier")
    write_judge(folder / "judge")
    concepts = {
        "caption_template": "{name}, style {style}",
        "styles": ["noto", "flat"],
        "generic_noun": "c",
        "concepts": [
            {
                "label": label,
                "name": "c" if label in WORDLESS else label,
                "emoji": "🍎",
                "wordless": label in WORDLESS,
                "held_out_styles": [],
            }
            for label in LABELS
        ],
    }
    (folder / "concepts.json").write_text(json.dumps(concepts))
    return folder


def drawn_from(saved: Noise, pipe) -> torch.Tensor:
    """Return the pictures that a stock pipeline draws from saved noise."""
    return pipe(
        saved.prompt,
        latents=saved.noise,
        num_inference_steps=saved.num_inference_steps,
        guidance_scale=saved.guidance_scale,
        output_type="pt",
    ).images
