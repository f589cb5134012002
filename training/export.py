"""Write the embedded model as a folder: pipeline, classifiers, published list, model card.

    python -m training.export --runs training/runs --output_dir training/runs/export

Weights are half-precision safetensors. `StableDiffusionPipeline.from_pretrained` loads the result.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, CLIPTokenizer

from training.concepts import published_list
from training.emoji import load_emoji
from training.model_card import model_card
from training.text import build_text_encoder
from training.train_diffusion import TRAIN_SCHEDULE, TextToLatents, build_unet

CLASSIFIERS = {"classifier": "resnet", "judge": "convnext"}
PIPELINE_DIR = "emoji-diffusion"


def build_scheduler() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        **TRAIN_SCHEDULE, timestep_spacing="trailing", steps_offset=1, final_sigmas_type="zero"
    )


def load_diffusion(run_dir: Path) -> tuple[CLIPTokenizer, TextToLatents]:
    """Tokenizer and averaged weights of a diffusion run, finished or not."""
    tokenizer = CLIPTokenizer.from_pretrained(run_dir / "tokenizer")
    model = TextToLatents(build_text_encoder(tokenizer), build_unet())
    state = torch.load(run_dir / "checkpoint.pt", weights_only=True, map_location="cpu")
    model.load_state_dict(state["ema"])
    return tokenizer, model.eval()


def build_pipeline(vae_dir: Path, run_dir: Path) -> StableDiffusionPipeline:
    tokenizer, model = load_diffusion(run_dir)
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(vae_dir),
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write_tokenizer_files(source: Path, target: Path) -> None:
    """The plain vocabulary and merges, instead of the one large file of `save_pretrained`."""
    (target / "tokenizer.json").unlink(missing_ok=True)
    for name in ("vocab.json", "merges.txt"):
        (target / name).write_bytes((source / name).read_bytes())


def load_as_float32(folder: Path) -> None:
    """Name float32 in the config: transformers loads in that dtype, and diffusers does."""
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def name_as_the_hub_does(weights: Path) -> None:
    """Name a text encoder's weights as those on the hub are: older transformers read no others."""
    prefix = "text_model."
    named = {prefix + name.removeprefix(prefix): each for name, each in load_file(weights).items()}
    save_file(named, weights, metadata={"format": "pt"})


def forget_folders(folder: Path) -> None:
    """Take out of the configs where on the machine of the training the parts were loaded from."""
    for file in folder.rglob("config.json"):
        config = json.loads(file.read_text())
        if config.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("training/runs"))
    parser.add_argument("--output_dir", type=Path, default=Path("training/runs/export"))
    parser.add_argument("--diffusion", type=Path, help="a run's folder; by default RUNS/diffusion")
    parser.add_argument("--evaluation", type=Path, default=Path("docs/model/evaluation.json"))
    args = parser.parse_args()

    run_dir = args.diffusion or args.runs / "diffusion"
    pipeline = build_pipeline(args.runs / "vae" / "vae", run_dir)
    folder = args.output_dir / PIPELINE_DIR
    pipeline.to(torch.float16).save_pretrained(folder)
    load_as_float32(folder / "text_encoder")
    name_as_the_hub_does(folder / "text_encoder" / "model.safetensors")
    write_tokenizer_files(run_dir / "tokenizer", folder / "tokenizer")

    for name, architecture in CLASSIFIERS.items():
        source, target = args.runs / architecture / "model", args.output_dir / name
        model = AutoModelForImageClassification.from_pretrained(source, dtype=torch.float16)
        model.save_pretrained(target)
        load_as_float32(target)
        preprocessor = "preprocessor_config.json"
        (target / preprocessor).write_text((source / preprocessor).read_text())

    forget_folders(args.output_dir)
    listing = published_list(load_emoji(args.runs / "data"))
    (args.output_dir / "concepts.json").write_text(
        json.dumps(listing, indent=1, ensure_ascii=False) + "\n"
    )
    evaluation = json.loads(args.evaluation.read_text()) if args.evaluation.exists() else None
    (args.output_dir / "README.md").write_text(model_card(evaluation))
    size = sum(f.stat().st_size for f in args.output_dir.rglob("*") if f.is_file())
    print(f"{args.output_dir}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
