"""vmem prompt: read the templates and see what a model would be asked."""

from pathlib import Path
from typing import Annotated

import typer

from retrieval.options import EmbedderOverride

app = typer.Typer(no_args_is_help=True, help="Read prompt templates and preview what a model would be asked.")

PromptName = Annotated[
    str,
    typer.Argument(metavar="[PROMPT]", help="A released prompt's name, or the path of your own template."),
]


@app.command()
def show(prompt: PromptName = "rerank_v1") -> None:
    """Print a prompt template: what it is for, and its text with slots.

    Example: vmem prompt show rerank_v1
    """
    from prompts.catalogue import load_template, template_names

    template = load_template(prompt)
    typer.echo(f"{template.name}: {template.about}\n\n{template.body}")
    typer.echo(f"Released prompts: {', '.join(template_names())}", err=True)


@app.command()
def preview(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The query picture.")],
    memory: Annotated[Path, typer.Option(help="The memory whose neighbours go into the prompt.")],
    prompt: Annotated[str, typer.Option(help="A released prompt's name, or the path of your own.")] = "rerank_v1",
    k: Annotated[int, typer.Option("--k", help="How many neighbours.")] = 50,
    voting: Annotated[
        str, typer.Option(help="Order of the candidates: rank, plurality, distance or softmax voting.")
    ] = "rank",
    embedder: EmbedderOverride = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the pictures to this file.")] = None,
) -> None:
    """Render a real prompt for a picture, as a model would receive it. Nothing is sent.

    Example: vmem prompt preview query.jpg --memory pets/ --k 10 --html prompt.html
    """
    from prompts.catalogue import load_template
    from prompts.preview import prompt_page
    from prompts.render import compose_prompt
    from retrieval.images import decode
    from retrieval.memory import VisualMemory
    from retrieval.terminal import write_text
    from retrieval.voting import check_method, count_votes

    check_method(voting)
    template = load_template(prompt)
    query = decode(image)
    opened = VisualMemory.open(memory, embedder=embedder)
    found = opened.search(query, k=k)
    (votes,) = count_votes(found.labels, found.distances, method=voting)
    rendered = compose_prompt(template, query, opened, found[0], votes)
    if html is None:
        typer.echo(rendered.text)
    else:
        write_text(html, prompt_page(rendered))
        typer.echo(f"Written: {html}")
