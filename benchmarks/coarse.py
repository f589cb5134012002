"""How few vector-Jacobian products give how good a gradient: the study behind `CoarseAdjoint`.

    python benchmarks/coarse.py          # the embedded model, about twenty minutes on one idle core
    python benchmarks/coarse.py --toy    # a Gaussian mixture, seconds

Each rule is the sampler's transpose with interpolated products, the transpose of a coarse plan (its
solver), both with blocks that shorten towards the image, or the adjoint ODE on a coarse grid. All
are compared with `Exact` on the same run: cosine and relative error of the gradients for noise,
conditioning and weights. Results go to coarse.json and coarse.png in the output directory.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from stamp import write_stamped
from torch import Tensor

import adjointdpm as adp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

RULES: dict[str, Callable[[int], adp.gradients.GradientMethod]] = {
    "interpolated, density 1.5": lambda m: adp.CoarseAdjoint(m, density=1.5),
    "interpolated, density 1.25": lambda m: adp.CoarseAdjoint(m, density=1.25),
    "interpolated, equal blocks": lambda m: adp.CoarseAdjoint(m, density=1),
    "unipc_bh2_2, density 1.5": lambda m: adp.CoarseAdjoint(m, "unipc_bh2_2", density=1.5),
    "dpmpp_2m, density 1.5": lambda m: adp.CoarseAdjoint(m, "dpmpp_2m", density=1.5),
    "ddim, density 1.5": lambda m: adp.CoarseAdjoint(m, "ddim", density=1.5),
    "ddim, equal blocks": lambda m: adp.CoarseAdjoint(m, "ddim", density=1),
    "adjoint ODE, flow form, ab2": lambda m: adp.ContinuousAdjoint("ab2", m, form="flow"),
    "adjoint ODE, noise form, ab2": lambda m: adp.ContinuousAdjoint("ab2", m, form="noise"),
}
SCHEDULERS = {
    "DDIM": diffusers.DDIMScheduler,
    "DPM-Solver++": diffusers.DPMSolverMultistepScheduler,
}
DRAWN = (
    "interpolated, density 1.5",
    "interpolated, equal blocks",
    "unipc_bh2_2, density 1.5",
    "dpmpp_2m, density 1.5",
    "ddim, equal blocks",
    "adjoint ODE, flow form, ab2",
    "adjoint ODE, noise form, ab2",
)


@dataclass
class Problem:
    """A sampling run with an objective.

    Args:
        denoiser: the network.
        scheduler: settings of the schedulers.
        noise: latents, of which the gradient is taken.
        cond: conditioning.
        targets: tensors of which the gradient is taken too, by name.
        objective: of the samples.
    """

    denoiser: adp.Denoiser
    scheduler: dict[str, Any]
    noise: Tensor
    cond: dict[str, Any]
    targets: dict[str, list[Tensor]]
    objective: Callable[[Tensor], Tensor]

    def gradients(
        self, plan: adp.Plan, method: Any, observer: adp.Observer | None = None
    ) -> dict[str, Tensor]:
        """Return the flat gradient of each target."""
        groups = {"noise": [self.noise], **self.targets}
        sampler = adp.Sampler(self.denoiser, plan, method, observer=observer)
        value = self.objective(sampler(self.noise, **self.cond))
        tensors = [tensor for group in groups.values() for tensor in group]
        found = iter(torch.autograd.grad(value.sum(), tensors, allow_unused=True))
        gradients = {name: [next(found) for _ in group] for name, group in groups.items()}
        return {
            name: torch.cat([g.flatten() for g in group if g is not None])
            for name, group in gradients.items()
        }


def embedded(seed: int) -> Problem:
    """The embedded model with guidance, and the log-probability of a class through the decoder."""
    from adjointdpm.assets import load_default
    from adjointdpm.objectives import ClassifierLogProbability
    from adjointdpm.pipelines import encode_prompt, from_pipeline

    default = load_default()
    pipe = default.pipeline
    sampler, decode = from_pipeline(pipe, 2, 4.0)
    weights = list(sampler.denoiser.requires_grad_(True).parameters())
    metric = ClassifierLogProbability(default.classifier, "rocket")
    cond = {k: v.detach() for k, v in encode_prompt(pipe, "thing, style noto").items()}
    embedding = cond["encoder_hidden_states"].requires_grad_()
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    return Problem(
        sampler.denoiser,
        {**pipe.scheduler.config, "clip_sample": False},
        noise.requires_grad_(),
        cond,
        {"embedding": [embedding], "weights": weights},
        lambda sample: metric(decode(sample)),
    )


def toy(seed: int) -> Problem:
    """A Gaussian mixture, whose means stand for the conditioning and a gain for the weights."""
    from mixtures import GaussianMixture

    config = {"prediction_type": "v_prediction", "clip_sample": False}
    schedule = adp.Schedule.from_config(diffusers.DDIMScheduler(**config).config)
    mixture = GaussianMixture()
    exact = mixture.network(schedule, "v_prediction")

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x: Tensor, t: Tensor, means: Tensor) -> Tensor:
            return self.gain * exact(x, t, means=means)

    network = Network()
    generator = torch.Generator().manual_seed(seed)
    means = mixture.means.clone().requires_grad_()
    return Problem(
        adp.Denoiser(network, schedule, "v_prediction"),
        config,
        torch.randn(4, 3, dtype=torch.float64, generator=generator).requires_grad_(),
        {"means": means},
        {"embedding": [means], "weights": [network.gain]},
        lambda sample: (sample**2).sum() + sample.sin().sum(),
    )


def compare(gradient: Tensor, reference: Tensor) -> dict[str, float]:
    """Return cosine and relative error to six digits."""
    gradient, reference = gradient.double(), reference.double()
    error = float((gradient - reference).norm() / reference.norm())
    cosine = float(torch.cosine_similarity(gradient, reference, dim=0))
    return {"cosine": round(cosine, 6), "relative_error": float(f"{error:.5g}")}


def measure(
    make: Callable[[int], Problem], arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield one row for each scheduler, seed, rule, number of products and target."""
    for seed in range(arguments.seeds):
        problem = make(seed)
        for name, scheduler in SCHEDULERS.items():
            plan = adp.Plan.from_scheduler(
                scheduler.from_config(problem.scheduler), arguments.num_inference_steps
            )
            exact = problem.gradients(plan, adp.Exact())
            for count in arguments.num_steps:
                for rule, method in RULES.items():
                    found = problem.gradients(plan, method(count))
                    for target, gradient in found.items():
                        reference = exact[target]
                        yield {
                            "scheduler": name,
                            "seed": seed,
                            "rule": rule,
                            "reverse_calls": count,
                            "target": target,
                            **compare(gradient, reference),
                        }
                print(f"{name}, seed {seed}, {count} products done", flush=True)


def plot(rows: list[dict[str, Any]], num_inference_steps: int, path: Path) -> None:
    """Draw the errors of the rules over the share of the exact sweep's products."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    targets = list(dict.fromkeys(row["target"] for row in rows))
    counts = sorted({row["reverse_calls"] for row in rows})
    figure = Figure(figsize=(11, 11), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 * len(SCHEDULERS), len(targets), sharex=True, sharey="row")
    panels = (("cosine", "1 - cosine", (1e-5, 1)), ("relative_error", "relative error", (4e-3, 3)))
    lines = [(scheduler, *panel) for scheduler in SCHEDULERS for panel in panels]
    for line, (scheduler, key, label, limits) in zip(axes, lines, strict=True):
        line[0].set_ylabel(f"{label}\n({scheduler})")
        for ax, target in zip(line, targets, strict=True):
            chosen = [r for r in rows if r["scheduler"] == scheduler and r["target"] == target]
            for i, rule in enumerate(DRAWN):
                means = [
                    statistics.mean(
                        1 - row[key] if key == "cosine" else row[key]
                        for row in chosen
                        if row["rule"] == rule and row["reverse_calls"] == count
                    )
                    for count in counts
                ]
                style = "s--" if "adjoint ODE" in rule else "o-"
                ax.plot(counts, means, style, color=f"C{i}", markersize=4, label=rule)
            if key == "cosine":
                ax.axhline(0.01, color="grey", linewidth=0.8, linestyle=":")
            ax.set_yscale("log")
            ax.set_ylim(*limits)
            ax.set_xticks(counts)
            ax.grid(alpha=0.3)
    for ax, target in zip(axes[0], targets, strict=True):
        ax.set_title(target)
    for ax in axes[-1]:
        ax.set_xlabel(f"reverse calls, of {num_inference_steps}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=100)


def main(arguments: list[str] | None = None) -> None:
    """Measure, write coarse.json and draw coarse.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--num_inference_steps", type=int, default=50)
    parser.add_argument("--num_steps", type=int, nargs="+", default=[5, 8, 12, 17, 25, 50])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = list(measure(toy if options.toy else embedded, options))
    settings = {
        "model": "Gaussian mixture" if options.toy else "embedded model, guidance 4",
        "num_inference_steps": options.num_inference_steps,
    }
    write_stamped(options.output_dir / "coarse.json", settings, rows=rows)
    plot(rows, options.num_inference_steps, options.output_dir / "coarse.png")


if __name__ == "__main__":
    main()
