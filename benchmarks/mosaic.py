"""What contact sheets save and cost: tokens, bytes, and CPU to draw and to send a request of fifty neighbours.

    python benchmarks/mosaic.py

The peer is rerank_v1, which sends each neighbour as a picture of its own; sending is measured by our own client and by
the bare SDK, to a server on 127.0.0.1 that answers at once. Pictures are made up, of ImageNet's size and grain, and
kept as thumbnails of 224 pixels. CPU is that of all threads, the best of three rounds.
"""

import time
from collections.abc import Callable

from rerank import KEY, NEIGHBORS, cpu_of, photograph, server

from agent.keys import Secret
from agent.models.gemini import Gemini
from agent.models.wire import to_body
from agent.types import Request
from prompts.cost import PromptEstimate, estimate_prompt
from prompts.render import Exemplar, query_picture, render
from prompts.template import load_template
from prompts.types import Prompt, TextPart
from retrieval.images import thumbnail
from retrieval.support.terminal import print_table

PEER = "rerank_v1"
LAYOUTS = ("mosaic_v1", "mosaic_v1@10x5", "mosaic_v1@4x4", "mosaic_v1@7x8", "labels_only_v1", "zero_shot_v1")
QUERIES = 16
MODELS = ("gemini-3.5-flash-lite", "gemini-2.5-flash")  # a fixed number a picture; a number for each 768 pixels square
CLASSES = ("tench", "construction crane", "German shorthaired pointer", "great white shark", "hen", "Käsekuchen")


def main() -> None:
    """Print both tables."""
    asked = [make_query(number) for number in range(QUERIES)]
    names = (PEER, *LAYOUTS)
    prompts = {name: [ask(name) for ask in asked] for name in names}
    print_sizes(prompts)
    drawing = {name: 1000 * min(draw_seconds(name, asked) for _ in range(3)) for name in names}
    with server(latency=0.0) as url:
        print_cpu(url, prompts, drawing)


def make_query(number: int) -> Callable[[str], Prompt]:
    """Return what makes a prompt of a template's name, for one query and its neighbours."""
    small = [thumbnail(photograph(100 * number + one), longest_side=224) for one in range(NEIGHBORS)]
    exemplars = [Exemplar(CLASSES[n % len(CLASSES)], picture, 0.01 * n) for n, picture in enumerate(small)]
    query = query_picture(photograph(100 * number + 99))
    return lambda name: render(load_template(name), query, exemplars, dict.fromkeys(CLASSES, 1 / len(CLASSES)))


def print_sizes(prompts: dict[str, list[Prompt]]) -> None:
    """Print pictures, bytes and estimated tokens of each way of showing fifty neighbours."""

    def mean(name: str, model: str, field: str) -> float:
        estimates: list[PromptEstimate] = [estimate_prompt(prompt, model=model) for prompt in prompts[name]]
        return sum(getattr(estimate, field) for estimate in estimates) / len(estimates)

    rows = []
    for name in prompts:
        row = [name, f"{mean(name, MODELS[0], 'pictures'):.0f}", f"{mean(name, MODELS[0], 'kilobytes'):,.0f}"]
        for model in MODELS:
            tokens = mean(name, model, "prompt_tokens")
            row += [f"{tokens:,.0f}", f"{mean(PEER, model, 'prompt_tokens') / tokens:.1f} ×"]
        rows.append(row)
    fewer = [column for model in MODELS for column in (f"tokens, {model}", "fewer")]
    print_table([f"{NEIGHBORS} neighbours", "pictures", "kB", *fewer], rows)


def draw_seconds(name: str, asked: list[Callable[[str], Prompt]]) -> float:
    """Return CPU seconds that it takes to make a prompt of ready thumbnails."""
    began = time.process_time()
    for ask in asked:
        ask(name)
    return (time.process_time() - began) / len(asked)


def print_cpu(url: str, prompts: dict[str, list[Prompt]], drawing: dict[str, float]) -> None:
    """Print CPU to make a prompt, to send it, and both beside the peer's."""
    sdk, ours = bare_sdk(url), Gemini(MODELS[0], Secret(KEY), base_url=url)
    totals: dict[str, tuple[float, float]] = {}
    rows = []
    for name, made in prompts.items():
        requests = [Request(prompt) for prompt in made] * 4
        by_sdk, by_ours = (1000 * min(cpu_of(way, requests) for _ in range(3)) for way in (sdk, ours.generate))
        totals[name] = (drawing[name] + by_sdk, drawing[name] + by_ours)
        fewer = [f"{peer / own:.1f} ×" for peer, own in zip(totals[PEER], totals[name], strict=True)]
        rows.append([name, f"{drawing[name]:.1f}", f"{by_sdk:.1f}", fewer[0], f"{by_ours:.1f}", fewer[1]])
    columns = ["CPU, ms a request", "to make", "to send, bare SDK", "less in all", "to send, ours", "less in all"]
    print_table(columns, rows)


def bare_sdk(url: str) -> Callable:
    """Return a way to send a request by google-genai as its documentation does."""
    from google import genai
    from google.genai import types

    client = genai.Client(
        api_key=KEY, vertexai=False, http_options=types.HttpOptions(base_url=url, api_version="v1beta")
    )

    async def send(request: Request) -> None:
        parts = [
            types.Part.from_text(text=part.text)
            if isinstance(part, TextPart)
            else types.Part.from_bytes(data=part.encoded, mime_type=part.mime_type)
            for part in request.prompt.parts
        ]
        schema = to_body(request)["generationConfig"]["responseJsonSchema"]
        config = types.GenerateContentConfig(response_mime_type="application/json", response_json_schema=schema)
        await client.aio.models.generate_content(model=MODELS[0], contents=parts, config=config)

    return send


if __name__ == "__main__":
    main()
