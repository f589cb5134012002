"""Sample quality at few network calls: FID and KID of the embedded model, by solver and calls.

    python -m training.emoji --output_dir DATA    # fetch and render the training pictures, once
    python benchmarks/quality.py --data_dir DATA --work_dir WORK --max_seconds 1500
    python benchmarks/quality.py --own_reference 50 --work_dir WORK    # without them

The reference are the pictures that the model was trained on, each once, or those of the captions
that there are samples of; or, as many as samples, the model's own by many calls of DPM-Solver++,
which leaves the solver's error alone. Samples have captions in turn, no guidance, and their
number's seed. They are drawn in blocks that are kept in ``WORK``: a run that is killed, or that
ends after ``max_seconds``, goes on where it was. For each number of calls the solvers take turns,
and quality.json has what is there: as many samples for each solver. Rows of other references,
solvers and calls, of a run before, are kept. Networks run under autocast to bfloat16, which moves
pictures by 0.001 on average, a quarter of a level of 8 bits.

FID and KID are in the features of the embedded judge, which was trained on the same pictures, and
with ``--mobilenet WEIGHTS`` (see convert.py) in those of MobileNetV2, which was not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality_report import GROUPS, Estimate, distances, plot
from stamp import write_stamped
from torch import Tensor

import adjointdpm as adp
from adjointdpm.assets import load_default, load_feature_network
from adjointdpm.evaluation import picture_features
from adjointdpm.features import FeatureNetwork

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SOLVERS, CALLS = ("ddim", "dpmpp_2m", "ab2, noise form"), (5, 10, 20)
BLOCK = 250
OWN_REFERENCE = "dpmpp_2m"
"""The solver of the model's own pictures that samples are compared with."""
OWN_SEEDS_FROM = 1_000_000


def plan_of(solver: str, calls: int, denoiser: adp.Denoiser) -> adp.Plan:
    """Return a plan; steps are linear in time, as the model's own scheduler has them."""
    name, _, form = solver.partition(", ")
    return adp.solvers.build(
        name, denoiser.schedule, calls, "linspace", denoiser.prediction_type,
        form="noise" if form else None,
    )  # fmt: skip


class Model:
    """The embedded model, which draws pictures by their numbers."""

    def __init__(self, captions: list[str]) -> None:
        self._pipe = load_default().pipeline
        self._pipe.vae.to(memory_format=torch.channels_last)  # twice as fast
        self._captions = captions
        sampler, self._decode = adp.from_pipeline(self._pipe, 2, 1.0)
        self.denoiser = sampler.denoiser

    @torch.no_grad()
    def draw(self, plan: adp.Plan, numbers: range, seeds_from: int) -> Tensor:
        """Return pictures as 8-bit files hold them, (n, 3, 64, 64)."""
        seeds = [torch.Generator().manual_seed(seeds_from + i) for i in numbers]
        noise = torch.stack([torch.randn(4, 16, 16, generator=seed) for seed in seeds])
        captions = [self._captions[i % len(self._captions)] for i in numbers]
        cond = adp.encode_prompt(self._pipe, captions, guidance=False)
        with torch.autocast("cpu", torch.bfloat16):
            images = self._decode(adp.Sampler(self.denoiser, plan)(noise, **cond)).float()
        return images.mul(255).round().to(torch.uint8)


def draw_all(model: Model, options: argparse.Namespace) -> None:
    """Draw blocks that are not there yet, until all are or the time is over."""
    deadline = time.monotonic() + options.max_seconds
    rounds = [(options.work_dir, calls, options.solvers, 0) for calls in options.calls]
    if options.own_reference is not None:
        own = (own_folder(options), options.own_reference, [OWN_REFERENCE], OWN_SEEDS_FROM)
        rounds.insert(0, own)
    for folder, calls, solvers, seeds_from in rounds:
        plans = {solver: plan_of(solver, calls, model.denoiser) for solver in solvers}
        for start, (solver, plan) in product(range(0, options.num_images, BLOCK), plans.items()):
            path = block_path(folder, solver, calls, start)
            if not path.exists():
                if time.monotonic() > deadline:
                    return
                draw_block(model, plan, start, path, seeds_from)


def own_folder(options: argparse.Namespace) -> Path:
    folder: Path = options.work_dir / "own-reference"
    return folder


def draw_block(model: Model, plan: adp.Plan, start: int, path: Path, seeds_from: int) -> None:
    began = time.perf_counter()
    starts = range(start, start + BLOCK, 50)
    parts = [model.draw(plan, range(i, i + 50), seeds_from) for i in starts]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix(".partial.npy")
    np.save(partial_path, torch.cat(parts).numpy())
    partial_path.rename(path)
    each = (time.perf_counter() - began) / BLOCK
    print(f"{path.parent.name}, from {start}: {each:.3f} s a picture", flush=True)


def block_path(folder: Path, solver: str, calls: int, start: int) -> Path:
    name = solver.replace(", ", "-").replace(" ", "-")
    return folder / f"{name}-{calls}" / f"{start:05d}.npy"


def features_of(path: Path, network: FeatureNetwork, pictures: Tensor | None = None) -> Tensor:
    """Return features of the pictures in a file, kept beside it.

    Args:
        path: of the pictures.
        network: whose features.
        pictures: those that stand for a file that is not there.
    """
    kept = path.with_suffix(f".{network.name.split()[0]}.features.npy")
    if not kept.exists():
        images = torch.from_numpy(np.load(path)) if pictures is None else pictures
        partial_path = kept.with_suffix(".partial.npy")
        np.save(partial_path, picture_features(images.float() / 255, network).float().numpy())
        partial_path.rename(kept)
    return torch.from_numpy(np.load(kept)).double()


def complete_blocks(options: argparse.Namespace, calls: int) -> dict[str, list[Path]]:
    """Return the blocks of each solver, up to the first that one of them lacks."""
    found: dict[str, list[Path]] = {solver: [] for solver in options.solvers}
    for start in range(0, options.num_images, BLOCK):
        paths = {s: block_path(options.work_dir, s, calls, start) for s in options.solvers}
        if not all(path.exists() for path in paths.values()):
            break
        for solver, path in paths.items():
            found[solver].append(path)
    return found


Reference = Callable[[FeatureNetwork, int], Tensor]
"""Features of the pictures that so many samples are compared with."""


def own_pictures(options: argparse.Namespace) -> Reference:
    """Compare with the model's own pictures by many calls, of other seeds."""

    def features(network: FeatureNetwork, count: int) -> Tensor:
        folder, calls = own_folder(options), options.own_reference
        starts = range(0, count, BLOCK)
        paths = [block_path(folder, OWN_REFERENCE, calls, start) for start in starts]
        return torch.cat([features_of(path, network) for path in paths])

    return features


def training_pictures(work_dir: Path, pictures: np.ndarray) -> Reference:
    """Compare with training pictures: with fewer samples than captions, those of their captions."""

    def features(network: FeatureNetwork, count: int) -> Tensor:
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        return features_of(work_dir / "reference", network, images)[:count]

    return features


def measure(options: argparse.Namespace, name: str, reference: Reference) -> list[dict[str, Any]]:
    """Return a row for every complete pair and feature network."""
    networks = [load_feature_network("judge")]
    if options.mobilenet is not None:
        networks.append(load_feature_network("mobilenet-v2", weights=options.mobilenet))
    rows = []
    estimates: dict[tuple[str, str, int, int], dict[str, Estimate]] = {}
    for network, calls in product(networks, options.calls):
        for solver, found in complete_blocks(options, calls).items():
            if len(found) < 2:
                continue
            samples = torch.cat([features_of(path, network) for path in found])
            matched = reference(network, len(samples))
            here = distances(samples, matched)
            estimates[network.name, solver, calls, len(samples)] = here
            others = {"solver": (options.solvers[0], calls), "calls": (solver, options.calls[0])}
            beside = {  # as many samples, from the same noises
                f"difference_from_first_{what}": (network.name, *other, len(samples))
                for what, other in others.items()
            }
            row = {
                "reference": name, "solver": solver, "calls": calls,
                "feature_network": network.name, "num_features": samples.shape[1],
                "num_images": len(samples), "num_reference": len(matched),
                **{key: value.interval() for key, value in here.items()},
                **{what: {key: (here[key] - estimates[which][key]).interval() for key in here}
                   for what, which in beside.items() if which in estimates},
            }  # fmt: skip
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def captions_without_pictures() -> list[str]:
    """Return captions of the published words, of which most were trained on, in every style."""
    words = load_default().concepts
    named = [concept.name for concept in words.concepts if not concept.wordless]
    return [words.prompt(name, style) for name, style in product(named, words.styles)]


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, help="of the training pictures")
    parser.add_argument("--own_reference", type=int, metavar="CALLS")
    parser.add_argument("--work_dir", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--num_images", type=int, default=5000)
    parser.add_argument("--max_seconds", type=float, default=float("inf"), help="for drawing")
    parser.add_argument("--mobilenet", type=Path, help="weights of the second feature network")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS))
    parser.add_argument("--calls", type=int, nargs="+", default=list(CALLS))
    options = parser.parse_args(arguments)
    if options.data_dir is None and options.own_reference is None:
        parser.error("compare with what? Give --data_dir or --own_reference")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    options.work_dir.mkdir(parents=True, exist_ok=True)
    if options.data_dir is not None:
        from training.concepts import training_examples
        from training.emoji import load_emoji

        emoji = load_emoji(options.data_dir)
        examples = training_examples(emoji)
        captions = [example.caption for example in examples]
    else:
        captions = captions_without_pictures()
    draw_all(Model(captions), options)
    if options.own_reference is not None:
        name = f"its own pictures, {options.own_reference} calls"
        reference = own_pictures(options)
    else:
        name = "training pictures"
        pictures = np.stack([emoji.images[e.style, e.name] for e in examples])
        reference = training_pictures(options.work_dir, pictures)
    path = options.output_dir / "quality.json"
    old = json.loads(path.read_text())["rows"] if path.is_file() else []
    chosen = set(product([name], options.solvers, options.calls))
    rows = [r for r in old if (r["reference"], r["solver"], r["calls"]) not in chosen]
    rows = sorted(
        rows + measure(options, name, reference), key=lambda row: (row["reference"], row["calls"])
    )
    settings = {
        "model": "embedded model, no guidance, steps linear in time, bfloat16",
        "interval": f"95 %, jackknife over {GROUPS} groups of samples",
    }
    write_stamped(path, settings, rows=rows)
    if rows:
        plot(rows, options.output_dir / "quality.png")


if __name__ == "__main__":
    main()
