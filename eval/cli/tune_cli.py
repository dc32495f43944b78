"""vmem prompt tune and vmem prompt presets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from agent.cli import options
from agent.errors import PresetError
from agent.presets import expect_free, load_preset, preset_names, presets_folder, save_preset
from eval.datasets.loading import load_dataset, named_folders
from eval.tuning.race import Course, Setting, draw_queries, estimate_queries, make_settings, plan_rungs, run_race
from eval.tuning.verdict import Verdict, expect_baseline, judge, make_preset, print_plan, print_verdict, verdict_as_json
from prompts.template import template_names
from retrieval.errors import InvalidArgument
from retrieval.sources import expect_outside
from retrieval.support.options import EmbedderOptions, flat
from retrieval.support.terminal import print_table, printable, write_text

_RESULT: Final = "tune.json"
_LEDGER: Final = "spent.jsonl"
_NEIGHBORS: Final = (5, 10, 20, 50)


_OFFERED: Final = "when temperature thinking media_resolution max_reply_tokens concurrency requests_per_minute"


@flat(*_OFFERED.split(), "tokens_per_minute", "timeout_seconds", "max_cost", "prices", "key_file")
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
    second: options.SecondStage,
    embedder: EmbedderOptions,
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the race would ask and take at most, and ask nothing.")
    ] = False,
) -> None:
    """Find the best prompt and number of neighbours for a memory by a race on held-out queries, under a money limit.

    Successive halving: all settings answer a few queries, the better half answers twice as many, and so on. Recommended
    is the cheapest setting left that is not distinguishably worse than the best. A race that was cut off goes on when
    the same command is run again, and pays for nothing twice; --max-cost and --max-calls hold for all of it.

    Example: vmem prompt tune --memory pets/ --dataset q=tuning/ --model NAME --max-cost 5 --save best --out tuned/
    """
    if save and baseline:
        raise InvalidArgument("--save needs a race: leave out --baseline")
    if save:
        expect_free(save, replace=replace)
    folders = named_folders(dataset)
    for folder in folders.values():
        expect_outside(out, folder)
    settings = make_settings(prompt or template_names(), k or _NEIGHBORS)
    reference = expect_baseline(settings, baseline) if baseline else None
    second = second.but(model=model)
    loaded = second.load(cache=embedder.cache, expect_key=not dry_run, max_calls=max_calls, ledger=out / _LEDGER)
    assert loaded is not None
    drawn = draw_queries({name: load_dataset(name, at) for name, at in folders.items()}, queries, seed=seed)
    rungs = plan_rungs(len(settings), len(drawn), eta=1 if baseline else eta)
    opened = embedder.open(memory)
    course = Course(
        memory=opened,
        queries=drawn,
        rungs=rungs,
        out=out,
        model=loaded,
        stages_of=lambda one: second.but(prompt=one.prompt).stages(opened, loaded, k=one.neighbors),
        concurrency=second.said["concurrency"],
        paths={name: str(folder.resolve()) for name, folder in folders.items()},
        say=lambda line: typer.echo(line, err=True),
    )
    if dry_run:
        _print_plan(settings, course)
        return
    verdict = _run(settings, course, reference)
    if save:
        _save(save, verdict, course, replace=replace)


def _print_plan(settings: Sequence[Setting], course: Course) -> None:

    each = {
        one.name: estimate_queries(course.stages_of(one), course.queries, course.model, kept=False) for one in settings
    }
    print_plan(course.rungs, each, queries=len(course.queries))


def _run(settings: Sequence[Setting], course: Course, reference: Setting | None) -> Verdict:
    """Run the race, print what it tells, and write that into its folder."""
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


def _save(name: str, verdict: Verdict, course: Course, *, replace: bool) -> None:

    assert verdict.recommended is not None
    source = f"{', '.join(course.paths or ())}; {course.out.resolve()}"
    stages = course.stages_of(verdict.recommended)
    path = save_preset(make_preset(name, verdict, stages, model=course.model.name, source=source), replace=replace)
    typer.echo(f"Saved as {name}: {printable(path)}")


def presets() -> None:
    """List the settings that were saved under names, for --preset.

    Example: vmem prompt presets
    """
    rows: list[tuple[object, ...]] = []
    for name in preset_names():
        try:
            preset = load_preset(name)
            rows.append((name, preset.prompt, preset.k, preset.when, preset.about))
        except PresetError as error:
            rows.append((name, "damaged", "", "", str(error)))
    if rows:
        print_table(["preset", "prompt", "k", "when", "about"], rows)
    typer.echo(f"{len(rows)} in {printable(presets_folder())}", err=True)
