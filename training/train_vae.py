"""Train the autoencoder: 64x64 RGB to 16x16x4 latents, stored normalised.

After training, the mean and the scale of each latent channel are folded into `quant_conv` and
`post_quant_conv`, so that latents have zero mean and unit variance with `scaling_factor=1` (the
stock pipeline does not read `latents_mean` or `shift_factor`).

    python -m training.train_vae --output_dir training/runs/vae

`--init_from FOLDER` goes on from an autoencoder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from training.augment import vary
from training.emoji import EmojiSet, load_emoji
from training.loop import Run, add_training_arguments, autocast, default_device

HELD_OUT_EVERY = 50  # one name in fifty is kept from the autoencoder


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def to_model_range(images: np.ndarray) -> torch.Tensor:
    """uint8 (..., 64, 64, 3) to float (n, 3, 64, 64) in [-1, 1]."""
    flat = torch.from_numpy(images.reshape(-1, *images.shape[-3:]))
    return bytes_to_model_range(flat.permute(0, 3, 1, 2))


def bytes_to_model_range(images: torch.Tensor) -> torch.Tensor:
    return images.float().div(127.5).sub(1)


def held_out_names(emoji: EmojiSet) -> np.ndarray:
    return np.arange(len(emoji.slugs)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


def augment(batch: torch.Tensor) -> torch.Tensor:
    """Vary half the pictures; the others stay as sharp as they are, and half of them mirrored."""
    draw = torch.rand(len(batch), 1, 1, 1, device=batch.device)
    return torch.where(draw < 0.5, vary(batch), torch.where(draw < 0.75, batch.flip(-1), batch))


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def reconstruction_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 and squared error, and L1 on finite differences so that outlines stay sharp."""
    edge = sum(
        functional.l1_loss(p, t) for p, t in zip(edges(prediction), edges(target), strict=True)
    )
    return (
        functional.l1_loss(prediction, target)
        + 2 * functional.mse_loss(prediction, target)
        + 0.5 * edge
    )


@torch.no_grad()
def fold_latent_statistics(vae: AutoencoderKL, images: torch.Tensor) -> None:
    """Give each channel of the posterior mean zero mean and unit variance; pictures stay."""
    latents = torch.cat([vae.encode(x).latent_dist.mean for x in images.split(64)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    encode, decode = vae.quant_conv, vae.post_quant_conv
    encode.weight[:channels] /= std[:, None, None, None]
    encode.bias[:channels] = (encode.bias[:channels] - mean) / std
    encode.bias[channels:] -= 2 * std.log()
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight *= std[None, :, None, None]


@torch.no_grad()
def mean_psnr(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """Mean over pictures of the PSNR of 8-bit reconstructions, in dB."""
    values = []
    for x in images.to(vae.device).split(64):
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        y = (y.add(1).mul(127.5).round()).div(127.5).sub(1)
        values.append(10 * torch.log10(4 / (x - y).square().mean((1, 2, 3)).clamp_min(1e-8)))
    return float(torch.cat(values).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_training_arguments(
        parser,
        output_dir=Path("training/runs/vae"),
        learning_rate=2e-3,
        max_train_steps=3400,
        train_batch_size=16,
        ema_decay=0.998,
    )
    parser.add_argument("--kl_weight", type=float, default=3e-4)
    parser.add_argument("--init_from", type=Path, help="folder of an AutoencoderKL")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    device = default_device()

    emoji = load_emoji(args.data_dir)
    held_out = held_out_names(emoji)
    pictures = to_model_range(emoji.images[:, ~held_out]).to(device)

    vae = AutoencoderKL.from_pretrained(args.init_from) if args.init_from else build_vae()
    vae = vae.float().train().to(device, memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in vae.parameters()) / 1e6:.2f} M parameters", flush=True)
    optimizer = torch.optim.AdamW(
        vae.parameters(), weight_decay=1e-3, betas=(0.9, 0.99), fused=True
    )
    run = Run(vae, optimizer, args)
    torch.manual_seed(args.seed + run.step)

    def losses() -> dict[str, torch.Tensor]:
        chosen = torch.randint(len(pictures), (args.train_batch_size,), device=device)
        batch = augment(pictures[chosen]).contiguous(memory_format=torch.channels_last)
        with autocast(device, args.mixed_precision):
            posterior = vae.encode(batch).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        reconstruction = reconstruction_loss(decoded.float(), batch)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {"loss": reconstruction + args.kl_weight * kl, "kl": kl}

    run.train(losses)

    vae = run.ema.module.to(memory_format=torch.contiguous_format)
    fold_latent_statistics(vae, pictures)
    vae.save_pretrained(args.output_dir / "vae")
    numbers = {
        "psnr": mean_psnr(vae, to_model_range(emoji.images[:, ~held_out])[::4]),
        "psnr_held_out": mean_psnr(vae, to_model_range(emoji.images[:, held_out])),
    }
    (args.output_dir / "psnr.json").write_text(json.dumps(numbers, indent=2) + "\n")
    print(numbers)


if __name__ == "__main__":
    main()
