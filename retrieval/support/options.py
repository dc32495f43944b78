"""Arguments and options that commands of several rooms share, so that they mean and say the same everywhere."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from retrieval.errors import InvalidArgument
from retrieval.support.parsing import parse_json
from retrieval.support.terminal import printable

if TYPE_CHECKING:
    from retrieval.memory import VisualMemory

_PANEL: Final = "Embedding"

MemoryPath = Annotated[Path, typer.Argument(metavar="MEMORY", help="The folder that holds the memory.")]
FolderOrFile = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        help="Pictures laid out as FOLDER/<label>/<image>; a manifest that lists them (CSV, TSV, JSONL or Parquet with"
        " label and path or bytes); or a Parquet file of id, label, vector.",
    ),
]
EmbedderOverride = Annotated[
    str | None,
    typer.Option(
        "--embedder",
        rich_help_panel=_PANEL,
        help="Where to load the memory's embedder from, if not from where it came: a name, or a folder with the"
        " saved model. It must be the same model.",
    ),
]
EmbedderName = Annotated[
    str,
    typer.Option(
        "--embedder",
        rich_help_panel=_PANEL,
        help="A name that `vmem doctor` lists, or a folder with a model that transformers saved.",
    ),
]
Device = Annotated[str, typer.Option(rich_help_panel=_PANEL, help="Where the embedder runs: auto, cpu, cuda or mps.")]
Backend = Annotated[str, typer.Option(rich_help_panel=_PANEL, help="What runs it: auto, torch, or openvino (CPUs).")]
Precision = Annotated[
    str,
    typer.Option(
        rich_help_panel=_PANEL,
        help="auto (the fastest that agrees with float32 on this machine), float32, bfloat16, float16 (GPUs), or int8"
        " (fastest, some votes change).",
    ),
]
Cache = Annotated[
    bool,
    typer.Option(
        "--cache/--no-cache",
        rich_help_panel=_PANEL,
        help="Look up features, and a model's replies, before computing them, and keep new ones.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderOptions:
    """How a memory's embedder is to be had and run."""

    embedder: EmbedderOverride = None
    device: Device = "auto"
    backend: Backend = "auto"
    precision: Precision = "auto"
    cache: Cache = True

    def open(self, memory: Path) -> "VisualMemory":
        """Open a memory by these options; see `VisualMemory.open`."""
        from retrieval.memory import VisualMemory

        return VisualMemory.open(
            memory,
            embedder=self.embedder,
            device=self.device,
            backend=self.backend,
            precision=self.precision,
            cache=self.cache,
        )


def flat(*only: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of every dataclass among its parameters' types; typer takes none of those.

    A dataclass whose options are made elsewhere has ``options``, which returns them as parameters, and ``of``, which
    makes it of their values.

    Args:
        only: names of the options that the command offers of a dataclass that has ``options``; none: all of them.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        parameters: list[inspect.Parameter] = []
        groups: dict[str, tuple[Callable[..., Any], list[str]]] = {}
        for name, parameter in signature.parameters.items():
            if not is_dataclass(parameter.annotation):
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
                continue
            group: Any = parameter.annotation
            if hasattr(group, "options"):
                options, make = [one for one in group.options() if one.name in (only or (one.name,))], group.of
            else:
                options, make = list(inspect.signature(group).parameters.values()), group
            groups[name] = make, [option.name for option in options]
            parameters += options

        @functools.wraps(command)
        def run(**said: Any) -> None:  # noqa: ANN401 - whatever the options take
            for name, (make, names) in groups.items():
                said[name] = make(**{option: said.pop(option) for option in names})
            command(**said)

        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Sheet = Annotated[
    Path | None,
    typer.Option(help="Also write the pictures to this file, .png (texts in Latin letters) or .html.", metavar="FILE"),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Take only every N-th picture, from the I-th on; the others are other processes' or machines', at once.",
    ),
]
Ids = Annotated[list[str] | None, typer.Option("--id", metavar="ID", help="An item; may be repeated.")]
IdsFrom = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A file of ids, one a line, each as it is or as a JSON string.")
]
OfLabel = Annotated[str | None, typer.Option("--label", help="All items of a label.")]
Where = Annotated[
    str | None,
    typer.Option(
        metavar="SQL",
        help="All items for which a condition on id, label and source holds: \"source LIKE '%/march/%'\".",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Embed on the machines of a Ray cluster, which must find the pictures at the same paths: HOST:PORT,"
        " ray://HOST:10001, auto, or local to start one on this machine.",
    ),
]


def listed_ids(ids: list[str] | None, file: Path | None) -> list[str] | None:
    """Return the ids that are named; None where none are.

    Args:
        ids: named one by one.
        file: of ids, one a line, each as it is or, for those that hold line breaks, as a JSON string.

    Raises:
        InvalidArgument: the file cannot be read as text, or holds none.
    """
    if file is None:
        return ids or None
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{printable(file)} is no file of ids ({error}): one id a line expected") from error
    listed = [*(ids or []), *filter(None, (_as_id(line.rstrip("\r")) for line in lines))]
    if not listed:
        raise InvalidArgument(f"{printable(file)} holds no ids: one a line expected")
    return listed


def _as_id(line: str) -> str:
    if line.startswith('"'):
        try:
            return str(parse_json(line))
        except ValueError:
            pass  # an id that begins with a quotation mark
    return line
