"""The entry point: a subcommand for each job.

Errors that a person can do something about are printed in one line; set ``ADJOINTDPM_TRACEBACK=1``
to see where they came from.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from ..version import __version__
from .commands import COMMANDS

PROG = "adjointdpm"
TRACEBACK_VARIABLE = "ADJOINTDPM_TRACEBACK"
FRIENDLY = (ValueError, OSError, FloatingPointError, ImportError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    Args:
        arguments: what follows the name of the command; by default those of the process.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    name, settings = parser.parse_known_args(typed)
    if name.command is None:
        parser.parse_args(typed)  # ends in an error if anything else was typed
        parser.print_help()
        return 2
    try:
        return _run(name.command, settings, shlex.join([PROG, *typed]))
    except KeyboardInterrupt as stop:
        print(f"\n{PROG}: {str(stop) or 'stopped'}", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE) or not _is_friendly(error):
            raise
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the first word; what follows it is the job's own."""
    parser = argparse.ArgumentParser(
        prog=PROG, description="Gradients through diffusion sampling.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparsers.add_parser(name, help=command.help, add_help=False, allow_abbrev=False)
    return parser


def _run(name: str, settings: Sequence[str], command_line: str) -> int:
    from .arguments import parse  # slower than all else that --version takes

    command = COMMANDS[name]
    description = f"{command.help[0].upper()}{command.help[1:]}."
    config = parse(f"{PROG} {name}", description, command.config(), settings)
    from ..pipelines import quieten_libraries  # imports torch: not for the help

    quieten_libraries()
    return command.run(config, command_line)


def _is_friendly(error: Exception) -> bool:
    """Return whether the message alone tells a person what to do."""
    torch = sys.modules.get("torch")  # not imported for this
    return isinstance(error, FRIENDLY) or (
        torch is not None and isinstance(error, torch.OutOfMemoryError)
    )
