"""The jobs one after another, each in a folder of its own with its own report."""

from __future__ import annotations

import shlex
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any

from ..formats import NO_PEFT
from ..jobs.audit import audit_page, run_audit, write_audit_report
from ..jobs.embed import embed_page, run_embed, write_embed_report
from ..jobs.guide import guide_page, run_guide, write_guide_report
from ..jobs.stylize import run_stylize, stylize_page, write_stylize_report
from ..report import Fact, RunPage
from ..runs import FolderConfig, RunResult, choose_device, run_folder, usage_since
from ..setup import require_goal
from .config import TourConfig


@dataclass(frozen=True)
class Stop:
    """A job of the tour.

    Args:
        name: of the job and its folder.
        lesson: what it shows, in a sentence.
        command: what runs it alone.
        page: what its own report shows.
        headline: the number of it to be read first.
        seconds: how long it took.
    """

    name: str
    lesson: str
    command: str
    page: RunPage
    headline: Fact
    seconds: float


@dataclass(frozen=True)
class Tour(RunResult):
    """What the tour found.

    Args:
        config: the settings.
        stops: the jobs, in order.
    """

    config: TourConfig
    stops: list[Stop]


def run_tour(config: TourConfig, visited: Callable[[Stop], None] | None = None) -> Tour:
    """Run the jobs; each writes its files and its report into its folder.

    Args:
        config: settings.
        visited: is told of each job when it is done.

    Raises:
        ValueError: there is no such device, or the classifiers do not know a target.
        OSError: the folder cannot be used; see `run_folder`.
    """
    started = time.perf_counter()
    device = choose_device(config.device)
    for goal in (config.guide(), config.embed()):
        require_goal(goal, None)
    stops = []
    with run_folder(config.output_dir, "demo", overwrite=config.overwrite_output_dir):
        for stop in _visit(config):
            stops.append(stop)
            if visited is not None:
                visited(stop)
    return Tour(
        config,
        stops,
        **usage_since(started, device),
    )


def _visit(config: TourConfig) -> Iterator[Stop]:
    yield _stop(
        "guide",
        "The noise of each picture is turned until a classifier sees what it is to see; words and "
        "weights stay as they are.",
        config.guide(),
        run_guide,
        guide_page,
        write_guide_report,
        headline=-2,
    )
    yield _stop(
        "embed",
        "The embedding of “thing” is optimised until it means something that the model can draw "
        "and has no word for. The pictures come from noises that no update has seen.",
        config.embed(),
        run_embed,
        embed_page,
        write_embed_report,
    )
    if find_spec("peft") is None:
        warnings.warn(f"the tour leaves stylize out: {NO_PEFT}", stacklevel=3)
    else:
        yield _stop(
            "stylize",
            "A LoRA adapter is optimised until pictures have the style of one picture, on prompts "
            "that no update has seen.",
            config.stylize(),
            run_stylize,
            stylize_page,
            write_stylize_report,
        )
    yield _stop(
        "audit",
        "Each noise moves inside a small box until a classifier calls the picture by another name. "
        "What the judge still calls by its own is a fault of that classifier.",
        config.audit(),
        run_audit,
        audit_page,
        write_audit_report,
        headline=-2,
    )


def _stop(
    name: str,
    lesson: str,
    config: FolderConfig,
    run: Callable[[Any], Any],
    page: Callable[[Any, str], RunPage],
    write: Callable[[Any, str], object],
    headline: int = 0,
) -> Stop:
    started = time.perf_counter()
    result, command = run(config), _command(name, config)
    write(result, command)
    shown = page(result, command)
    seconds = time.perf_counter() - started
    return Stop(name, lesson, command, shown, shown.facts[headline:][0], seconds)


def _command(name: str, config: FolderConfig) -> str:
    """Return what is typed for these settings."""
    typed = ["adjointdpm", name]
    for field in fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            typed += [f"--{field.name}", str(value).lower() if value is False else str(value)]
    return shlex.join(typed)
