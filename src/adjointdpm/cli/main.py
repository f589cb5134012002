"""The one command, ``adjointdpm``: a subcommand for each task.

A subcommand is a `Command`: its arguments, and a function that runs it. Errors that a person can do
something about are printed in one line; set ``ADJOINTDPM_TRACEBACK=1`` to see where they came from.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ..version import __version__

TRACEBACK_VARIABLE = "ADJOINTDPM_TRACEBACK"
FRIENDLY = (ValueError, OSError, FloatingPointError, torch.OutOfMemoryError)


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Args:
        name: as it is typed.
        help: one line.
        add_arguments: declares its arguments.
        run: runs it; returns the exit status.
    """

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    from ..jobs.demo import DemoConfig

    defaults: dict[str, Any] = {field.name: field.default for field in fields(DemoConfig)}

    def add(name: str, kind: Callable[[str], object], metavar: str, text: str) -> None:
        parser.add_argument(
            f"--{name}",
            type=kind,
            metavar=metavar,
            default=defaults[name],
            help=f"{text} (default: %(default)s)",
        )

    add("output_dir", Path, "DIR", "the folder to write")
    add("seed", int, "N", "of everything that is drawn at random")
    add("noise_prompt", str, "NAME", "what is drawn while the noise is optimised")
    add("noise_target", str, "NAME", "the class that it becomes")
    add("embedding_prompt", str, "NAME", "the words whose embedding is optimised")
    add("embedding_target", str, "NAME", "the class that the embedding comes to mean")
    add("max_train_steps", int, "N", "updates in each of the two parts")
    add("num_inference_steps", int, "N", "sampling steps, all of them differentiated")
    add("guidance_scale", float, "X", "weight of classifier-free guidance")
    add("memory_budget", str, "BYTES", "what may be spent on keeping graphs, such as 1GiB")
    parser.add_argument(
        "--device", metavar="NAME", help="cpu or cuda (default: a GPU if there is one)"
    )


def _run_demo(arguments: argparse.Namespace) -> int:
    from ..jobs.demo import DemoConfig, run_demo, write_demo_report

    _quieten_libraries()
    names = {field.name for field in fields(DemoConfig)}
    config = DemoConfig(**{k: v for k, v in vars(arguments).items() if k in names})
    print(
        f"Optimising noise and text embedding through {config.num_inference_steps} sampling steps "
        f"of the embedded model, {config.max_train_steps} updates each.",
        flush=True,
    )
    result = run_demo(config)
    page = write_demo_report(result, shlex.join(["adjointdpm", *arguments.command_line]))
    for story in (result.noise, result.embedding):
        recognised = sum(row.after.recognised for row in story.rows)
        print(
            f"{story.name}: loss {story.history.losses[0]:.2f} -> {story.history.losses[-1]:.2f}; "
            f"the judge recognises {recognised} of {len(story.rows)} pictures "
            f"(before: {sum(row.before.recognised for row in story.rows)})"
        )
    print(
        f"gradient against central differences: relative error {result.gradient_error:.0e}\n"
        f"{result.seconds:.0f} s, at most {result.peak_memory / 2**30:.2f} GiB of memory\n"
        f"Open {page}"
    )
    return 0


def _add_certify_arguments(parser: argparse.ArgumentParser) -> None:
    from ..jobs.certify import METHODS, CertifyConfig

    defaults = {field.name: field.default for field in fields(CertifyConfig)}
    for name, kind, text in (
        ("num_inference_steps", int, "sampling steps"),
        ("guidance_scale", float, "weight of classifier-free guidance"),
        ("prompt", str, "what the model is asked for"),
        ("target", str, "label that the embedded classifier is to see"),
        ("num_directions", int, "random directions in which the derivative is measured"),
        ("seed", int, "of the noise and the directions"),
    ):
        parser.add_argument(
            f"--{name}", type=kind, default=defaults[name], help=f"{text} (default: %(default)s)"
        )
    parser.add_argument("--method", choices=METHODS, default="exact", help="the gradient method")
    parser.add_argument("--num_steps", type=int, help="reverse steps of the approximate methods")
    parser.add_argument(
        "--derivatives",
        choices=("central", "forward"),
        default=defaults["derivatives"],
        help="how they are measured: differences or forward mode (default: %(default)s)",
    )
    parser.add_argument(
        "--by_step", action="store_true", help="show where along the trajectory an error arises"
    )
    parser.add_argument(
        "--pipeline",
        help="folder of a diffusers pipeline, or id on the hub (default: the embedded)",
    )
    parser.add_argument("--device", help="cpu or cuda (default: a GPU if there is one)")
    parser.add_argument("--json", type=Path, help="a file to write the certificate to")


def _run_certify(arguments: argparse.Namespace) -> int:
    from ..jobs.certify import CertifyConfig, run_certify

    _quieten_libraries()
    names = {field.name for field in fields(CertifyConfig)}
    certificate = run_certify(
        CertifyConfig(**{k: v for k, v in vars(arguments).items() if k in names})
    )
    print(certificate)
    if arguments.json is not None:
        arguments.json.write_text(certificate.to_json() + "\n")
    return 0


COMMANDS = (
    Command(
        "demo",
        "optimise noise and text embedding through the embedded model, and write a report",
        _add_demo_arguments,
        _run_demo,
    ),
    Command(
        "certify",
        "measure how good a gradient is, against the exact one and central differences",
        _add_certify_arguments,
        _run_certify,
    ),
)


def _quieten_libraries() -> None:
    """Keep the libraries' notes on loading away from our progress bars."""
    import diffusers
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning)
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="adjointdpm", description="Gradients through diffusion sampling."
    )
    parser.add_argument("--version", action="version", version=f"adjointdpm {__version__}")
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    Args:
        arguments: what follows the name of the command; by default those of the process.
    """
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    parsed = parser.parse_args(command_line)
    if parsed.command is None:
        parser.print_help()
        return 2
    parsed.command_line = command_line
    try:
        return parsed.run(parsed)
    except KeyboardInterrupt:
        print("\nadjointdpm: stopped", file=sys.stderr)
        return 130
    except FRIENDLY as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        print(f"adjointdpm: error: {error}", file=sys.stderr)
        return 1
