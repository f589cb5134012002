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
    from ..executors import MergeConfig
    from ..jobs.audit import AuditConfig
    from ..jobs.certify import CertifyConfig
    from ..jobs.embed import EmbedConfig
    from ..jobs.fid import FidConfig
    from ..jobs.guide import GuideConfig
    from ..jobs.stylize import StylizeConfig
    from ..tour import Stop, TourConfig


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


def _settings(room: str, name: str) -> type:
    """Import the settings of a job, and nothing else of it."""
    config: type = getattr(import_module(f"..{room}", __package__), name)
    return config


def _run_demo(config: TourConfig, command_line: str) -> int:
    from ..tour import run_tour, write_tour_page

    tour = run_tour(config, visited=_tell_stop)
    page = write_tour_page(tour, command_line)
    print(
        f"{tour.seconds:.0f} s, at most {tour.peak_memory / 2**30:.2f} GiB of memory\nOpen {page}"
    )
    return 0


def _tell_stop(stop: Stop) -> None:
    for fact in stop.page.facts:
        print(f"{stop.name}: {fact.value} ({fact.meaning})", flush=True)


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


def _run_audit(config: AuditConfig, command_line: str) -> int:
    from ..jobs.audit import run_audit, write_audit_report

    result = run_audit(config)
    page = write_audit_report(result, command_line)
    summary = result.summary
    if summary.failed:
        print(
            f"{summary.failed} of {summary.items} pictures have no result; results.jsonl says why"
        )
    if summary.accuracy is not None:
        print(f"the classifier is right about {summary.accuracy} of the pictures as they are drawn")
    if summary.fooled is not None:
        print(f"of those it is fooled in {summary.fooled}")
    if result.judged and summary.fooled_and_seen is not None:
        print(f"and while the judge still sees the true class in {summary.fooled_and_seen}")
    print(f"{result.seconds:.0f} s\nOpen {page}")
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


def _run_fid(config: FidConfig, command_line: str) -> int:
    from ..jobs.fid import run_fid, write_fid_report

    result = run_fid(config)
    page = write_fid_report(result, command_line)
    print(f"{result.distance}\n{result.seconds:.0f} s\nOpen {page}")
    return 0


def _run_merge(config: MergeConfig, command_line: str) -> int:
    from ..executors import merge_folders

    count = merge_folders(config.folders, config.output_dir)
    print(f"{count} results of {len(config.folders)} shards are in {config.output_dir}")
    return 0


def _tell(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


COMMANDS = {
    "demo": Command(
        "take a short tour of the jobs on the embedded model, and write a page",
        partial(_settings, "tour", "TourConfig"),
        _run_demo,
    ),
    "embed": Command(
        "teach a model a new word from a metric of its pictures",
        partial(_settings, "jobs.embed", "EmbedConfig"),
        _run_embed,
    ),
    "stylize": Command(
        "give a model the style of one picture, as a LoRA adapter, and write a report",
        partial(_settings, "jobs.stylize", "StylizeConfig"),
        _run_stylize,
    ),
    "guide": Command(
        "lead single samples to a goal, by their noise or step by step, with nothing trained",
        partial(_settings, "jobs.guide", "GuideConfig"),
        _run_guide,
    ),
    "fid": Command(
        "measure FID and KID of what a pipeline draws, or of a folder, against a reference",
        partial(_settings, "jobs.fid", "FidConfig"),
        _run_fid,
    ),
    "audit": Command(
        "measure how easily a classifier is fooled by pictures that a diffusion model draws",
        partial(_settings, "jobs.audit", "AuditConfig"),
        _run_audit,
    ),
    "merge": Command(
        "put the folders of the shards of an audit into one",
        partial(_settings, "executors", "MergeConfig"),
        _run_merge,
    ),
    "certify": Command(
        "measure how good a gradient is, against plain autograd and measured derivatives",
        partial(_settings, "jobs.certify", "CertifyConfig"),
        _run_certify,
    ),
}
