"""vmem prompt: read the templates, see what a model would be asked, and what that costs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from agent.preview import render_prompts, stand_in
from prompts.cost import PromptEstimate, estimate_prompt, prices_date
from prompts.preview import coloured, differing_lines, plain, prompt_page, prompts_page
from prompts.template import load_template, template_names
from prompts.types import Prompt
from retrieval.errors import InvalidArgument
from retrieval.memory import VisualMemory
from retrieval.support.options import EmbedderOverride, flat
from retrieval.support.terminal import print_table, write_text

PromptName = Annotated[
    str,
    typer.Argument(metavar="[PROMPT]", help="A released prompt's name, or the path of your own template."),
]
Query = Annotated[Path, typer.Argument(metavar="IMAGE", help="The query picture.")]
OptionalQuery = Annotated[Path | None, typer.Argument(metavar="[IMAGE]", help="A query picture, to render both for.")]
MemoryOption = Annotated[Path, typer.Option("--memory", help="The memory whose neighbours go into the prompt.")]
OptionalMemory = Annotated[
    Path | None, typer.Option("--memory", help="The memory whose neighbours go into the prompts, beside a picture.")
]
K = Annotated[int, typer.Option("--k", help="How many neighbours.", min=1)]
Voting = Annotated[str, typer.Option(help="Order of the candidates: rank, plurality, distance or softmax voting.")]
DEFAULT_MODEL: Final = "gemini-3.5-flash-lite"  # as prompts.cost.MODEL, which --help does not wait for


@dataclass(frozen=True, slots=True, kw_only=True)
class Pricing:
    """For what a prompt is priced."""

    model: Annotated[str, typer.Option("--model", help="The model to price it for, such as gemini-3.8-flash.")] = (
        DEFAULT_MODEL
    )
    media_resolution: Annotated[
        str | None, typer.Option("--media-resolution", help="Tokens for each picture: low, medium or high.")
    ] = None
    prices: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Prices to use in place of those shipped, in the form of prompts/prices.toml."
        ),
    ] = None

    def estimate(self, prompt: Prompt, *, batch: bool = False) -> PromptEstimate:
        """Return about what a prompt would take."""
        return estimate_prompt(
            prompt, model=self.model, media_resolution=self.media_resolution, batch=batch, prices=self.prices
        )


def list_() -> None:
    """List the released prompts: what each shows, how it is answered, and what it is for.

    Example: vmem prompt list
    """
    templates = map(load_template, template_names())
    rows = [(t.name, t.version, t.shown, t.answer, _first_sentence(t.about)) for t in templates]
    columns = ["prompt", "version", "shows", "answer", "about"]
    print_table(columns, rows, words=columns)


def show(prompt: PromptName = "rerank_v1") -> None:
    """Print a prompt template: what it is for, and its text with slots.

    Example: vmem prompt show rerank_v1
    """
    template = load_template(prompt)
    typer.echo(plain(f"{template.name}: {template.about}\n\n{template.body}"))
    typer.echo(f"Released prompts: {', '.join(template_names())}", err=True)


@flat()
def preview(
    image: Query,
    memory: MemoryOption,
    pricing: Pricing,
    prompt: Annotated[str, typer.Option(help="A released prompt's name, or the path of your own.")] = "rerank_v1",
    k: K = 50,
    voting: Voting = "rank",
    embedder: EmbedderOverride = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the pictures to this file.")] = None,
) -> None:
    """Render a real prompt for a picture, as a model would receive it, with what it costs. Nothing is sent.

    Example: vmem prompt preview query.jpg --memory pets/ --k 10 --html prompt.html
    """
    template = load_template(prompt)
    opened = VisualMemory.open(memory, embedder=embedder)
    (rendered,) = render_prompts([template], image, opened, k=k, voting=voting)
    estimate = pricing.estimate(rendered)
    if html is None:
        typer.echo(plain(rendered.text))
    else:
        write_text(html, prompt_page(rendered, estimate))
        typer.echo(f"Written: {html}")
    typer.echo(plain(f"Estimate: {estimate}"), err=True)


@flat()
def diff(
    first: Annotated[str, typer.Argument(metavar="PROMPT", help="A released prompt's name, or a path.")],
    second: Annotated[str, typer.Argument(metavar="PROMPT", help="Another one's.")],
    pricing: Pricing,
    image: OptionalQuery = None,
    memory: OptionalMemory = None,
    k: K = 50,
    voting: Voting = "rank",
    embedder: EmbedderOverride = None,
    html: Annotated[Path | None, typer.Option(help="Write both as rendered, side by side, to this page.")] = None,
) -> None:
    """Compare two prompts: the lines in which their templates differ, and with a picture what both would send.

    Example: vmem prompt diff rerank_v1 mosaic_v1 query.jpg --memory pets/ --html both.html
    """
    if (image is None) != (memory is None) or (html and image is None):
        raise InvalidArgument("rendering both takes a query picture and --memory: give both, or neither and no --html")
    templates = [load_template(first), load_template(second)]
    typer.echo("\n".join(map(coloured, differing_lines(*templates))) or "The templates are the same.")
    if image is None or memory is None:
        return
    opened = VisualMemory.open(memory, embedder=embedder)
    rendered = render_prompts(templates, image, opened, k=k, voting=voting)
    estimates = list(map(pricing.estimate, rendered))
    typer.echo()
    _print_costs([(k, one.template, estimate) for one, estimate in zip(rendered, estimates, strict=True)])
    if html:
        write_text(html, prompts_page(f"{first} and {second}", list(zip(rendered, estimates, strict=True))))
        typer.echo(f"Written: {html}")


@flat()
def cost(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT…", help="Released prompts' names, or paths.")],
    pricing: Pricing,
    k: Annotated[
        list[int] | None, typer.Option("--k", min=1, help="How many neighbours; may be repeated. Left out: 50.")
    ] = None,
    queries: Annotated[int, typer.Option(help="Price so many queries.", min=1)] = 1000,
    batch: Annotated[bool, typer.Option("--batch", help="At the price of batch jobs.")] = False,
    image: Annotated[Path | None, typer.Option("--query", help="A real query picture, beside --memory.")] = None,
    memory: OptionalMemory = None,
    classes: Annotated[int, typer.Option(help="Without a memory: candidates to stand in.", min=1)] = 10,
    voting: Voting = "rank",
    embedder: EmbedderOverride = None,
) -> None:
    """Price prompts before anything is asked: pictures, tokens and dollars, by estimate.

    Example: vmem prompt cost rerank_v1 mosaic_v1 --k 10 --k 50 --queries 50000 --batch
    """
    if (image is None) != (memory is None):
        raise InvalidArgument("real prompts take --query and --memory: give both, or neither for grey pictures")
    templates = [load_template(name) for name in prompts]
    opened = None if memory is None else VisualMemory.open(memory, embedder=embedder)
    rows = []
    for count in k or [50]:
        if image is None or opened is None:
            rendered = [stand_in(template, neighbors=count, classes=classes) for template in templates]
        else:
            rendered = render_prompts(templates, image, opened, k=count, voting=voting)
        rows += [(count, one.template, pricing.estimate(one, batch=batch)) for one in rendered]
    _print_costs(rows, queries=queries, real=image is not None)
    basis = (
        f"Of {image}" if image else f"With grey pictures and {classes} classes; give --memory and --query for real ones"
    )
    typer.echo(f"{basis}. Estimated by four characters a token, at prices of {prices_date()}.", err=True)


def _print_costs(rows: list[tuple[int, str, PromptEstimate]], *, queries: int = 1, real: bool = True) -> None:

    def dollars(estimate: PromptEstimate, times: int) -> str:
        return "unknown" if estimate.dollars is None else f"{estimate.dollars * times:,.{2 if times > 99 else 5}f}"

    columns = ["prompt", "k", "pictures", "tokens", "of reply", "$ a query"]
    columns += ["kB"] * real + [f"$ for {queries:,}"] * (queries > 1)
    table = []
    for k, name, e in rows:
        cells = [name, k, e.pictures, f"{e.prompt_tokens:,}", e.reply_tokens, dollars(e, 1)]
        table.append(cells + [f"{e.kilobytes:,.0f}"] * real + [dollars(e, queries)] * (queries > 1))
    print_table(columns, table)


def _first_sentence(about: str) -> str:
    return about.partition(". ")[0].removesuffix(".") + "."
