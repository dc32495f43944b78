"""Commands as a user runs them, without the rest of the command line."""

from collections.abc import Callable
from typing import Any

import typer
from typer.testing import CliRunner

Run = Callable[..., str]


def runner(*commands: Callable[..., Any]) -> Run:
    """Return what runs one of some commands by its name and returns what it prints."""
    app = typer.Typer()
    for command in commands:
        app.command()(command)

    def invoke(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    return invoke
