"""Memory while pictures stream through an embedder, however many they are.

    python benchmarks/stream.py [--images ../shared/data/tiny-imagenet/train] [--pictures 20000]

First the files of a folder, then pictures that are made one by one and never end. Prints the process's memory as it
goes, and the most that it held in the last quarter as a ratio of the most in the first.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
from PIL import Image

from retrieval.embedders import load_embedder
from retrieval.embedding import embed_images


def endless():
    """Yield pictures of ImageNet's size, none like another."""
    draw = np.random.default_rng(0)
    while True:
        coarse = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        yield Image.fromarray(coarse).resize((500, 375))


def resident_megabytes():
    """Return the memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def watch(name, items, embedder, pictures):
    """Stream the items and print what the process holds as they pass."""
    started, done, held = time.perf_counter(), 0, []
    shown = pictures // 8
    for batch in embed_images(
        itertools.islice(items, pictures), embedder, image_of=lambda item: item, thumbnail_pixels=224
    ):
        done += len(batch.items)
        held.append(resident_megabytes())
        if done // shown > (done - len(batch.items)) // shown:
            print(f"{name}: {done:6,} pictures, {held[-1]:5.0f} MB", flush=True)
    quarter = len(held) // 4
    ratio = max(held[-quarter:]) / max(held[:quarter])
    print(f"{name}: {done / (time.perf_counter() - started):.0f} pictures/s; last quarter / first: {ratio:.3f}")


def main():
    """Watch a folder, then the endless stream."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=Path("../shared/data/tiny-imagenet/train"))
    parser.add_argument("--pictures", type=int, default=20_000)
    options = parser.parse_args()
    embedder = load_embedder("efficientnet-lite0", device="cpu")
    files = sorted(file for file in options.images.rglob("*") if file.is_file())
    watch("folder", files, embedder, min(options.pictures, len(files)))
    watch("endless", endless(), embedder, options.pictures)


if __name__ == "__main__":
    main()
