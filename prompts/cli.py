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
    from prompts.question import pose_questions
    from retrieval.memory import VisualMemory
    from retrieval.terminal import write_text
    from retrieval.voting import check_method

    check_method(voting)
    template = load_template(prompt)
    opened = VisualMemory.open(memory, embedder=embedder)
    (question,) = pose_questions(opened, [image], opened.embed([image]), k=k, voting=voting, template=template)
    rendered, _ = question.prompt(template, opened)
    if html is None:
        typer.echo(rendered.text)
    else:
        write_text(html, prompt_page(rendered))
        typer.echo(f"Written: {html}")
