"""Audits of the embedded classifier: how it fares, what batches cost, and which gradient pays.

    python benchmarks/audit.py audit batching methods training --folder audit-benchmark

- ``audit``: many items, each a prompt of its own, in a box around the noise.
- ``batching``: the same items in a batch that is refilled after every update, in fixed batches that
  shrink as items end, and in fixed batches that do not, as libraries of attacks run them. Ratios
  are of CPU time on one thread, in one run.
- ``methods``: gradient methods, each with the same CPU seconds at most for an item: those of all
  steps by the gradient that the job takes.
- ``training``: the classifier is trained on what was found where the judge still sees the true
  class, and on pictures as they are drawn; then items are audited again that it has not seen.

What is there is not measured again, so that it can be stopped and go on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from equal_time import cpu_seconds
from stamp import stamp
from torch import Tensor
from torch.nn import functional

import adjointdpm as adp
from adjointdpm.attacks import margin
from adjointdpm.attacks.rules import Situation
from adjointdpm.executors import execute
from adjointdpm.features import quantize
from adjointdpm.jobs.audit import (
    AuditConfig,
    AuditWorker,
    Panel,
    Summary,
    audit_items,
    run_audit,
    summarize,
    write_audit_report,
)
from adjointdpm.jobs.audit.summary import is_fooled, read_picture, still_seen
from adjointdpm.objectives import RandomViews, as_objective
from adjointdpm.runs import choose_device
from adjointdpm.setup import load_model
from adjointdpm.storage import JsonLines, write_text

STEPS, MAX_STEPS, RADIUS, BATCH = 6, 10, 0.3, 8
EPOCHS = 12


def settings(folder: Path, **changes: Any) -> AuditConfig:
    return replace(
        AuditConfig(
            output_dir=folder,
            num_inference_steps=STEPS,
            max_steps=MAX_STEPS,
            radius=RADIUS,
            batch_size=BATCH,
            resume_from_checkpoint="latest",
        ),
        **changes,
    )


def audit(folder: Path, count: int, **changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Audit so many items; return the numbers and the results."""
    config = settings(folder, num_prompts=count, **changes)
    result = run_audit(config)
    write_audit_report(result, "python benchmarks/audit.py audit")
    row = {**numbers(result.summary), "gradients": gradients_of_batches(result.results)}
    return row, result.results


def gradients_of_batches(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return how many gradients batches compute that are refilled, and fixed ones.

    An item takes the same steps in any batch, so that the numbers follow from its own.
    """
    needed = [result["evaluations"] for result in results]
    needed = needed[: len(needed) // BATCH * BATCH]
    fixed = sum(BATCH * max(needed[i : i + BATCH]) for i in range(0, len(needed), BATCH))
    return {"refilled": sum(needed), "fixed": fixed, "ratio": fixed / sum(needed)}


def numbers(summary: Summary) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(summary)))


def workers(folder: Path) -> Callable[..., AuditWorker]:
    """Return what makes workers that share a model and a panel."""
    config = settings(folder)
    device = choose_device("cpu")
    model, panel = load_model(config, device), Panel.load(config, device)

    def make(gradient: adp.GradientMethod | None = None, **changes: Any) -> AuditWorker:
        model.sampler.gradient = gradient or adp.Exact(memory_budget=config.memory_budget)
        return AuditWorker(replace(config, **changes), model, panel, targeted=False)

    return make


def batching(
    make: Callable[..., AuditWorker], folder: Path, count: int, max_steps: int
) -> dict[str, Any]:
    """The same items in three kinds of batches."""
    items = audit_items(settings(folder, num_prompts=count))
    rows: dict[str, dict[str, Any]] = {}
    for name, way in (
        ("refilled", refilled),
        ("fixed, shrinking", shrinking),
        ("fixed", fixed),
    ):
        worker = make(output_dir=folder / name.replace(", ", "-"), max_steps=max_steps)
        started = time.process_time()
        fooled, evaluations = way(worker, items)
        seconds = time.process_time() - started
        rows[name] = {
            "cpu_seconds": seconds,
            "items_per_minute": 60 * len(items) / seconds,
            "fooled": fooled,
            "rows_evaluated": evaluations,
        }
        print(name, rows[name], flush=True)
    for name in ("fixed, shrinking", "fixed"):
        faster = rows[name]["cpu_seconds"] / rows["refilled"]["cpu_seconds"]
        rows["refilled"][f"times as fast as {name}"] = faster
    return {"items": count, "batch_size": BATCH, "max_steps": max_steps, "rows": rows}


def refilled(worker: AuditWorker, items: Sequence[dict[str, Any]]) -> tuple[int, int]:
    waiting, results, free = list(items), [], worker.capacity
    while len(results) < len(items):
        new, waiting = waiting[:free], waiting[free:]
        ended = worker.advance(new)
        free += len(ended) - len(new)
        results += ended
    return counts(results)


def shrinking(worker: AuditWorker, items: Sequence[dict[str, Any]]) -> tuple[int, int]:
    results: list[Any] = []
    for batch in batches(items):
        ended = worker.advance(batch)
        while len(ended) < len(batch):
            ended += worker.advance([])
        results += ended
    return counts(results)


def fixed(worker: AuditWorker, items: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Every row is computed until the last of its batch has ended."""
    attack, model, classifier = worker._batch.attack, worker.model, worker.panel.classifier
    fooled = evaluations = 0
    for batch in batches(items):
        starts = torch.cat(
            [model.noise(1, torch.Generator().manual_seed(item["seed"])) for item in batch]
        )
        labels = torch.tensor([classifier.index(item["label"]) for item in batch])
        cond = model.encode([item["prompt"] for item in batch])
        points, memory = starts, attack.steps.begin(starts)
        right = ended = torch.zeros(len(batch), dtype=torch.bool)
        for step in range(worker.config.max_steps + 1):
            leaf = points.detach().requires_grad_()
            logits = classifier(quantize(model.decode(model.sampler(leaf, **cond))))
            values = margin(logits, labels)
            (gradients,) = torch.autograd.grad(values.sum(), leaf)
            evaluations += len(batch)
            right = values.detach() < 0 if step == 0 else right
            ended = ended | (values.detach() > 0)
            if ended.all():
                break
            with torch.no_grad():
                at = Situation(points, starts, gradients, values, torch.full((len(batch),), step))
                points, memory = attack.steps.step(at, memory, attack.threat)
        fooled += int((ended & right).sum())
    return fooled, evaluations


def batches(items: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for i in range(0, len(items), BATCH):
        yield list(items[i : i + BATCH])


def counts(results: Sequence[Any]) -> tuple[int, int]:
    return sum(r["status"] == "fooled" for r in results), sum(r["evaluations"] for r in results)


THE_JOBS = "Exact(memory_budget='1GiB')"
GRADIENTS: dict[str, adp.GradientMethod] = {
    THE_JOBS: adp.Exact(memory_budget="1GiB"),
    "Exact()": adp.Exact(),
    "CoarseAdjoint(3)": adp.CoarseAdjoint(3),
    "Truncated(2, 'detach_outputs')": adp.Truncated(2, "detach_outputs"),
    "ContinuousAdjoint()": adp.ContinuousAdjoint(),
    "ContinuousAdjoint, as in the paper": adp.ContinuousAdjoint(
        trajectory="resolved", form="noise"
    ),
}
"""Plain `Truncated(2)` is not among them: it sends no gradient to the noise at all."""


def methods(
    make: Callable[..., AuditWorker], folder: Path, count: int, part: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Each gradient with as many updates as take the CPU seconds of those of the job's own."""
    items = audit_items(settings(folder, num_prompts=count))
    part = part or {"items": count, "cpu_seconds_of_one": seconds_of_one(make, folder, items)}
    rows, prices = part.setdefault("rows", {}), part["cpu_seconds_of_one"]
    for number, (name, gradient) in enumerate(GRADIENTS.items()):
        if name in rows:
            continue
        evaluations = (MAX_STEPS + 1) * prices[THE_JOBS] / prices[name]
        steps = max(1, round(evaluations) - 1)
        place = folder / f"method-{number}"
        rmtree(place, ignore_errors=True)  # of a run that was stopped: its seconds are lost
        worker = make(gradient, output_dir=place, max_steps=steps)
        started = time.process_time()
        with JsonLines(place / "results.jsonl") as record:
            execute(items, lambda worker=worker: worker, record)
            results = list(record)
        rows[name] = {
            "max_steps": steps,
            "limit": (steps + 1) * prices[name],
            "cpu_seconds": time.process_time() - started,
            "fooled_items": [r["id"] for r in results if r["status"] == "fooled"],
            **numbers(summarize(results, place, worker.panel.network)),
        }
        fooled = {key: rows[name][key] for key in ("fooled", "fooled_and_seen")}
        print(name, steps, rows[name]["cpu_seconds"], fooled, flush=True)
        yield part


def seconds_of_one(
    make: Callable[..., AuditWorker], folder: Path, items: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Return the CPU seconds of an update of one item in a full batch, by gradient method."""
    worker = make(output_dir=folder / "timed", stop_at_success=False, max_steps=1000)
    worker.advance(items[:BATCH])

    def update(gradient: adp.GradientMethod) -> None:
        worker.sampler.gradient = gradient
        worker.advance([])

    found = cpu_seconds({name: partial(update, each) for name, each in GRADIENTS.items()}, 5)
    return {name: seconds / BATCH for name, seconds in found.items()}


def training(folder: Path, results: list[dict[str, Any]], held_out: int) -> dict[str, Any]:
    """Train on what was found on all items but the last; audit those again."""
    seen, unseen = results[:-held_out], results[-held_out:]
    found = [r for r in seen if is_fooled(r, "best") and right(r) and still_seen(r)]
    pairs = [(r, "start") for r in seen] + [(r, "best") for r in found]
    images = torch.stack([read_picture(folder / r[which]["picture"]) for r, which in pairs])
    default = adp.load_default()
    classifier = default.classifier
    labels = torch.tensor([classifier.index(r["label"]) for r, _ in pairs])
    fine_tune(classifier, images, labels)
    place = folder.parent / f"{folder.name}-after"
    config = settings(place, num_prompts=len(results), judge="judge")
    model = load_model(config, choose_device("cpu"))
    panel = Panel.load(config, choose_device("cpu"), classifier)
    with JsonLines(place / "results.jsonl") as record:
        names = {r["id"] for r in unseen}
        items = [item for item in audit_items(config) if item["id"] in names]
        execute(items, lambda: AuditWorker(config, model, panel, targeted=False), record)
        after = list(record)
    return {
        "found": len(found),
        "trained_on": len(pairs),
        "held_out_items": held_out,
        "before": numbers(summarize(unseen, folder, panel.network)),
        "after": numbers(summarize(after, place, panel.network)),
    }


def right(result: dict[str, Any]) -> bool:
    return result["start"]["answer"] == result["label"]


def fine_tune(classifier: torch.nn.Module, images: Tensor, labels: Tensor) -> None:
    """Train all weights on random views of pictures, with statistics of batches as they were."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    views = RandomViews(as_objective(lambda x: x.mean((1, 2, 3)), larger_is_better=True), 1)
    classifier.requires_grad_(True)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-4, weight_decay=0.01)
    for epoch in range(EPOCHS):
        losses = []
        for batch in torch.randperm(len(images), generator=generator).split(64):
            logits = classifier(views.view(images[batch], generator))
            loss = functional.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print("epoch", epoch, sum(losses) / len(losses), flush=True)
    classifier.requires_grad_(False)


def main() -> None:
    """Measure, and write JSON as it goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=["audit", "batching", "methods", "training"])
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks/audit.json"))
    parser.add_argument("--folder", type=Path, default=Path("audit-benchmark"))
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--batching_items", type=int, default=40)
    parser.add_argument("--batching_steps", type=int, default=MAX_STEPS)
    parser.add_argument("--method_items", type=int, default=48)
    parser.add_argument("--held_out", type=int, default=100)
    parser.add_argument("--radius", type=float, default=RADIUS, help="of the part audit alone")
    args = parser.parse_args()
    for part in args.parts:
        run(part, args)


def run(part: str, args: argparse.Namespace) -> None:
    of = {"audit": f", radius {args.radius}", "batching": f", {args.batching_steps} steps"}
    name = part + of.get(part, "")
    rows = read(args).get(name)
    whole = args.folder / f"audit-{args.radius}"
    if part == "audit":
        row, _ = audit(whole, args.items, radius=args.radius)
        write(args, name, row)
    elif part == "batching" and rows is None:
        make, count = workers(args.folder), args.batching_items
        write(args, name, batching(make, args.folder, count, args.batching_steps))
    elif part == "methods":
        for done in methods(workers(args.folder), args.folder, args.method_items, rows or {}):
            write(args, name, done)
    elif part == "training":
        _, results = audit(whole, args.items, radius=args.radius)
        write(args, name, training(whole, results, args.held_out))


def read(args: argparse.Namespace) -> dict[str, Any]:
    return json.loads(args.output.read_text())["parts"] if args.output.is_file() else {}


def write(args: argparse.Namespace, name: str, row: dict[str, Any]) -> None:
    content = {
        "steps": STEPS,
        "max_steps": MAX_STEPS,
        "radius": RADIUS,
        "batch_size": BATCH,
        "parts": {**read(args), name: {**row, **stamp()}},
    }
    write_text(args.output, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
