"""A job's settings as arguments: its dataclass says their names, types, defaults and help."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

UNKNOWN = re.compile(r"(?:unrecognized arguments: --|Option ')(?P<name>[\w.-]+)")
"""How jsonargparse speaks of a name that it does not know, typed or in a file."""
WORDS = {False: ("no", "off"), True: ("yes", "on")}
"""What YAML takes for a number of truth, and is a word where a setting has it among its choices."""


class SettingsParser(ArgumentParser):
    """A parser whose errors take one line and name what may have been meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, and leave."""
        hint = f"see {self.prog} --help"
        if unknown := UNKNOWN.search(message):
            known = [name.lstrip("-") for name in self._option_string_actions]
            if similar := get_close_matches(unknown["name"], known, n=3):
                hint = f"did you mean {', '.join(similar)}?"
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}; {hint}\n")


def build_parser(prog: str, description: str, config: type) -> SettingsParser:
    """Return the parser of a job.

    Args:
        prog: what is typed before the arguments.
        description: a sentence on the job.
        config: a dataclass; its docstring, in Google's style, is the help.
    """
    parser = SettingsParser(prog=prog, description=description, allow_abbrev=False)
    parser.add_argument(
        "--config",
        action="config",
        metavar="FILE.yaml",
        help="a file of settings; arguments that follow it win",
    )
    parser.add_class_arguments(config)
    switches = {field.name for field in fields(config) if isinstance(field.default, bool)}
    for action in parser._actions:
        if action.dest in switches:  # --by_step alone means --by_step true
            action.nargs, action.const = "?", True
    return parser


def parse(prog: str, description: str, config: type, arguments: Sequence[str]) -> Any:
    """Return a job's settings from what was typed, and from a file that this names.

    Args:
        prog: what was typed before the arguments.
        description: a sentence on the job.
        config: the dataclass of the settings.
        arguments: what was typed.

    Raises:
        ValueError: the settings contradict each other; those of a wrong type or name end the
            process, as is usual on a command line.
    """
    parsed = build_parser(prog, description, config).parse_args(list(arguments))
    types = get_type_hints(config)
    return config(
        **{field.name: _word(parsed[field.name], types[field.name]) for field in fields(config)}
    )


def _word(value: Any, type_: Any) -> Any:
    """Return the word that stands for a value where YAML took it for true or false."""
    if isinstance(value, bool) and get_origin(type_) is Literal:
        return next((word for word in WORDS[value] if word in get_args(type_)), value)
    return value
