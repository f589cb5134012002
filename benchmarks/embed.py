"""Teaching the twelve wordless concepts from a classifier: which gradient teaches fastest?

    python -m benchmarks.embed --output docs/benchmarks/embed.json

Each concept is a word that the embedded model lacks. It is learnt by each method in the same CPU
time, in three of the four styles and one wording, and judged in the fourth style and another
wording, on noises that no update saw, by the classifier that had no part in it. Styles are left
out in turn. Results are written as they come; what the file holds already is not done again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from adjointdpm import (
    CoarseAdjoint,
    ContinuousAdjoint,
    Exact,
    GradientMethod,
    Truncated,
    load_default,
)
from adjointdpm.assets import Default
from adjointdpm.evaluation import success_rate, wilson_interval
from adjointdpm.jobs.embed import EmbedConfig
from adjointdpm.jobs.embed.run import begin, teach
from adjointdpm.jobs.embed.start import Examples, best_candidates, invert
from adjointdpm.jobs.embed.subject import Subject, contexts_in, templates_in
from adjointdpm.pipelines import encode_image, from_pipeline
from adjointdpm.setup import Goal, load_model
from adjointdpm.storage import write_text
from benchmarks.stamp import stamp

BUDGET = 120.0
"""CPU seconds of each method for each concept, with the search for pictures to start from."""
NUM_PICTURES = 24
STEPS, GUIDANCE = 15, 2.0
"""How pictures are judged: about as the card of the embedded model says it is used."""
SEED = 2026
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Method:
    """One way to teach.

    Args:
        about: one line.
        gradient: the gradient method, for those that go through the sampler.
        changes: settings that differ from the job's defaults.
    """

    about: str
    gradient: GradientMethod | None = None
    changes: tuple[tuple[str, Any], ...] = ()


METHODS = {
    "exact": Method("the job's defaults", Exact()),
    "continuous": Method("the adjoint ODE of AdjointDPM", ContinuousAdjoint()),
    "coarse": Method("products at half of the calls", CoarseAdjoint(3)),
    "truncated": Method("the last two calls (DRaFT-2)", Truncated(2)),
    "exact, no start": Method("from the initial word", Exact(), (("num_candidates", 0),)),
    "exact, one vector": Method("in place of three", Exact(), (("num_vectors", 1),)),
    "exact, any distance": Method("from the initial word", Exact(), (("max_distance", None),)),
    "exact, no contexts": Method("templates alone", Exact(), (("contexts", []),)),
    "exact, no error": Method("of the examples beside", Exact(), (("inversion_weight", 0.0),)),
    "start only": Method("textual inversion of the model's own best pictures"),
    "textual inversion": Method("the same on five pictures that were given"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the file does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--concepts", nargs="+")
    parser.add_argument("--budget", type=float, default=BUDGET)
    parser.add_argument("--pictures", type=int, default=NUM_PICTURES)
    parser.add_argument("--set", nargs="*", default=[], help="settings of the job, as name=json")
    args = parser.parse_args(arguments)
    default = load_default()
    concepts = [concept.label for concept in default.concepts.wordless]
    rows = json.loads(args.output.read_text())["rows"] if args.output.is_file() else []
    done = {(row["method"], row["concept"]) for row in rows}
    changes = {name: json.loads(value) for name, value in (s.split("=") for s in args.set)}
    seen_before: dict[str, list[str]] = {}
    for name in args.methods:
        for concept in args.concepts or concepts:
            if (name, concept) in done:
                continue
            style = default.concepts.styles[concepts.index(concept) % 4]
            row = measure(
                default, name, concept, style, args.budget, args.pictures, changes, seen_before
            )
            rows.append(row)
            content = {**stamp(), "rows": rows}
            write_text(args.output, json.dumps(content, indent=1) + "\n")
            write_text(args.output.with_suffix(".md"), table(content))
            print(json.dumps({k: v for k, v in row.items() if k != "losses"}), flush=True)


def measure(
    default: Default,
    name: str,
    concept: str,
    style: str,
    budget: float,
    pictures: int,
    changes: dict[str, Any],
    seen_before: dict[str, list[str]],
) -> dict[str, Any]:
    """Teach one concept by one method without one style, and judge it in that style."""
    method, concepts = METHODS[name], default.concepts
    styles = [each for each in concepts.styles if each != style]
    templates = templates_in(concepts, styles)
    test = f"{{}}, {style}"
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "target": concept,
            "templates": templates,
            "contexts": contexts_in(concepts, styles),
            "validation_templates": [test],
            "output_dir": folder,
            "progress_bar": False,
        }
        config = EmbedConfig(**{**settings, **changes, **dict(method.changes)})
        subject = Subject(config, load_model(config, CPU, method.gradient))
        if test not in seen_before:  # all words begin as the same one
            seen_before[test] = seen_in(default, subject, test, pictures)
        if method.gradient is None:
            given = name == "textual inversion"
            losses, seconds = by_pictures(default, subject, concept, budget, given)
        else:
            losses, seconds = by_metric(default, subject, budget)
        seen_after = seen_in(default, subject, test, pictures)
        seen_usually = seen_in(default, subject, templates[0], pictures // 3)
    return {
        "method": name,
        "concept": concept,
        "style": style,
        "updates": len(losses),
        "cpu_seconds": round(seconds, 1),
        "before": judged(concept, seen_before[test]),
        "after": judged(concept, seen_after),
        "usual": judged(concept, seen_usually),
        "losses": [round(loss, 3) for loss in losses],
    }


def by_metric(default: Default, subject: Subject, budget: float) -> tuple[list[float], float]:
    """Follow the gradient of the classifier's margin for as many updates as the time allows."""
    goal = Goal(subject.config, default, None, CPU)
    started = time.process_time()
    examples = begin(subject, goal.objective)
    spent = time.process_time() - started

    def teach_for(count: int) -> list[float]:
        subject.config = replace(subject.config, max_train_steps=count)
        return teach(subject, goal.objective, examples).losses

    return filled(budget, spent, 3, subject, teach_for)


def by_pictures(
    default: Default, subject: Subject, concept: str, budget: float, given: bool
) -> tuple[list[float], float]:
    """Textual inversion for all of the time, and nothing through the sampler.

    Args:
        default: the embedded model.
        subject: the word.
        concept: what it is to mean.
        budget: CPU seconds.
        given: of five pictures, whose making is not counted; else of those that a run starts from.
    """
    started = time.process_time()
    if given:
        examples, spent = five_pictures(default, subject, concept), 0.0
    else:
        examples = best_candidates(subject, Goal(subject.config, default, None, CPU).objective)
        spent = time.process_time() - started

    def invert_for(count: int) -> list[float]:
        return invert(subject, examples, count)

    return filled(budget, spent, 4, subject, invert_for)


def filled(
    budget: float, spent: float, few: int, subject: Subject, updates: Callable[[int], list[float]]
) -> tuple[list[float], float]:
    """Make as many updates as are left of a budget; return their losses, and all CPU seconds.

    Args:
        budget: CPU seconds.
        spent: those that are gone.
        few: updates that are timed, and undone, to find how many fit.
        subject: the word.
        updates: makes a number of updates.
    """
    start = {name: rows.detach().clone() for name, rows in subject.tensors.items()}
    updates(1)  # what happens once
    started = time.process_time()
    updates(few)
    of_few = time.process_time() - started
    with torch.no_grad():
        for name, rows in subject.tensors.items():
            rows.copy_(start[name])
    started = time.process_time()
    losses = updates(max(1, int(few * (budget - spent) / of_few)))
    return losses, spent + time.process_time() - started


@torch.no_grad()
def five_pictures(default: Default, subject: Subject, concept: str) -> Examples:
    """Return five pictures of a concept, which the model draws in the training styles.

    Both classifiers stand for the person who picks them.
    """
    generator = torch.Generator().manual_seed(SEED + 1)
    found: list[Tensor] = []
    while len(found) < 5:
        noise = torch.randn(16, *subject.model.latent_shape, generator=generator)
        prompts = (subject.templates * 16)[:16]
        images = usual_pictures(default, subject, noise, prompts)
        readers = (default.classifier, default.judge)
        found += [
            image
            for image in images
            if all(r(image[None]).argmax() == r.index(concept) for r in readers)
        ]
    return Examples(encode_image(subject.model.pipe, torch.stack(found[:5])))


@torch.no_grad()
def seen_in(default: Default, subject: Subject, template: str, pictures: int) -> list[str]:
    """Return what the judge sees in pictures of a prompt."""
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(pictures, *subject.model.latent_shape, generator=generator)
    images = usual_pictures(default, subject, noise, [template] * pictures)
    return [default.judge.labels[i] for i in default.judge(images).argmax(-1).tolist()]


def judged(concept: str, seen: list[str]) -> dict[str, Any]:
    """Return how often a concept was seen, with a Wilson interval."""
    rate = success_rate(label == concept for label in seen)
    return {
        "successes": rate.successes,
        "trials": rate.trials,
        "interval": [round(rate.low, 3), round(rate.high, 3)],
        "seen": dict(Counter(seen).most_common(3)),
    }


@torch.no_grad()
def usual_pictures(
    default: Default, subject: Subject, noise: Tensor, templates: list[str]
) -> Tensor:
    """Return pictures as the card of the embedded model says they are drawn, in 8 bits."""
    sampler, decode = from_pipeline(default.pipeline, STEPS, GUIDANCE)
    prompts = [t.replace("{}", subject.config.placeholder_token) for t in templates]
    drawn = []
    for i in range(0, len(noise), 16):
        cond = subject.word.encode(prompts[i : i + 16], guidance=True)
        drawn.append(decode(sampler(noise[i : i + 16], **cond)))
    return torch.cat(drawn).mul(255).round().div(255)


def table(content: dict[str, Any]) -> str:
    """Return all rows as a page: concepts by methods, and each method over its concepts."""
    rows = content["rows"]
    methods = [name for name in METHODS if any(row["method"] == name for row in rows)]
    by_key = {(row["method"], row["concept"]): row for row in rows}
    concepts = list(dict.fromkeys(row["concept"] for row in rows))
    lines = [
        "# Twelve words from a classifier: seen by the judge",
        "",
        "Written by `benchmarks/embed.py`, which says what is measured. Held-out style and",
        "wording, unseen noises; Wilson intervals of 95 %.",
        "",
        f"| concept | held-out style | before | {' | '.join(methods)} |",
        "|" + "---|" * (3 + len(methods)),
    ]
    for concept in concepts:
        found = [by_key.get((name, concept)) for name in methods]
        first = next(row for row in found if row is not None)
        cells = [_cell(row["after"]) if row is not None else "" for row in found]
        start = [concept, first["style"], _cell(first["before"])]
        lines.append(f"| {' | '.join([*start, *cells])} |")
    lines += [
        "",
        "| method | | concepts | before | held-out style | worst | trained style | CPU s | steps |",
        "|" + "---|" * 9,
    ]
    for name in methods:
        own = [row for row in rows if row["method"] == name]
        worst = min(row["after"]["successes"] / row["after"]["trials"] for row in own)
        cells = [
            name,
            METHODS[name].about,
            str(len(own)),
            *(_pooled(own, when) for when in ("before", "after")),
            f"{worst:.0%}",
            _pooled(own, "usual"),
            f"{fmean(row['cpu_seconds'] for row in own):.0f}",
            f"{fmean(row['updates'] for row in own):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    share = found["successes"] / found["trials"]
    return f"{share:.0%} ({100 * low:.0f} to {100 * high:.0f})"


def _pooled(rows: Sequence[dict[str, Any]], when: str) -> str:
    """Return the share over all pictures of some rows, with an interval."""
    successes, trials = (sum(row[when][key] for row in rows) for key in ("successes", "trials"))
    low, high = wilson_interval(successes, trials)
    return _cell({"successes": successes, "trials": trials, "interval": [low, high]})


if __name__ == "__main__":
    main()
