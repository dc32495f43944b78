"""vmem prompt tune and vmem prompt presets."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agent.cli import options
from eval.datasets.loading import named_folders
from retrieval.support.options import Backend, Cache, Device, EmbedderOverride, Precision

if TYPE_CHECKING:
    from eval.tuning.race import Course, Setting
    from eval.tuning.verdict import Verdict

app = typer.Typer()
_RESULT: Final = "tune.json"
_LEDGER: Final = "spent.jsonl"
_NEIGHBORS: Final = (5, 10, 20, 50)


@app.command()
def tune(
    memory: Annotated[Path, typer.Option(help="The memory that is asked.")],
    dataset: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=PATH",
            help="Held-out queries, which you do not score later, as for `vmem eval run`. Repeatable.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the runs of all settings and the result go.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="Who is asked, as for `vmem eval run`.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="A released prompt's name, also with a layout such as mosaic_v1@4x4, or the path of your own."
            " Repeatable. Left out: all released ones."
        ),
    ] = None,
    k: Annotated[
        list[int] | None, typer.Option("--k", help="How many neighbours. Repeatable.", show_default="5, 10, 20, 50")
    ] = None,
    queries: Annotated[
        int | None, typer.Option(help="How many queries at most, drawn by --seed. Left out: all.")
    ] = None,
    eta: Annotated[int, typer.Option(help="After each round one setting in so many stays: 2 or 3.", min=2)] = 2,
    seed: Annotated[int, typer.Option(help="A number that fixes the order of the queries.")] = 0,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="PROMPT",
            help="No race but an experiment: ask every setting about all queries, and compare it with this prompt.",
        ),
    ] = None,
    save: Annotated[
        str | None, typer.Option(metavar="PRESET", help="Save the recommended setting under this name, for --preset.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Let --save take the place of a preset.")] = False,
    max_calls: Annotated[
        int | None, typer.Option(min=1, help="Calls to make at most: for models of unknown price.")
    ] = None,
    when: options.When = None,
    temperature: options.Temperature = None,
    thinking: options.Thinking = None,
    resolution: options.Resolution = None,
    max_reply_tokens: options.MaxReplyTokens = None,
    concurrency: options.Concurrency = 16,
    rpm: options.Rpm = None,
    tpm: options.Tpm = None,
    timeout: options.Timeout = 60.0,
    max_cost: options.MaxCost = None,
    prices: options.Prices = None,
    key_file: options.KeyFile = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the race would ask and take at most, and ask nothing.")
    ] = False,
    embedder: EmbedderOverride = None,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    cache: Cache = True,
) -> None:
    """Find the best prompt and number of neighbours for a memory by a race on held-out queries, under a money limit.

    Successive halving: all settings answer a few queries, the better half answers twice as many, and so on. Recommended
    is the cheapest setting left that is not distinguishably worse than the best. A race that was cut off goes on when
    the same command is run again, and pays for nothing twice; --max-cost and --max-calls hold for all of it.

    Example: vmem prompt tune --memory pets/ --dataset q=tuning/ --model NAME --max-cost 5 --save best --out tuned/
    """
    from dataclasses import replace as changed

    from agent.settings import expect_free
    from eval.datasets.loading import load_dataset
    from eval.tuning.race import Course, draw_queries, make_settings, plan_rungs
    from eval.tuning.verdict import expect_baseline
    from prompts.template import template_names
    from retrieval.errors import InvalidArgument
    from retrieval.memory import VisualMemory
    from retrieval.sources import expect_outside

    if save and baseline:
        raise InvalidArgument("--save needs a race: leave out --baseline")
    if save:
        expect_free(save, replace=replace)
    folders = named_folders(dataset)
    for folder in folders.values():
        expect_outside(out, folder)
    settings = make_settings(prompt or template_names(), k or _NEIGHBORS)
    reference = expect_baseline(settings, baseline) if baseline else None
    second = options.SecondStage(
        model=model,
        preset=None,
        prompt=None,
        when=when,
        fusion=None,
        shuffles=None,
        seed=None,
        temperature=temperature,
        thinking=thinking,
        resolution=resolution,
        max_reply_tokens=max_reply_tokens,
        concurrency=concurrency,
        rpm=rpm,
        tpm=tpm,
        timeout=timeout,
        max_cost=max_cost,
        prices=prices,
        key_file=key_file,
        cache=cache,
    )
    loaded = second.load(expect_key=not dry_run, max_calls=max_calls, ledger=out / _LEDGER)
    assert loaded is not None
    drawn = draw_queries({name: load_dataset(name, at) for name, at in folders.items()}, queries, seed=seed)
    rungs = plan_rungs(len(settings), len(drawn), eta=1 if baseline else eta)
    opened = VisualMemory.open(
        memory, embedder=embedder, device=device, backend=backend, precision=precision, cache=cache
    )
    course = Course(
        memory=opened,
        queries=drawn,
        rungs=rungs,
        out=out,
        model=loaded,
        stages_of=lambda one: changed(second, prompt=one.prompt).stages(opened, loaded, k=one.neighbors),
        concurrency=concurrency,
        paths={name: str(folder.resolve()) for name, folder in folders.items()},
        say=lambda line: typer.echo(line, err=True),
    )
    if dry_run:
        _print_plan(settings, course)
        return
    verdict = _run(settings, course, reference)
    if save:
        _save(save, verdict, course, replace=replace)


def _print_plan(settings: "Sequence[Setting]", course: "Course") -> None:
    from eval.tuning.race import estimate_queries
    from eval.tuning.verdict import print_plan

    each = {
        one.name: estimate_queries(course.stages_of(one), course.queries, course.model, kept=False) for one in settings
    }
    print_plan(course.rungs, each, queries=len(course.queries))


def _run(settings: "Sequence[Setting]", course: "Course", reference: "Setting | None") -> "Verdict":
    """Run the race, print what it tells, and write that into its folder."""
    from eval.tuning.race import run_race
    from eval.tuning.verdict import judge, print_verdict, verdict_as_json
    from retrieval.support.terminal import write_text

    meter = course.model.meter
    try:
        race = run_race(settings, course)
    finally:
        typer.echo(f"In all: {meter}", err=True)
    verdict = judge(race, baseline=reference)
    print_verdict(verdict, rungs=len(course.rungs))
    about = {"model": course.model.name, "datasets": course.paths, "spent": {"calls": meter.calls, "cost": meter.cost}}
    write_text(course.out / _RESULT, verdict_as_json(verdict, about))
    return verdict


def _save(name: str, verdict: "Verdict", course: "Course", *, replace: bool) -> None:
    from agent.settings import save_preset
    from eval.tuning.verdict import make_preset
    from retrieval.support.terminal import printable

    assert verdict.recommended is not None
    source = f"{', '.join(course.paths or ())}; {course.out.resolve()}"
    stages = course.stages_of(verdict.recommended)
    path = save_preset(make_preset(name, verdict, stages, model=course.model.name, source=source), replace=replace)
    typer.echo(f"Saved as {name}: {printable(path)}")


@app.command()
def presets() -> None:
    """List the settings that were saved under names, for --preset.

    Example: vmem prompt presets
    """
    from agent.errors import PresetError
    from agent.settings import load_preset, preset_names, presets_folder
    from retrieval.support.terminal import print_table, printable

    rows: list[tuple[object, ...]] = []
    for name in preset_names():
        try:
            preset = load_preset(name)
            rows.append((name, preset.prompt, preset.neighbors, preset.when, preset.about))
        except PresetError as error:
            rows.append((name, "damaged", "", "", str(error)))
    if rows:
        print_table(["preset", "prompt", "k", "when", "about"], rows)
    typer.echo(f"{len(rows)} in {printable(presets_folder())}", err=True)
