"""Commands as a user runs them, in this process."""

import contextlib
import io
import logging
import os
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from eval.cli.vmem import main

Run = Callable[..., str]


def app_of(*commands: Callable[..., Any]) -> typer.Typer:
    """Return some commands as a program; a single one goes by no name."""
    app = typer.Typer()
    for command in commands:
        app.command()(command)
    return app


def runner(*commands: Callable[..., Any]) -> Run:
    """Return what runs one of some commands by its name and returns what it prints."""
    app = app_of(*commands)

    def invoke(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    return invoke


def vmem(
    *arguments: object, cwd: Path | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the whole command line in this process, with variables of the environment; return it as a process done."""
    words, out, err = list(map(str, arguments)), io.StringIO(), io.StringIO()
    code = 0
    with (
        contextlib.chdir(cwd or Path.cwd()),
        _environment(variables or {}),
        _as_it_was(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main(words)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Take back what the command line sets for its process: how warnings and steps are shown."""
    rooms = [logging.getLogger(room) for room in ("retrieval", "prompts", "agent", "eval")]
    states = [(room, list(room.handlers), room.level) for room in rooms]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        try:
            yield
        finally:
            for room, handlers, level in states:
                room.handlers[:] = handlers
                room.setLevel(level)
