"""A memory and held-out queries to try things on, from any folder of pictures or from nothing: for notebooks."""

import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

from agent.calls.metered import Meter
from agent.calls.ready import LoadedModel, load_model, make_ready
from agent.keys import key_variable
from agent.models.scripted import ScriptedModel
from eval.demo import remember, split, write_digits
from eval.types import Dataset, Sample
from prompts.cost import Dollars
from prompts.render import quoted
from prompts.types import NONE_CODE, ImagePart, Prompt, TextPart
from retrieval.building import expect_a_picture
from retrieval.embedders import PACKAGED
from retrieval.images import decode
from retrieval.labels import display_name
from retrieval.memory import VisualMemory
from retrieval.sources import Item, expect_outside, list_labelled_files

PICTURES: Final = 800  # some seconds of embedding on two cores
QUERIES: Final = 200
_SEED: Final = 0


@dataclass(frozen=True, slots=True, eq=False)
class Workbench:
    """What is tried out, and what with."""

    memory: VisualMemory
    queries: Dataset  # pictures that the memory does not hold
    held_back: list[Item]  # those of the last class, where it was held back to be added later


def open_workbench(
    folder: str | Path,
    *,
    images: str | Path | None = None,
    embedder: str = PACKAGED,
    pictures: int = PICTURES,
    queries: int = QUERIES,
    hold_back_a_class: bool = False,
) -> Workbench:
    """Build a memory from some of a folder's pictures, or open the one that was built so before, and hold out queries.

    Args:
        folder: where to keep it; other choices get other memories there.
        images: pictures laid out as ``<label>/<image>``; None takes scikit-learn's 1,797 scanned digits.
        embedder: as `load_embedder` takes it.
        pictures: how many to use at most, drawn at random with a fixed seed.
        queries: how many of them to hold out, evenly over the classes.
        hold_back_a_class: whether to leave the last class out of the memory; its queries stay.

    Raises:
        FolderError: the pictures are missing, too few or laid out otherwise.
        EmbedderError: the embedder cannot be loaded, or is another one than the memory's.
        StorageError: the memory cannot be read or written.
    """
    folder = Path(folder)
    if images is None:
        images = folder / "digits"
        write_digits(images)
    else:
        expect_outside(folder, images)
    files = list_labelled_files(images)
    expect_a_picture((file.path for file in files), images)
    drawn = random.Random(_SEED).sample(files, min(pictures, len(files)))
    remembered, held_out = split(drawn, queries=queries)
    last = max(file.label for file in files) if hold_back_a_class else None
    kept = [file for file in remembered if file.label != last]
    # Other pictures get another memory, so that no held-out picture lies in one that was built before.
    named = json.dumps([embedder, *sorted(file.source for file in kept)])
    return Workbench(
        memory=remember(folder / f"memory-{hashlib.sha256(named.encode()).hexdigest()[:12]}", kept, embedder),
        queries=Dataset([Sample(file.id, file.path, frozenset([file.label])) for file in held_out]),
        held_back=[Item(file.id, file.label, file.path, file.source) for file in remembered if file.label == last],
    )


_PIXELS: Final = (16, 16)  # at which pictures are compared: outlines and colours, not details
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_EVIDENCE: Final = 3  # neighbours that it names


def model_or_stand_in(name: str, *, max_cost: Dollars | None = None) -> LoadedModel:
    """Return a Gemini model where a key is set in the environment, and otherwise the offline stand-in.

    Raises:
        InvalidArgument, EveryRequestFails, ReplyCacheError: as for `load_model`.
    """
    if key_variable():
        return load_model(name, max_cost=max_cost)
    return make_ready(ScriptedModel(answer_by_pixels, keep_prompts=False), meter=Meter())


def answer_by_pixels(prompt: Prompt) -> str:
    """Reply with the labels of those neighbours in the prompt that correlate best with the query, pixel by pixel.

    It goes by nothing but the pictures that the prompt shows each below a line with its label, so that prompts which
    show others get other answers. Where a prompt shows none, it agrees with the vote.
    """
    codes = {quoted(name): code for code, label in prompt.candidates.items() for name in (label, display_name(label))}
    seen = list(_pictures(prompt))
    query = _looked_at(seen[-1][1])
    near = [(float(query @ _looked_at(picture)), codes[label]) for label, picture in seen if label in codes]
    order = sorted(range(len(near)), key=lambda place: -near[place][0])
    ranking = list(dict.fromkeys(near[place][1] for place in order)) or [next(iter(prompt.candidates), NONE_CODE)]
    answer = {
        "description": "a comparison of pixels by a stand-in, without any understanding",
        "evidence": [place + 1 for place in order[:_EVIDENCE]],
        "ranking": ranking[:5],
        "confidence": round(max(0.0, near[order[0]][0]), 2) if near else 0.5,
    }
    return json.dumps(answer)


def _pictures(prompt: Prompt) -> Iterator[tuple[str, ImagePart]]:
    """Yield the prompt's pictures, each with what the line before it quotes: nothing for the query, the last one."""
    before = ""
    for part in prompt.parts:
        if isinstance(part, TextPart):
            before = part.text
        else:
            named = _QUOTED.findall(before.rsplit("\n", 1)[-1])
            yield (named[-1] if named else ""), part


def _looked_at(picture: ImagePart) -> Float[np.ndarray, " values"]:
    small = np.asarray(decode(picture.encoded).resize(_PIXELS), np.float64).ravel()
    centred = small - small.mean()
    length = float(np.linalg.norm(centred)) or 1.0
    return np.asarray(centred / length)
