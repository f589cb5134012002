"""The subcommands: each the settings of a job and the function that runs it.

Nothing is imported before it is needed: the settings alone for the help, torch only for a run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..jobs.certify import CertifyConfig
    from ..jobs.demo import DemoConfig
    from ..jobs.embed import EmbedConfig
    from ..jobs.guide import GuideConfig
    from ..jobs.stylize import StylizeConfig


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Args:
        help: one line, without a full stop.
        config: imports the dataclass of its settings.
        run: runs it, from the settings and the command line as it was typed; returns the exit
            status.
    """

    help: str
    config: Callable[[], type]
    run: Callable[[Any, str], int]


def _settings(job: str, name: str) -> type:
    """Import the settings of a job, and nothing else of it."""
    config: type = getattr(import_module(f"..jobs.{job}", __package__), name)
    return config


def _run_demo(config: DemoConfig, command_line: str) -> int:
    from ..jobs.demo import run_demo, write_demo_report

    print(
        f"Optimising noise and text embedding through {config.num_inference_steps} sampling steps "
        f"of the embedded model, {config.max_train_steps} updates each.",
        flush=True,
    )
    result = run_demo(config)
    page = write_demo_report(result, command_line)
    for part in (result.noise, result.embedding):
        recognised = sum(strip.after.recognised for strip in part.strips)
        print(
            f"{part.name}: loss {part.history.losses[0]:.2f} -> {part.history.losses[-1]:.2f}; "
            f"the judge recognises {recognised} of {len(part.strips)} pictures "
            f"(before: {sum(strip.before.recognised for strip in part.strips)})"
        )
    print(
        f"gradient against central differences: relative error {result.gradient_error:.0e}\n"
        f"{result.seconds:.0f} s, at most {result.peak_memory / 2**30:.2f} GiB of memory\n"
        f"Open {page}"
    )
    return 0


def _run_embed(config: EmbedConfig, command_line: str) -> int:
    from ..jobs.embed import run_embed, write_embed_report
    from ..runs import is_main_process

    result = run_embed(config)
    if not is_main_process():
        return 0
    page = write_embed_report(result, command_line)
    if (after := result.recognised("after")) is not None:
        print(f"the judge sees it in {after}\nbefore: {result.recognised('before')}")
    print(f"loss {result.history.losses[0]:.3g} -> {result.history.losses[-1]:.3g}")
    print(f"{result.seconds:.0f} s\nThe word is {result.file}\nOpen {page}")
    return 0


def _run_certify(config: CertifyConfig, command_line: str) -> int:
    from ..jobs.certify import run_certify
    from ..storage import write_text

    certificate = run_certify(config, progress=_tell)
    print(certificate)
    if config.json is not None:
        write_text(config.json, certificate.to_json() + "\n")
    return 0 if certificate.passed else 1


def _run_guide(config: GuideConfig, command_line: str) -> int:
    from ..jobs.guide import run_guide, write_guide_report

    result = run_guide(config)
    page = write_guide_report(result, command_line)
    before, after = result.before.recognised, result.after.recognised
    if before is not None and after is not None:
        print(
            f"the judge recognises {after.successes} of {after.trials} pictures (before: "
            f"{before.successes})"
        )
    print(f"Open {page}")
    return 0


def _run_stylize(config: StylizeConfig, command_line: str) -> int:
    from ..jobs.stylize import run_stylize, write_stylize_report
    from ..runs import is_main_process

    result = run_stylize(config)
    if not is_main_process():
        return 0
    page = write_stylize_report(result, command_line)
    print(
        f"style, on prompts that no update has seen: {result.style_before:.3f} -> "
        f"{result.style_after:.3f}"
    )
    if (kept := result.still_recognised) is not None:
        print(f"the judge still recognises {kept} of what it recognised before")
    print(
        f"{result.seconds:.0f} s, at most {result.peak_memory / 2**30:.2f} GiB of memory\n"
        f"Weights: {result.file}\n"
        f"Open {page}"
    )
    return 0


def _tell(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


COMMANDS = {
    "demo": Command(
        "optimise noise and text embedding through the embedded model, and write a report",
        partial(_settings, "demo", "DemoConfig"),
        _run_demo,
    ),
    "embed": Command(
        "teach a model a new word from a metric of its pictures",
        partial(_settings, "embed", "EmbedConfig"),
        _run_embed,
    ),
    "stylize": Command(
        "give a model the style of one picture, as a LoRA adapter, and write a report",
        partial(_settings, "stylize", "StylizeConfig"),
        _run_stylize,
    ),
    "guide": Command(
        "lead single samples to a goal, by their noise or step by step, with nothing trained",
        partial(_settings, "guide", "GuideConfig"),
        _run_guide,
    ),
    "certify": Command(
        "measure how good a gradient is, against plain autograd and measured derivatives",
        partial(_settings, "certify", "CertifyConfig"),
        _run_certify,
    ),
}
