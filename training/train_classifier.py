"""Train the two classifiers on real emoji: a ResNet (the demo's metric) and its judge.

They differ in architecture and in seed. Neither sees the held-out pairs, nor a generated picture;
half of what they see went through the autoencoder with a little latent noise, because that is what
pictures drawn by the model look like.

    python -m training.train_classifier --architecture resnet --vae training/runs/vae/vae
    python -m training.train_classifier --architecture convnext --seed 1
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional
from transformers import (
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from training.augment import augment
from training.concepts import Concept, build_concepts
from training.emoji import STYLES, EmojiSet, load_emoji
from training.loop import Run, add_training_arguments, autocast, default_device
from training.train_vae import to_model_range

PREPROCESSOR = {
    "image_processor_type": "ConvNextImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 64},
    "crop_pct": 1.0,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
}


def build_classifier(architecture: str, labels: list[str]) -> nn.Module:
    names = {
        "id2label": dict(enumerate(labels)),
        "label2id": {name: i for i, name in enumerate(labels)},
    }
    if architecture == "resnet":
        config = ResNetConfig(
            embedding_size=24,
            hidden_sizes=[32, 48, 64, 96],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            **names,
        )
        return ResNetForImageClassification(config)
    config = ConvNextV2Config(
        image_size=64,
        patch_size=4,
        num_stages=3,
        hidden_sizes=[32, 64, 80],
        depths=[1, 1, 2],
        **names,
    )
    return ConvNextV2ForImageClassification(config)


def labelled_pictures(
    emoji: EmojiSet, concepts: list[Concept], *, held_out: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures in [-1, 1] and class numbers, of the held-out pairs or of all the others."""
    pictures, labels = [], []
    for label, concept in enumerate(concepts):
        name = emoji.index(concept.label.replace(" ", "-"))
        for s, style in enumerate(STYLES):
            if (style in concept.held_out_styles) == held_out:
                pictures.append(torch.from_numpy(emoji.images[s, name]))
                labels.append(label)
    return to_model_range(torch.stack(pictures).numpy()), torch.tensor(labels)


@torch.no_grad()
def reconstructions(vae: AutoencoderKL, pictures: torch.Tensor, copies: int = 4) -> torch.Tensor:
    """(copies, n, 3, 64, 64): decoded latents, each copy with more latent noise than the last."""
    device = next(vae.parameters()).device
    decoded = []
    for copy in range(copies):
        for x in pictures.split(64):
            latents = vae.encode(x.to(device)).latent_dist.mean
            noisy = latents + 0.15 * copy * torch.randn_like(latents)
            decoded.append(vae.decode(noisy).sample.clamp(-1, 1).cpu())
    return torch.cat(decoded).unflatten(0, (copies, len(pictures)))


@torch.no_grad()
def read(model: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """Logits (n, classes) of pictures, wherever the model lies."""
    device = next(model.parameters()).device
    return torch.cat([model(x.to(device)).logits.cpu() for x in pictures.split(64)])


def accuracy(model: nn.Module, pictures: torch.Tensor, labels: torch.Tensor) -> float:
    return float((read(model, pictures).argmax(1) == labels).float().mean())


@torch.no_grad()
def calibrate_batch_norm(model: nn.Module, pictures: torch.Tensor, batches: int = 60) -> None:
    """Recompute the running statistics for the averaged weights."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    model.train()
    for _ in range(batches):
        model(augment(pictures[torch.randint(len(pictures), (64,))]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_training_arguments(
        parser,
        learning_rate=3e-3,
        max_train_steps=5000,
        train_batch_size=64,
        ema_decay=0.998,
    )
    parser.add_argument("--architecture", choices=("resnet", "convnext"), required=True)
    parser.add_argument("--vae", type=Path, default=Path("training/runs/vae/vae"))
    parser.add_argument("--label_smoothing", type=float, default=0.1)
    args = parser.parse_args()
    args.output_dir = args.output_dir or Path("training/runs") / args.architecture
    torch.manual_seed(args.seed)
    device = default_device()

    emoji = load_emoji(args.data_dir)
    concepts = build_concepts(emoji)
    real, labels = labelled_pictures(emoji, concepts, held_out=False)
    vae = AutoencoderKL.from_pretrained(args.vae).to(device)
    decoded = reconstructions(vae, real)
    copies = len(decoded)
    pictures = torch.cat([real.expand(copies, *real.shape), decoded]).flatten(0, 1).to(device)
    labels = labels.repeat(2 * copies).to(device)

    model = build_classifier(args.architecture, [c.label for c in concepts])
    model = model.to(device, memory_format=torch.channels_last)
    print(f"{model.num_parameters() / 1e6:.2f} M parameters, {len(concepts)} classes", flush=True)
    decay = {"weight_decay": 0.05}
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], **decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    run = Run(model, torch.optim.AdamW(groups, fused=True), args)
    torch.manual_seed(args.seed + run.step)
    model.train()

    def losses() -> dict[str, torch.Tensor]:
        chosen = torch.randint(len(pictures), (args.train_batch_size,), device=device)
        batch = augment(pictures[chosen]).contiguous(memory_format=torch.channels_last)
        with autocast(device, args.mixed_precision):
            logits = model(batch).logits
        loss = functional.cross_entropy(
            logits.float(), labels[chosen], label_smoothing=args.label_smoothing
        )
        return {"loss": loss, "accuracy": (logits.argmax(1) == labels[chosen]).float().mean()}

    run.train(losses)

    model = run.ema.module.float()
    calibrate_batch_norm(model, pictures)
    model = model.to("cpu", memory_format=torch.contiguous_format)
    model.save_pretrained(args.output_dir / "model")
    preprocessor = args.output_dir / "model" / "preprocessor_config.json"
    preprocessor.write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")

    torch.manual_seed(10_000 + args.seed)
    held_out = labelled_pictures(emoji, concepts, held_out=True)
    real, labels = labelled_pictures(emoji, concepts, held_out=False)
    numbers = {
        "real": accuracy(model, real, labels),
        "real_unseen_augmentation": accuracy(model, augment(real), labels),
        "real_held_out_pairs": accuracy(model, *held_out),
        "held_out_pairs": len(held_out[1]),
    }
    (args.output_dir / "accuracy.json").write_text(json.dumps(numbers, indent=2) + "\n")
    print(numbers)


if __name__ == "__main__":
    main()
