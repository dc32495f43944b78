"""What the second stage costs beside the network: CPU, throughput, cache hits, prompts.

    python benchmarks/rerank.py

A server of its own process speaks Gemini's protocol on 127.0.0.1 and answers after a second, or at once. Requests hold
51 pictures of 224 pixels. Each table names its peer: the bare SDK and a plain HTTP client with the same body for CPU,
the ideal of as many answers a second as are in flight for throughput. Best of three rounds.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from agent.calls.background import run
from agent.calls.cached import Cached, ReplyStore
from agent.calls.ready import LoadedModel, make_ready
from agent.classify import Stages
from agent.keys import Secret
from agent.models.gemini import Gemini
from agent.models.scripted import ScriptedModel
from agent.models.wire import to_body
from agent.settings import Settings, TransportConfig
from agent.types import Request
from prompts.render import Exemplar, render
from prompts.template import load_template
from retrieval import VisualMemory
from retrieval.images import thumbnail
from retrieval.support.terminal import print_table

NEIGHBORS = 50
KEY = "benchmark-key"
ROOT = Path(__file__).parents[1]


def main() -> None:
    """Print all tables."""
    requests = [make_request(number) for number in range(64)]
    size = sum(len(json.dumps(to_body(request))) for request in requests) / len(requests)
    print(f"{NEIGHBORS + 1} pictures a request, {size / 1000:,.0f} kB as JSON")
    with server(latency=0.0) as url:
        cpu(url, requests)
    with server(latency=1.0) as url:
        throughput(url, requests)
    cache_hits(requests)
    prompts()


def cpu(url: str, requests: list[Request]) -> None:
    """Print CPU seconds a request, of all threads of this process."""
    import httpx2
    from google import genai
    from google.genai import types

    sdk = genai.Client(
        api_key=KEY,
        vertexai=False,
        http_options=types.HttpOptions(
            base_url=url, api_version="v1beta", retry_options=types.HttpRetryOptions(attempts=1)
        ),
    )
    plain = httpx2.AsyncClient(timeout=60)

    async def by_sdk(request: Request) -> None:
        body = to_body(request)
        parts = [
            types.Part.from_text(text=part.text)
            if hasattr(part, "text")
            else types.Part.from_bytes(data=part.encoded, mime_type=part.mime_type)
            for part in request.prompt.parts
        ]
        config = types.GenerateContentConfig(
            temperature=0.0,
            max_output_tokens=1024,
            response_mime_type="application/json",
            response_json_schema=body["generationConfig"]["responseJsonSchema"],
        )
        await sdk.aio.models.generate_content(model="gemini-3.5-flash-lite", contents=parts, config=config)

    async def by_plain_client(request: Request) -> None:
        address = f"{url}/v1beta/models/gemini-3.5-flash-lite:generateContent"
        headers = {"x-goog-api-key": KEY, "Content-Type": "application/json"}
        (await plain.post(address, content=json.dumps(to_body(request)), headers=headers)).json()

    with tempfile.TemporaryDirectory() as folder:
        bare = Gemini("gemini-3.5-flash-lite", Secret(KEY), base_url=url)
        ready = make_ready(bare, store=ReplyStore(Path(folder) / "replies"))
        counter = iter(range(10**9))

        async def all_in(request: Request) -> None:
            await ready.generate(replace(request, replicate=next(counter)))  # each one is new to the cache

        async def bare_ours(request: Request) -> None:
            await bare.generate(request)

        ways: dict[str, Callable[[Request], Awaitable[None]]] = {
            "plain HTTP client": by_plain_client,
            "bare SDK": by_sdk,
            "ours, bare": bare_ours,
            "ours, cached, retried, counted": all_in,
        }
        milliseconds = {name: 1000 * min(cpu_of(way, requests) for _ in range(3)) for name, way in ways.items()}
    sdk_ms = milliseconds["bare SDK"]
    rows = [(name, f"{ms:.1f}", f"{sdk_ms / ms:.1f} ×") for name, ms in milliseconds.items()]
    print_table(["CPU a request", "ms", "less than the SDK's"], rows)
    run(plain.aclose())
    run(sdk.aio.aclose())


def cpu_of(way: Callable[[Request], Awaitable[None]], requests: list[Request]) -> float:
    """Return CPU seconds a request, eight in flight."""

    async def everything() -> None:
        room = asyncio.Semaphore(8)

        async def one(request: Request) -> None:
            async with room:
                await way(request)

        await asyncio.gather(*map(one, requests))

    began = time.process_time()
    run(everything())
    return (time.process_time() - began) / len(requests)


def throughput(url: str, requests: list[Request]) -> None:
    """Print answers a second from a server that takes one second for each."""
    rows = []
    for in_flight in (1, 16, 64):
        bare = Gemini("gemini-3.5-flash-lite", Secret(KEY), base_url=url)
        model = make_ready(bare, transport=TransportConfig(concurrency=in_flight))
        asked = [requests[number % len(requests)] for number in range(max(4, 5 * in_flight))]

        async def everything(model: LoadedModel = model, asked: list[Request] = asked) -> None:
            await asyncio.gather(*(model.generate(request) for request in asked))

        began = time.perf_counter()
        run(everything())
        rate = len(asked) / (time.perf_counter() - began)
        rows.append((in_flight, f"{rate:.1f}", f"{rate / in_flight:.2f}"))
    print_table(["in flight, 1 s server", "answers a second", "of the ideal"], rows)


def cache_hits(requests: list[Request]) -> None:
    """Print how long an answer from the cache takes, with the hashing of all pictures."""
    with tempfile.TemporaryDirectory() as folder:
        model = Cached(ScriptedModel(lambda prompt: "A"), ReplyStore(Path(folder) / "replies"))

        async def all_of_them() -> float:
            began = time.perf_counter()
            for request in requests:
                await model.generate(request)
            return (time.perf_counter() - began) / len(requests)

        first, *later = [run(all_of_them()) for _ in range(4)]
    rows = [
        ("hit", f"{1000 * min(later):.2f}", f"{2 / (1000 * min(later)):.1f} ×"),
        ("miss, stored", f"{1000 * first:.2f}", ""),
    ]
    print_table(["cache of replies", "ms", "below the limit of 2 ms"], rows)


def prompts() -> None:
    """Print how long a prompt takes, from a query's file to parts, beside making it from the neighbours' own files."""
    template = load_template("rerank_v1")
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number in range(400):
            files.append(Path(folder) / "pictures" / str(number % 20) / f"{number}.jpg")
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            photograph(number).save(files[-1], quality=90)
        memory = VisualMemory.create(Path(folder) / "memory", embedder="efficientnet-lite0")
        memory.add_folder(Path(folder) / "pictures")
        queries = files[:30]
        vectors = memory.embed(queries)
        questions = list(Stages(memory, Settings(k=NEIGHBORS), template).questions(queries, vectors))
        by_id = {f"{file.parent.name}/{file.name}": file for file in files}

        def from_thumbnails() -> None:
            for question in questions:
                question.prompt(template, memory)

        def from_files() -> None:
            for question in questions:
                exemplars = [
                    Exemplar(n.label, thumbnail(Image.open(by_id[n.id]).convert("RGB"), longest_side=224))
                    for n in question.neighbors
                ]
                query = thumbnail(Image.open(str(question.image)).convert("RGB"), longest_side=384)
                shares = dict(zip(question.votes.labels, question.votes.shares, strict=True))
                render(template, query, exemplars, shares)

        stored, files_own = (
            min(seconds_of(way) for _ in range(3)) / len(questions) for way in (from_thumbnails, from_files)
        )
    rows = [
        ("from stored thumbnails", f"{1000 * stored:.1f}", f"{files_own / stored:.0f} ×"),
        ("from the neighbours' files", f"{1000 * files_own:.1f}", ""),
    ]
    print_table(["a prompt of 50 neighbours", "ms", "faster"], rows)


def seconds_of(way: Callable[[], None]) -> float:
    """Return how long something takes."""
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


def photograph(number: int) -> Image.Image:
    """Return a picture of ImageNet's size that compresses about as a photograph does."""
    draw_from = np.random.default_rng(number)
    coarse = Image.fromarray(draw_from.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375))
    grain = draw_from.normal(0, 12, (375, 500, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))


def make_request(number: int) -> Request:
    """Return a request of fifty neighbours and a query, unlike any other number's."""
    small = [thumbnail(photograph(1000 * number + one), longest_side=224) for one in range(NEIGHBORS + 1)]
    exemplars = [Exemplar(f"class {one % 9}", picture) for one, picture in enumerate(small[:-1])]
    candidates = {f"class {one}": 1 / 9 for one in range(9)}
    return Request(render(load_template("rerank_v1"), small[-1], exemplars, candidates))


@contextmanager
def server(*, latency: float) -> Iterator[str]:
    """Run the tests' server in a process of its own, and yield its address."""
    command = [
        sys.executable,
        "-m",
        "tests.gemini_server",
        "--latency",
        str(latency),
        "--key",
        KEY,
        "--no-check-images",
    ]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert running.stdout
    try:
        yield running.stdout.readline().strip()
    finally:
        running.kill()
        running.communicate()


if __name__ == "__main__":
    main()
