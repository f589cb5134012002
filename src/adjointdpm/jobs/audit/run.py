"""An audit from its settings to its results."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ...certificate import Certificate
from ...cost import Cost
from ...executors import Result, Worker, WorkerFactory, execute, require_ray, shard
from ...gradients import GradientMethod
from ...objectives import ClassifierMargin, ImageClassifier
from ...runs import RunResult, choose_device, run_folder, usage_since
from ...setup import Model, certify_gradient, drawing_code
from ...storage import JsonLines
from .config import AuditConfig
from .items import audit_items
from .panel import Panel
from .summary import Summary, summarize
from .worker import load_worker, settings_of

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class AuditResult(RunResult):
    """What came of an audit.

    Args:
        config: the settings.
        results: one an item, in the order of the items; also in ``results.jsonl``.
        summary: the rates, distances and costs.
        predicted: the cost of one gradient through the sampler for a whole batch, before the run.
        certificate: how right the gradient is, where it was measured.
        judged: whether a judge looked on.
        drawing: code that draws the picture of a saved noise.
    """

    config: AuditConfig
    results: list[dict[str, Any]]
    summary: Summary
    predicted: Cost
    certificate: Certificate | None
    judged: bool
    drawing: str


def run_audit(
    config: AuditConfig,
    classifier: ImageClassifier | None = None,
    *,
    gradient: GradientMethod | None = None,
) -> AuditResult:
    """Audit a classifier; write pictures, noises and ``results.jsonl`` into the folder.

    Args:
        config: settings.
        classifier: what is audited, in place of the one that the settings name.
        gradient: the gradient method; `Exact` within the memory budget by default.

    Raises:
        ValueError: settings or files that do not fit together; a classifier that does not know a
            label; a classifier or gradient that was passed, with actors of Ray.
        OSError: the folder cannot be used; see `run_folder`.
        ImportError: Ray is asked for, and not installed.
    """
    started = time.perf_counter()
    if config.executor == "ray":
        require_ray()
        if not (classifier is None and gradient is None):
            raise ValueError(
                "with executor ray, classifier and gradient are built elsewhere: name the "
                "classifier in the settings, and leave gradient out"
            )
    every = audit_items(config)
    items = [dict(item) for item in shard(every, config.num_shards, config.shard_index)]
    if not items:
        raise ValueError(
            f"shard {config.shard_index} of {config.num_shards} has no items: there are "
            f"{len(every)} in all"
        )
    device = choose_device(config.device)
    with run_folder(config.output_dir, "audit", config=config) as folder:
        worker = load_worker(config, every, classifier, gradient)
        model, panel = worker.model, worker.panel
        certificate = _certificate(config, model, panel, items[0])
        predicted = _predicted(config, model, items)
        make: Callable[[], Worker] = worker.again
        if config.executor == "ray":
            settings = {"settings": settings_of(config)}
            make = WorkerFactory("adjointdpm.jobs.audit:build_worker", settings)
        _work(config, folder, items, make)
        with JsonLines(folder / RESULTS) as record:
            by_name = {result["id"]: result for result in record}
        results = [by_name[item["id"]] for item in items]
        summary = summarize(results, folder, panel.network)
    return AuditResult(
        config=config,
        results=results,
        summary=summary,
        predicted=predicted,
        certificate=certificate,
        judged=panel.judge is not None,
        drawing=drawing_code(model, config.negative_prompt),
        **usage_since(started, device),
    )


def _work(
    config: AuditConfig,
    folder: Path,
    items: list[dict[str, Any]],
    make: Callable[[], Worker],
) -> None:
    """Work on the items that have no result yet."""
    fooled = 0
    with (
        JsonLines(folder / RESULTS) as record,
        tqdm(
            total=len(items),
            initial=len(record),
            desc=config.description,
            disable=not config.progress_bar,
            unit="picture",
        ) as bar,
    ):

        def told(result: Result) -> None:
            nonlocal fooled
            fooled += result.get("status") == "fooled"
            bar.set_postfix(fooled=fooled, refresh=False)
            bar.update()

        execute(
            items,
            make,
            record,
            executor=config.executor,
            num_workers=config.num_workers,
            on_result=told,
        )


def _predicted(config: AuditConfig, model: Model, items: list[dict[str, Any]]) -> Cost:
    """Return what one update of a whole batch will take, of the sampler."""
    count = min(config.batch_size, len(items))
    noise = model.noise(count, torch.Generator().manual_seed(config.seed))
    cond = model.encode([item["prompt"] for item in items[:count]], config.negative_prompt)
    return model.sampler.cost(noise.requires_grad_(), **cond)


def _certificate(
    config: AuditConfig, model: Model, panel: Panel, item: dict[str, Any]
) -> Certificate | None:
    """Return how right the gradient for the first item is, where the settings ask for it."""
    if not config.certifies:
        return None
    noise = model.noise(1, torch.Generator().manual_seed(item["seed"]))
    metric = ClassifierMargin(panel.classifier, item["label"])
    cond = model.encode([item["prompt"]], config.negative_prompt)
    return certify_gradient(model.sampler, model.decode, metric, noise, config.seed, **cond)
