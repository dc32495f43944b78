"""How long `vmem serve` takes from a picture to its neighbours on the page, at 100,000 items.

    python benchmarks/serve.py [--items 100000] [--dimension 384] [--queries 20] [--k 50]

The real command in a process of its own, and headless Chromium before it. Every picture is sent twice: what is timed is
the second time, when the embedder's answer is kept already, so that all but the embedding counts: upload, decoding,
search, vote, the page's update, and the thumbnails in the window loaded and drawn. The limit is 300 ms. Vectors are
clustered, with some around those of the queries, so that each query has neighbours and thumbnails of its own.
"""

import argparse
import io
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from clustered import draw
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from retrieval import VisualMemory
from retrieval.embedding import EmbeddedBatch
from retrieval.images import thumbnail
from retrieval.sources import Item
from tests.browser import Browser
from tests.serving import serving

LIMIT_MS = 300
NEAR = 100  # items around each query
BATCH = 10_000
WATCH = """
window.plainFetch = window.plainFetch || window.fetch;
window.fetch = (...given) => { window.began = performance.now(); return window.plainFetch(...given); };
window.shown = new Promise(resolve => {
  const before = document.querySelector('.query img')?.src;
  const look = () => {
    const query = document.querySelector('.query img');
    const there = query && query.src !== before && !document.querySelector('.waiting').innerText;
    const visible = [...document.querySelectorAll('.pictures img')].filter(
      image => image.getBoundingClientRect().top < innerHeight);
    if (there && visible.length && visible.every(image => image.complete && image.naturalWidth)) {
      requestAnimationFrame(() => resolve(performance.now() - window.began));
    } else requestAnimationFrame(look);
  };
  look();
}); 0
"""


class Ready:
    """Vectors that are there already, in place of an embedder."""

    def __init__(self, vectors, execution):
        self.vectors = vectors
        self._execution = execution

    def made_how(self):
        """Return how they count as made."""
        return self._execution

    def stream(self, items, *, image_of, thumbnail_pixels=None):
        """Yield items with their vectors, and thumbnails of one colour and some noise."""
        items = list(items)
        random = np.random.default_rng(0)
        for start in range(0, len(items), BATCH):
            some = items[start : start + BATCH]
            pixels = random.integers(0, 255, (len(some), 8, 8, 3), np.uint8)
            small = [thumbnail(Image.fromarray(few).resize((64, 64)), longest_side=64) for few in pixels]
            yield EmbeddedBatch(some, self.vectors[start : start + len(some)], small, [None] * len(some), [])


def small_dinov2(folder, dimension):
    """Save a small DINOv2 with random weights."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(hidden_size=dimension, num_hidden_layers=2, num_attention_heads=6)).save_pretrained(folder)
    return folder


def make_queries(folder, count):
    """Write pictures that differ much, and return their files."""
    random = np.random.default_rng(1)
    files = []
    for number in range(count):
        pixels = random.integers(0, 255, (3 + number % 5, 4 + number % 7, 3), np.uint8)
        files.append(folder / f"{number}.jpg")
        files[-1].write_bytes(as_jpeg(Image.fromarray(pixels).resize((640, 480), Image.Resampling.NEAREST)))
    return files


def as_jpeg(image):
    """Return a picture as a file's bytes."""
    encoded = io.BytesIO()
    image.save(encoded, "JPEG")
    return encoded.getvalue()


def build(folder, queries, items, dimension):
    """Make the memory."""
    memory = VisualMemory.create(folder / "memory", embedder=str(small_dinov2(folder / "model", dimension)))
    centres = memory.embed([str(query) for query in queries])
    vectors, classes, _, _ = draw(items, dimension, queries=1)
    spread = np.random.default_rng(2).normal(size=(len(centres) * NEAR, dimension)).astype(np.float32)
    near = np.repeat(centres, NEAR, axis=0) + 0.02 / np.sqrt(dimension) * spread
    vectors[: len(near)] = near / np.linalg.norm(near, axis=1, keepdims=True)
    ready = Ready(vectors, memory.embedder.execution)
    listed = [Item(f"item {number}", f"class {label}", str(number)) for number, label in enumerate(classes)]
    memory.add(listed, embedded_by=ready)
    memory.build_index()
    return memory


def main():
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--k", type=int, default=50)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        queries = make_queries(folder, chosen.queries)
        memory = build(folder, queries, chosen.items, chosen.dimension)
        print(f"{memory!r}, {memory.stats().index} index")
        with serving(folder, memory.path, "--k", chosen.k) as served, Browser(folder / "profile") as browser:
            browser.open_url(served.url)
            browser.wait_for("document.querySelector('input[type=file]') !== null && window.did_handshake")
            first = [send(browser, query) for query in queries]
            times = [send(browser, query) for query in queries]
    print(f"with embedding, the first time: median {statistics.median(first):.0f} ms (the very first {first[0]:.0f})")
    worst = max(times)
    print(f"after embedding: median {statistics.median(times):.0f} ms, worst {worst:.0f} ms of {len(times)}")
    print(f"{worst / LIMIT_MS:.2f} of the {LIMIT_MS} ms allowed, at worst")


def send(browser, query):
    """Send a picture, and return after how many ms its neighbours were seen."""
    browser.evaluate(WATCH)
    browser.upload("input[type=file]", query)
    return browser.evaluate("window.shown")


if __name__ == "__main__":
    main()
