"""The command ``vmem``: every room's commands under one roof, in the topmost room, so that imports point one way."""

import logging
import os
import re
import sys
import traceback
import warnings
from io import TextIOWrapper
from typing import Annotated, Any, Final, NoReturn, TextIO

try:
    import typer

    import agent.cli.cache_cli
    import agent.cli.classify_cli
    import agent.cli.prompt_cli
    import eval.cli.forget_cli
    import eval.cli.run_cli
    import eval.cli.serve_cli
    import eval.cli.tune_cli
    import retrieval.cli.memory_cli
except KeyboardInterrupt:  # Ctrl-C in the first moments; later it is typer's
    sys.exit(130)

_DEBUG: Final = "VMEM_DEBUG"  # an environment variable: with it an error prints its traceback as well
_FAULT: Final = 70  # EX_SOFTWARE of sysexits.h: 1 is what `check` answers of a damaged memory, 2 is bad input

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # its tracebacks print local variables, and a key may be among them
    help="Classify pictures by remembering instead of training: a memory of labelled pictures votes.\n\n"
    "First steps: `vmem demo` shows it at work; `vmem memory build pets/ photos/` remembers your own"
    " photos/<label>/<image>; `vmem classify --memory pets/ query.jpg` decides; `vmem doctor` examines the"
    " installation.",
)
app.add_typer(agent.cli.classify_cli.app)
app.add_typer(eval.cli.run_cli.demo_app)
retrieval.cli.memory_cli.app.add_typer(eval.cli.forget_cli.app)
app.add_typer(retrieval.cli.memory_cli.app, name="memory")
app.add_typer(retrieval.cli.memory_cli.embed_app)
app.add_typer(agent.cli.cache_cli.app, name="cache")
agent.cli.prompt_cli.app.add_typer(eval.cli.tune_cli.app)
app.add_typer(agent.cli.prompt_cli.app, name="prompt")
app.add_typer(eval.cli.run_cli.app, name="eval")
app.add_typer(eval.cli.serve_cli.app)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"vmem {version('visual-memory-agent')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None: ...


def _tidy_help(command: Any, context: Any) -> None:  # noqa: ANN401 - typer brings its own click
    """Leave out of help the ``<bool>`` that typer writes behind flags, and the source's line ends in paragraphs."""
    command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", command.help or "")
    for option in (*command.params, command.get_help_option(context)):
        if getattr(option, "is_flag", False):
            option.metavar = ""
    for below in getattr(command, "commands", {}).values():
        _tidy_help(below, context)


def main() -> None:
    """Run the command line; an error is one sentence on standard error."""
    warnings.showwarning = _show_as_note
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal of few characters shows a mark for the others
            stream.reconfigure(errors="replace")
    _show_steps()
    command = typer.main.get_command(app)
    _tidy_help(command, command.make_context("vmem", [], resilient_parsing=True))
    try:
        command()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        end_by(error)


def end_by(error: BaseException) -> NoReturn:
    """Say an error in one sentence and exit: with 2 for what a user can mend, with 70 for a fault of this program.

    Neither the sentence nor the traceback that ``VMEM_DEBUG`` adds holds a key.
    """
    from agent.keys import hide_keys
    from retrieval.errors import VisualMemoryError
    from retrieval.support.terminal import printable

    if os.environ.get(_DEBUG):
        typer.echo(hide_keys("".join(traceback.format_exception(error))), err=True)
    words = str(error)
    if isinstance(error, OSError) and error.strerror:  # without the number that Python puts before it
        words = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    said = printable(hide_keys(words), longest=2000)
    if isinstance(error, VisualMemoryError | OSError):
        typer.echo(f"Error: {said}", err=True)
        sys.exit(2)
    if isinstance(error, MemoryError):
        typer.echo("Error: there is not enough memory for this: give a smaller number, or fewer pictures", err=True)
        sys.exit(2)
    kind = type(error).__name__
    typer.echo(
        f"Error: a fault in vmem, not in your input: {kind}{f': {said}' if said else ''}. Run the command again with"
        f" {_DEBUG}=1 in the environment, and report what it prints to its maintainers",
        err=True,
    )
    sys.exit(_FAULT)


def _show_steps() -> None:
    """Print what the rooms log about long steps on standard error, and nothing of other libraries."""
    handler = logging.StreamHandler()
    for room in ("retrieval", "prompts", "agent", "eval"):
        logging.getLogger(room).addHandler(handler)
        logging.getLogger(room).setLevel(logging.INFO)


def _show_as_note(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    # What our own code warns of is meant for the user; other libraries' warnings are not.
    from retrieval.errors import VisualMemoryWarning

    if issubclass(category, VisualMemoryWarning):
        typer.echo(f"Note: {message}", err=True)


if __name__ == "__main__":
    main()
