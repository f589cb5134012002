"""Train the text encoder and the UNet together on the autoencoder's latents.

v-prediction on the linear schedule (its terminal signal-to-noise ratio is nearly zero, so the
brightness of a picture is the model's to choose). Captions are dropped with probability 0.1, which
is what classifier-free guidance needs.

    python -m training.train_diffusion --vae training/runs/vae/vae

With `--augment` every picture is varied before it is encoded, so that there are many pictures of
one caption and the noise decides which is drawn. `--init_from FOLDER` goes on from the text encoder
and the UNet of a pipeline, with its words.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from training.augment import vary
from training.concepts import Example, training_examples
from training.emoji import EmojiSet, load_emoji
from training.loop import Run, add_training_arguments, autocast, default_device
from training.text import build_text_encoder, copy_tokenizer, write_tokenizer
from training.train_vae import bytes_to_model_range

TRAIN_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "v_prediction",
}


def build_unet(cross_attention_dim: int = 96) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        # Attention has no notion of place: the 4x4 level, where every cell meets the padding, is
        # what tells the network where in the picture it is.
        block_out_channels=(64, 112, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type=None,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        cross_attention_dim=cross_attention_dim,
        # The words also reach every block as scales and shifts, pooled from the same hidden
        # states: what a word looks like is learned much sooner than by cross-attention alone.
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
        time_embedding_dim=128,
    )


class TextToLatents(nn.Module):
    """Text encoder and UNet as one module, so that they share an optimiser and an EMA."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet

    def forward(self, noisy: torch.Tensor, t: torch.Tensor, input_ids: torch.Tensor):
        states = self.text_encoder(input_ids)[0]
        return self.unet(noisy, t, encoder_hidden_states=states, return_dict=False)[0]


class Latents:
    """Clean latents of examples: encoded once, or varied and encoded anew in every batch."""

    def __init__(
        self, vae: AutoencoderKL, emoji: EmojiSet, examples: list[Example], *, augment: bool
    ) -> None:
        self.vae = vae.float().eval().requires_grad_(False)
        pictures = emoji.images[[e.style for e in examples], [e.name for e in examples]]
        self.pictures = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(vae.device)
        self.augment = augment
        if not augment:
            batches = bytes_to_model_range(self.pictures).split(64)
            self.encoded = torch.cat([self._encode(x) for x in batches])

    def _encode(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.vae.encode(pictures).latent_dist.mean.float()

    @torch.no_grad()
    def take(self, chosen: torch.Tensor) -> torch.Tensor:
        """(n, 4, 16, 16), of the examples of these numbers."""
        if self.augment:
            return self._encode(vary(bytes_to_model_range(self.pictures[chosen])))
        return self.encoded[chosen]


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    return tokenizer(
        captions,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids


def sampling_weights(examples: list[Example], focus_fraction: float) -> torch.Tensor:
    focus = torch.tensor([e.focus for e in examples])
    count = focus.sum()
    return torch.where(focus, focus_fraction / count, (1 - focus_fraction) / (len(focus) - count))


def stratified(count: int, device: torch.device) -> torch.Tensor:
    """One uniform draw in each of `count` equal slices of [0, 1): the loss varies less."""
    return (torch.arange(count, device=device) + torch.rand(count, device=device)) / count


def initial_model(tokenizer: CLIPTokenizer, folder: Path | None) -> TextToLatents:
    if folder is None:
        return TextToLatents(build_text_encoder(tokenizer), build_unet())
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    return TextToLatents(text_encoder, unet).train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_training_arguments(
        parser,
        output_dir=Path("training/runs/diffusion"),
        learning_rate=2e-3,
        lr_warmup_steps=300,
        max_train_steps=16_000,
        train_batch_size=32,
        ema_decay=0.9995,
    )
    parser.add_argument("--vae", type=Path, default=Path("training/runs/vae/vae"))
    parser.add_argument("--caption_dropout", type=float, default=0.1)
    parser.add_argument("--focus_fraction", type=float, default=0.85)
    parser.add_argument("--augment", action="store_true", help="vary the pictures")
    parser.add_argument("--init_from", type=Path, help="folder of a pipeline")
    parser.add_argument("--compile", action="store_true", help="torch.compile the UNet")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    device = default_device()

    emoji = load_emoji(args.data_dir)
    examples = training_examples(emoji)
    vae = AutoencoderKL.from_pretrained(args.vae).to(device)
    latents = Latents(vae, emoji, examples, augment=args.augment)
    tokenizer_dir = args.output_dir / "tokenizer"
    if args.init_from:
        copy_tokenizer(args.init_from / "tokenizer", tokenizer_dir)
    elif not tokenizer_dir.exists():
        write_tokenizer([e.caption for e in examples], tokenizer_dir)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_dir)
    input_ids = tokenize(tokenizer, [e.caption for e in examples]).to(device)
    no_caption = tokenize(tokenizer, [""]).to(device)
    cumulative = sampling_weights(examples, args.focus_fraction).cumsum(0).to(device)

    model = initial_model(tokenizer, args.init_from)
    model = model.to(device, memory_format=torch.channels_last)
    print(
        f"unet {model.unet.num_parameters() / 1e6:.2f} M, "
        f"text encoder {model.text_encoder.num_parameters() / 1e6:.2f} M parameters, "
        f"{len(examples)} pictures",
        flush=True,
    )
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 1e-2}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.99),
        fused=True,
    )
    scheduler = DDPMScheduler(**TRAIN_SCHEDULE)
    run = Run(model, optimizer, args)
    torch.manual_seed(args.seed + run.step)
    if args.compile:
        model.unet.compile()

    def losses() -> dict[str, torch.Tensor]:
        draw = torch.rand(args.train_batch_size, device=device)
        chosen = torch.searchsorted(cumulative, draw).clamp_max(len(examples) - 1)
        with autocast(device, args.mixed_precision):
            clean = latents.take(chosen)
        ids = input_ids[chosen]
        dropped = torch.rand(len(ids), 1, device=device) < args.caption_dropout
        ids = torch.where(dropped, no_caption, ids)
        t = (stratified(len(clean), device) * scheduler.config.num_train_timesteps).long()
        noise = torch.randn_like(clean)
        noisy = scheduler.add_noise(clean, noise, t)
        target = scheduler.get_velocity(clean, noise, t)
        with autocast(device, args.mixed_precision):
            prediction = model(noisy.contiguous(memory_format=torch.channels_last), t, ids)
        return {"loss": functional.mse_loss(prediction.float(), target)}

    run.train(losses)


if __name__ == "__main__":
    main()
