"""Sample quality at few network calls: FID and KID of the embedded model, by solver and calls.

    python -m training.emoji --output_dir DATA    # fetch and render the training pictures, once
    python benchmarks/quality.py --data_dir DATA --work_dir WORK --max_seconds 1500

The reference are the pictures that the model was trained on, each once, or those of the captions
that there are samples of; samples have their captions in turn, no guidance, and their number's
seed. They are drawn in blocks that are kept in ``WORK``: a run that is killed, or that ends after
``max_seconds``, goes on where it was. For each number of calls the solvers take turns, and
quality.json has what is there: as many samples for each solver. Rows of other solvers and calls, of
a run before, are kept. Networks run under autocast to bfloat16, which moves pictures by 0.001 on
average, a quarter of a level of 8 bits.

FID and KID are in the features of the embedded judge, which was trained on the same pictures, and
with ``--mobilenet WEIGHTS`` (see convert.py) in those of MobileNetV2, which was not.
Intervals are of 95 %, from a jackknife that leaves out one of 20 groups of samples at a time; the
reference is all there is and has no error.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stamp import stamp
from torch import Tensor

import adjointdpm as adp
from adjointdpm.assets import load_default, load_feature_network
from adjointdpm.evaluation import FeatureStatistics, frechet_distance, picture_features
from adjointdpm.features import FeatureNetwork

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SOLVERS, CALLS = ("ddim", "dpmpp_2m", "ab2, noise form"), (5, 10, 20)
BLOCK, GROUPS = 250, 20


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
    def draw(self, plan: adp.Plan, numbers: range) -> Tensor:
        """Return pictures as 8-bit files hold them, (n, 3, 64, 64)."""
        noise = torch.stack(
            [torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(i)) for i in numbers]
        )
        captions = [self._captions[i % len(self._captions)] for i in numbers]
        cond = adp.encode_prompt(self._pipe, captions, guidance=False)
        with torch.autocast("cpu", torch.bfloat16):
            images = self._decode(adp.Sampler(self.denoiser, plan)(noise, **cond)).float()
        return images.mul(255).round().to(torch.uint8)


def draw_all(model: Model, options: argparse.Namespace) -> None:
    """Draw blocks that are not there yet, until all are or the time is over."""
    deadline = time.monotonic() + options.max_seconds
    for calls in options.calls:
        plans = {solver: plan_of(solver, calls, model.denoiser) for solver in options.solvers}
        for start in range(0, options.num_images, BLOCK):
            for solver, plan in plans.items():
                path = block_path(options.work_dir, solver, calls, start)
                if not path.exists():
                    if time.monotonic() > deadline:
                        return
                    draw_block(model, plan, start, path)


def draw_block(model: Model, plan: adp.Plan, start: int, path: Path) -> None:
    began = time.perf_counter()
    parts = [model.draw(plan, range(i, i + 50)) for i in range(start, start + BLOCK, 50)]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix(".partial.npy")
    np.save(partial_path, torch.cat(parts).numpy())
    partial_path.rename(path)
    each = (time.perf_counter() - began) / BLOCK
    print(f"{path.parent.name}, from {start}: {each:.3f} s a picture", flush=True)


def block_path(folder: Path, solver: str, calls: int, start: int) -> Path:
    name = solver.replace(", ", "-").replace(" ", "-")
    return folder / f"{name}-{calls}" / f"{start:05d}.npy"


def features_of(path: Path, network: FeatureNetwork, make: Callable[[], Tensor]) -> Tensor:
    """Return features of pictures, from the file beside them if they were computed before."""
    kept = path.with_suffix(f".{network.name.split()[0]}.features.npy")
    if not kept.exists():
        partial_path = kept.with_suffix(".partial.npy")
        found = picture_features(make().float() / 255, network).float().numpy()
        np.save(partial_path, found)
        partial_path.rename(kept)
    return torch.from_numpy(np.load(kept)).double()


def kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def within(a: Tensor) -> Tensor:
    """Return the mean kernel of all pairs of two different pictures."""
    values = kernel(a, a)
    return (values.sum() - values.trace()) / (len(a) * (len(a) - 1))


def fid(samples: Tensor, reference: FeatureStatistics) -> float:
    return frechet_distance(FeatureStatistics.of(samples), reference)


def with_interval(measure: Callable[[Tensor], float], samples: Tensor) -> dict[str, float]:
    """Return a value and half of its 95 % interval, by a jackknife over groups."""
    group = torch.arange(len(samples)) % GROUPS
    left_out = np.array([measure(samples[group != g]) for g in range(GROUPS)])
    error = np.sqrt((GROUPS - 1) * left_out.var())
    return {"value": measure(samples), "half_width": float(1.96 * error)}


def distances(samples: Tensor, reference: Tensor) -> dict[str, Any]:
    """Return FID and KID x 1000 in features divided by the reference's root mean square."""
    scale = reference.square().mean().sqrt()
    samples, reference = samples / scale, reference / scale
    statistics = FeatureStatistics.of(reference)
    of_reference = within(reference)

    def kid(samples: Tensor) -> float:
        """Return KID on all pictures at once, unbiased (arXiv 1801.01401, eq. 4)."""
        across = kernel(samples, reference).mean()
        return 1000 * float(within(samples) + of_reference - 2 * across)

    return {
        "fid": with_interval(partial(fid, reference=statistics), samples),
        "kid_x_1000": with_interval(kid, samples),
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    networks = list(dict.fromkeys(row["feature_network"] for row in rows))
    figure = Figure(figsize=(9, 3.4 * len(networks)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(networks), 2, squeeze=False)
    for network, line in zip(networks, grid, strict=True):
        for key, ax in zip(("fid", "kid_x_1000"), line, strict=True):
            for solver in dict.fromkeys(row["solver"] for row in rows):
                chosen = sorted(
                    (row["calls"], row[key]["value"], row[key]["half_width"])
                    for row in rows
                    if row["solver"] == solver and row["feature_network"] == network
                )
                if chosen:
                    calls, values, widths = zip(*chosen, strict=True)
                    ax.errorbar(calls, values, widths, marker="o", capsize=3, label=solver)
            ax.set(xlabel="network calls", ylabel=key.replace("_", " "), title=network)
            ax.set_xticks(sorted({row["calls"] for row in rows}))
            ax.legend()
    figure.savefig(path, dpi=110)


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


def measure(options: argparse.Namespace, examples: Any, images: np.ndarray) -> list[dict[str, Any]]:
    """Return a row for every complete pair and feature network."""
    networks = [load_feature_network("judge")]
    if options.mobilenet is not None:
        networks.append(load_feature_network("mobilenet-v2", weights=options.mobilenet))
    pictures = torch.from_numpy(np.stack([images[e.style, e.name] for e in examples]))
    rows = []
    for network in networks:
        reference = features_of(
            options.work_dir / "reference", network, lambda: pictures.permute(0, 3, 1, 2)
        )
        for calls in options.calls:
            paths = complete_blocks(options, calls)
            for solver, found in paths.items():
                if len(found) < 2:
                    continue
                blocks = [
                    features_of(path, network, lambda path=path: torch.from_numpy(np.load(path)))
                    for path in found
                ]
                samples = torch.cat(blocks)
                # Captions come in turn: with fewer samples than captions, these are their pictures.
                matched = reference[: len(samples)]
                row = {
                    "solver": solver, "calls": calls, "feature_network": network.name,
                    "num_features": reference.shape[1], "num_images": len(samples),
                    "num_reference": len(matched), **distances(samples, matched),
                }  # fmt: skip
                rows.append(row)
                print(json.dumps(row), flush=True)
    return rows


def main(arguments: list[str] | None = None) -> None:
    from training.concepts import training_examples
    from training.emoji import load_emoji

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--work_dir", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--num_images", type=int, default=5000)
    parser.add_argument("--max_seconds", type=float, default=float("inf"), help="for drawing")
    parser.add_argument("--mobilenet", type=Path, help="weights of the second feature network")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS))
    parser.add_argument("--calls", type=int, nargs="+", default=list(CALLS))
    options = parser.parse_args(arguments)
    options.work_dir.mkdir(parents=True, exist_ok=True)
    emoji = load_emoji(options.data_dir)
    examples = training_examples(emoji)
    draw_all(Model([example.caption for example in examples]), options)
    path = options.output_dir / "quality.json"
    old = json.loads(path.read_text())["rows"] if path.is_file() else []
    chosen = set(product(options.solvers, options.calls))
    rows = [row for row in old if (row["solver"], row["calls"]) not in chosen]
    rows = sorted(rows + measure(options, examples, emoji.images), key=lambda row: row["calls"])
    content = {
        "model": "embedded model, no guidance, steps linear in time, bfloat16",
        "reference": "its training pictures of the same captions",
        "interval": f"95 %, jackknife over {GROUPS} groups of samples",
        **stamp(),
        "rows": rows,
    }
    options.output_dir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    if rows:
        plot(rows, options.output_dir / "quality.png")


if __name__ == "__main__":
    main()
