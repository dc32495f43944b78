"""What a run would take, before it asks anything."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from agent import background
from agent.errors import ModelError
from agent.loading import LoadedModel
from agent.models.gemini import Gemini
from agent.reply_key import key_of
from agent.stages import Stages
from agent.types import Request
from eval.first_stage import open_first_stage
from eval.types import Dataset
from prompts.answer import REPLY_TOKENS
from prompts.cost import Dollars, estimate_prompt_tokens, prices_date
from prompts.question import Question
from retrieval.centring import CentredMemory
from retrieval.errors import ImageError
from retrieval.progress import track

_SAMPLED: Final = 100  # prompts that are made to see their size
_COUNTED: Final = 3  # of them that the service is asked to count
_COUNT_SECONDS: Final = 20.0  # for all of them


@dataclass(frozen=True, slots=True)
class Estimate:
    """About what a run would take."""

    queries: int  # with usable pictures
    asked: int  # those that the gate does not leave to the vote
    cached: int  # of them, those whose replies are kept already, by the sample
    prompt_tokens: int  # of the calls that remain
    reply_tokens: int
    cost: Dollars | None  # None where the price is not known
    basis: str  # where the figures come from

    @property
    def calls(self) -> int:
        """How many would be made, if each query takes one."""
        return self.asked - self.cached


def estimate_run(
    stages: Stages,
    datasets: Mapping[str, Dataset],
    model: LoadedModel,
    *,
    batch: bool = False,
    centre: str | None = None,
) -> Estimate:
    """Return what a run would take: the gate is applied to every query, prompts are made of a sample of them.

    Gemini's own count of three prompts' tokens, which costs nothing, goes before our estimate where it can be had.
    """
    assert stages.rerank is not None
    generation, price = stages.rerank.generation, model.meter.price
    drawn, queries, asked = _draw(stages, datasets, centre)
    requests = _requests(stages, drawn)
    tokens = [
        estimate_prompt_tokens(request.prompt, price, media_resolution=generation.media_resolution)
        for request in requests
    ]
    factor, basis = _calibrate(model, requests, tokens)
    kept = sum(model.store is not None and _is_kept(model, request) for request in requests)
    cached = round(asked * kept / len(requests)) if requests else 0
    calls = asked - cached
    prompt_tokens = round(calls * factor * sum(tokens) / len(tokens)) if tokens else 0
    reply_tokens = calls * REPLY_TOKENS[stages.rerank.template.answer]
    cost = price.cost(prompt_tokens, reply_tokens, batch=batch) if price else None
    return Estimate(queries, asked, cached, prompt_tokens, reply_tokens, cost, basis)


def _draw(stages: Stages, datasets: Mapping[str, Dataset], centre: str | None) -> tuple[list[Question], int, int]:
    """Return a sample of the questions that the gate would ask, the number of usable queries, and of those asked."""
    assert stages.rerank is not None
    chance, drawn, queries, asked = random.Random(0), list[Question](), 0, 0
    centred = CentredMemory(stages.memory) if centre else None
    searching = replace(stages, searched=centred)
    for name, dataset in datasets.items():
        first = open_first_stage(stages.memory, centred, name, dataset, how=centre or "", progress=True)
        posed = track(first.pose(searching, dataset.samples), f"Voting on {name}", total=len(dataset.samples))
        for question in (question for _, question in posed if isinstance(question, Question)):
            queries += 1
            if stages.rerank.gate.asks(question.votes):
                asked += 1
                if len(drawn) < _SAMPLED:
                    drawn.append(question)
                elif (place := chance.randrange(asked)) < _SAMPLED:  # every query is as likely to be in the sample
                    drawn[place] = question
    return drawn, queries, asked


def _requests(stages: Stages, questions: Sequence[Question]) -> list[Request]:
    assert stages.rerank is not None
    made = []
    for question in questions:
        try:
            prompt, _ = question.prompt(stages.rerank.template, stages.memory)
        except ImageError:
            continue  # gone since it was embedded
        made.append(Request(prompt, stages.rerank.generation))
    return made


def _calibrate(model: LoadedModel, requests: Sequence[Request], tokens: Sequence[int]) -> tuple[float, str]:
    """Return by how much the service's count exceeds the estimate, and in words what the figures rest on."""
    at = f"one call a query, at prices of {prices_date()}"
    basis = f"Estimated by four characters a token and a fixed number a picture, {at}"
    if not isinstance(model.bare, Gemini) or not model.bare.has_key or not requests:
        return 1.0, basis

    async def count(gemini: Gemini) -> list[int]:
        async with asyncio.timeout(_COUNT_SECONDS):
            return [await gemini.count_tokens(request) for request in requests[:_COUNTED]]

    try:
        counted = background.run(count(model.bare))
    except (ModelError, TimeoutError):
        return 1.0, basis
    return sum(counted) / max(1, sum(tokens[:_COUNTED])), f"Counted by the service, {at}"


def _is_kept(model: LoadedModel, request: Request) -> bool:
    assert model.store is not None
    return model.store.get(key_of(model.name, request)) is not None
