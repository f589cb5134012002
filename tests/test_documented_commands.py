"""Commands in README, docs, scripts and Makefile exist, and their parsers accept the arguments."""

from __future__ import annotations

import argparse
import ast
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from test_documents import ALL, FENCE

from adjointdpm.cli.arguments import parse
from adjointdpm.cli.commands import COMMANDS
from benchmarks.documented import ROOT

PROGRAMS = ("adjointdpm", "make", "pip", "python", "srun", "torchrun")
LINE = re.compile(rf"^(?:    )?({'|'.join(PROGRAMS)}) .*", re.MULTILINE)
INLINE = re.compile(rf"`((?:{'|'.join(PROGRAMS)}) [^`]*)`")


def _commands() -> list[str]:
    """Return the lines in shell blocks, in indented blocks and within sentences, each once."""
    found: set[str] = set()
    scripts = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "training").glob("*.py")]
    docstrings = [ast.get_docstring(ast.parse(script.read_text())) or "" for script in scripts]
    for text in [*(page.read_text() for page in ALL), *docstrings]:
        text = text.replace("\\\n", " ")
        for _, language, block in FENCE.findall(text):
            if language in ("", "bash", "sh"):
                found |= {line[0] for line in LINE.finditer(block)}
        rest = FENCE.sub("", text)
        found |= {line[0].strip() for line in LINE.finditer(rest) if line[0].startswith(" ")}
        found |= set(INLINE.findall(rest))
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ").replace("\t$(BIN)/", "")
    found |= {line[0] for line in LINE.finditer(makefile) if " -c " not in line[0]}
    for path in (".ci/run", ".github/workflows/ci.yml"):
        found |= set(re.findall(r"\bmake [\w-]+", (ROOT / path).read_text()))
    return sorted(found)


@pytest.mark.parametrize("line", _commands())
def test_commands_exist(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(re.sub(r"\$\w+", "1", line), comments=True)
    _check(words, tmp_path, monkeypatch)


def _check(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise unless a command would start."""
    program, first, *rest = words
    if program == "srun":
        _check(words[1:], folder, monkeypatch)
    elif program == "torchrun":
        from torch.distributed.run import parse_args

        behind = parse_args(words[1:])
        as_module = ["-m"] if behind.module else []
        started = ["python", *as_module, behind.training_script, *behind.training_script_args]
        _check(started, folder, monkeypatch)
    elif program == "make":
        targets = [word for word in words[1:] if "=" not in word]
        made = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert not set(targets) - set(made)
    elif program == "pip":
        extras = {name for word in rest for name in re.findall(r"\[([\w,-]+)\]$", word)}
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert first == "install"
        assert not extras - set(project["optional-dependencies"])
    elif program == "python":
        module, *arguments = rest if first == "-m" else words[1:]
        if module == "adjointdpm":
            _check([module, *arguments], folder, monkeypatch)
        else:
            _check_script(module, arguments, monkeypatch)
    elif rest:
        monkeypatch.chdir(folder)
        for picture in (word for word in rest if word.endswith(".png")):
            Path(picture).touch()
        parse(f"adjointdpm {first}", "", COMMANDS[first].config(), rest)
    else:
        assert first in COMMANDS or first in ("--help", "--version")


class AcceptedError(Exception):
    """A parser took its arguments, and the program is to go no further."""


def _check_script(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a script of ours, up to where its own parser has taken its arguments."""
    path = ROOT / (module if module.endswith(".py") else module.replace(".", "/") + ".py")
    if "ArgumentParser(" not in path.read_text():
        assert not arguments
        return
    parse_args = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, args: Any = None, *rest: Any) -> None:
        parse_args(parser, args, *rest)
        raise AcceptedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    with pytest.raises(AcceptedError):
        runpy.run_path(str(path), run_name="__main__")
