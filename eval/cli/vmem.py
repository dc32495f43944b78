"""The command ``vmem``: every room's commands under one roof, in the topmost room, so that imports point one way."""

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import InspectLoader
from importlib.util import find_spec
from io import TextIOWrapper
from typing import Annotated, Any, Final, NoReturn, TextIO

try:
    import typer
    from typer.core import TyperCommand, TyperGroup
except KeyboardInterrupt:  # Ctrl-C in the first moments; later it is typer's
    sys.exit(130)

_DEBUG: Final = "VMEM_DEBUG"  # an environment variable: with it an error prints its traceback as well
_FAULT: Final = 70  # EX_SOFTWARE of sysexits.h: 1 is what `check` answers of a damaged memory, 2 is bad input

# Every command: its name, and the function that is it, in the order in which help lists them. A module is imported when
# one of its commands runs; the lists of help take what a command does from the module's source.
_MEMORY: Final = {
    "build": "retrieval.cli.memory_cli:build",
    "add": "retrieval.cli.memory_cli:add",
    "search": "retrieval.cli.memory_cli:search",
    "stats": "retrieval.cli.memory_cli:stats",
    "why": "retrieval.cli.curation_cli:why",
    "relabel": "retrieval.cli.history_cli:relabel",
    "prune": "retrieval.cli.curation_cli:prune",
    "duplicates": "retrieval.cli.curation_cli:duplicates",
    "history": "retrieval.cli.history_cli:history",
    "diff": "retrieval.cli.history_cli:diff",
    "tag": "retrieval.cli.history_cli:tag",
    "untag": "retrieval.cli.history_cli:untag",
    "checkout": "retrieval.cli.history_cli:checkout",
    "undo": "retrieval.cli.history_cli:undo",
    "compact": "retrieval.cli.history_cli:compact",
    "check": "retrieval.cli.history_cli:check",
    "forget": "eval.cli.forget_cli:forget",
    "verify-forgotten": "eval.cli.forget_cli:verify_forgotten",
}
_CACHE: Final = {
    "stats": "agent.cli.cache_cli:stats",
    "clear": "agent.cli.cache_cli:clear",
    "explain": "agent.cli.cache_cli:explain",
}
_PROMPT: Final = {
    "list": "agent.cli.prompt_cli:list_",
    "show": "agent.cli.prompt_cli:show",
    "preview": "agent.cli.prompt_cli:preview",
    "diff": "agent.cli.prompt_cli:diff",
    "cost": "agent.cli.prompt_cli:cost",
    "tune": "eval.cli.tune_cli:tune",
    "presets": "eval.cli.tune_cli:presets",
}
_EVAL: Final = {
    "run": "eval.cli.run_cli:run",
    "datasets": "eval.cli.datasets_cli:datasets",
    "check": "eval.cli.datasets_cli:check",
    "report": "eval.cli.run_cli:report",
    "fusion": "eval.cli.reading_cli:fusion",
    "compare": "eval.cli.reading_cli:compare",
    "power": "eval.cli.reading_cli:power",
    "table": "eval.cli.reading_cli:table",
    "analyse": "eval.cli.analyse_cli:analyse",
    "neighbors": "eval.cli.analyse_cli:convert",
}
# Of what `vmem --help` lists, which imports none of it: what is said, and the function or the commands below.
_COMMANDS: Final[dict[str, tuple[str, str | dict[str, str]]]] = {
    "classify": (
        "Say what pictures show, by the vote of their nearest neighbours in a memory, and a model's second look.",
        "agent.cli.classify_cli:classify",
    ),
    "doctor": (
        "Examine this installation: versions, devices, weights, key, and a memory's health, each with its cure.",
        "agent.cli.classify_cli:doctor",
    ),
    "demo": (
        "Run the main job on real pictures, offline: remember most, classify the rest and five shifted variants of"
        " them.",
        "eval.cli.datasets_cli:demo",
    ),
    "memory": ("Build, edit, search and inspect a memory of labelled pictures.", _MEMORY),
    "embed": ("Write the features of labelled pictures to a Parquet file.", "retrieval.cli.memory_cli:embed"),
    "cache": ("See and clear what is kept so that it need not be computed again.", _CACHE),
    "prompt": ("Read prompt templates, preview what a model would be asked, and price it.", _PROMPT),
    "eval": ("Measure how well a memory classifies data sets, and compare runs.", _EVAL),
    "serve": (
        "Serve a page on this machine: ask the memory about pictures, edit it, browse it and its runs.",
        "eval.cli.serve_cli:serve",
    ),
}


class _ByName(TyperCommand):
    """A command of which nothing is known yet but its name, its function's name, and perhaps what it does."""

    def __init__(self, name: str, function: str, about: str = "") -> None:
        super().__init__(name=name, help=about, callback=None)
        self._function = function

    def docstring(self) -> str:
        """Return what the function's docstring says, read from its module's source; empty where that is not there."""
        import ast

        module, _, name = self._function.partition(":")
        spec = find_spec(module)
        source = spec.loader.get_source(module) if spec and isinstance(spec.loader, InspectLoader) else None
        found = [
            node for node in ast.parse(source or "").body if isinstance(node, ast.FunctionDef) and node.name == name
        ]
        return (ast.get_docstring(found[0]) or "") if found else ""

    def load(self) -> Any:  # noqa: ANN401 - typer brings its own click
        """Import the function, and return the command that it is."""
        module, _, name = self._function.partition(":")
        alone = typer.Typer(add_completion=False)
        alone.command(self.name)(getattr(import_module(module), name))
        return _tidied(typer.main.get_command(alone))


class _Group(TyperGroup):
    """Commands that are loaded when one is to run."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        found = super().get_command(ctx, cmd_name)
        if isinstance(found, _ByName) and not found.help:
            found.help = found.docstring()
            return _tidied(found) if found.help else found.load()
        return found

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:  # noqa: ANN401
        name, found, rest = super().resolve_command(ctx, args)
        return name, found.load() if isinstance(found, _ByName) else found, rest


class _Root(_Group):
    """The group of `_COMMANDS`, as typer makes it."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401
        super().__init__(**attributes)
        for name, (about, function) in _COMMANDS.items():
            self.commands[name] = (
                _ByName(name, function, about)
                if isinstance(function, str)
                else _tidied(
                    _Group(
                        name=name,
                        help=about,
                        no_args_is_help=True,
                        commands={below: _ByName(below, named) for below, named in function.items()},
                    )
                )
            )


def _tidied(command: Any) -> Any:  # noqa: ANN401
    """Return a command whose help lacks the ``<bool>`` that typer writes behind flags, and the source's line ends."""
    command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", command.help or "")
    for option in (*command.params, command.get_help_option(typer.Context(command))):
        if getattr(option, "is_flag", False):
            option.metavar = ""
    return command


app = typer.Typer(
    cls=_Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # its tracebacks print local variables, and a key may be among them
    help="Classify pictures by remembering instead of training: a memory of labelled pictures votes.\n\n"
    "First steps: `vmem demo` shows it at work; `vmem memory build pets/ photos/` remembers your own"
    " photos/<label>/<image>; `vmem classify --memory pets/ query.jpg` decides; `vmem doctor` examines the"
    " installation.",
)


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error is one sentence on standard error.

    Args:
        arguments: words of a command; None: those with which this process was started.
    """
    warnings.showwarning = _show_as_note
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal of few characters shows a mark for the others
            stream.reconfigure(errors="replace")
    _show_steps()
    command = _tidied(typer.main.get_command(app))
    try:
        command(arguments)
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
