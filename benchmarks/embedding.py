"""Embedding from files to vectors, every path beside the loop that people copy from a model's page.

    python benchmarks/embedding.py [--images ../shared/data/imagenet-sample] [--models vits14 vitb14 vitl14 \
        efficientnet-lite0] [--rounds 2]

The loop: one process, Pillow, `AutoImageProcessor`, batches of 16, eager attention (for EfficientNet-Lite0, which
transformers does not have, the same in plain torch). DINOv2 has its real shapes and random weights, EfficientNet-Lite0
its real weights. Each path runs in a process of its own, in turn, and keeps its best round. The pictures are repeated
as often as the model needs to run for some seconds.

Columns: pictures a second from files to vectors, and as a multiple of the loop's; pictures a second of the model alone
on prepared pictures, and what share of it the whole way reaches; share of time in which the model had nothing to do;
smallest and mean cosine to the loop's vectors; peak memory of the process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

SHAPES = {"vits14": (384, 12, 6), "vitb14": (768, 12, 12), "vitl14": (1024, 24, 16), "vitg14": (1536, 40, 24)}
PICTURES = {"vits14": 256, "vitb14": 96, "vitl14": 32, "vitg14": 16, "efficientnet-lite0": 1024}
OURS = {
    "torch float32": {"backend": "torch", "precision": "float32"},
    "torch bfloat16": {"backend": "torch", "precision": "bfloat16"},
    "openvino float32": {"backend": "openvino", "precision": "float32"},
    "openvino bfloat16": {"backend": "openvino", "precision": "bfloat16"},
    "openvino int8": {"backend": "openvino", "precision": "int8"},
}
ON_GPU = {
    "torch float32": {"device": "cuda", "precision": "float32"},
    "torch float16": {"device": "cuda", "precision": "float16"},
    "torch bfloat16": {"device": "cuda", "precision": "bfloat16"},
}
LOOPS = ("loop, eager", "loop, SDPA")
BATCH = 16  # of the loop


def save_model(model, folder):
    """Save DINOv2 of a real shape with random weights, and the processor that its pages on the hub name."""
    import torch
    from transformers import Dinov2Config, Dinov2Model
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    width, layers, heads = SHAPES[model]
    torch.manual_seed(0)
    giant = {"use_swiglu_ffn": True} if model == "vitg14" else {}
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=518,
        patch_size=14,
        **giant,
    )
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        resample=3,
        do_convert_rgb=True,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)


def usual_loop(place, files, path, device):
    """Embed as the examples do; return seconds and vectors of unit length."""
    import torch
    from PIL import Image

    if place == "efficientnet-lite0":
        process, forward = plain_efficientnet()
    else:
        from transformers import AutoImageProcessor, AutoModel

        processor = AutoImageProcessor.from_pretrained(place)
        attention = "eager" if "eager" in path else "sdpa"
        module = AutoModel.from_pretrained(place, attn_implementation=attention).eval().to(device)

        def process(pictures):
            return processor(pictures, return_tensors="pt")["pixel_values"].to(device)

        def forward(pixels):
            return module(pixel_values=pixels).pooler_output

    def embed(some):
        with torch.no_grad():
            return forward(process([Image.open(file).convert("RGB") for file in some])).cpu().numpy()

    embed(files[:BATCH])
    started = time.perf_counter()
    vectors = np.concatenate([embed(files[first : first + BATCH]) for first in range(0, len(files), BATCH)])
    seconds = time.perf_counter() - started
    return seconds, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def plain_efficientnet():
    """Return EfficientNet-Lite0 as its package's page uses it: the same preprocessing, step by step."""
    import torch

    from retrieval.embedders.checkpoints import find_efficientnet_lite0

    module = find_efficientnet_lite0().load().backbone

    def process(pictures):
        return torch.stack([one_picture(picture) for picture in pictures])

    def one_picture(picture):
        short = min(picture.size)
        scaled = picture.resize(tuple(int(side * 256 / short) for side in picture.size), 3)
        left, top = (scaled.width - 224) // 2, (scaled.height - 224) // 2
        cropped = np.asarray(scaled.crop((left, top, left + 224, top + 224)), np.float32)
        return torch.from_numpy((cropped - 127) / 128).permute(2, 0, 1)

    return process, lambda pixels: module.extract_features(pixels).mean(dim=(2, 3))


class Watched:
    """An embedder that notes when it was at work."""

    def __init__(self, embedder):
        self.embedder = embedder
        self.spans = []

    def __getattr__(self, name):
        return getattr(self.embedder, name)

    def embed(self, pixels):
        """Embed, and note from when to when."""
        started = time.perf_counter()
        vectors = self.embedder.embed(pixels)
        self.spans.append((started, time.perf_counter()))
        return vectors

    def waiting(self):
        """Return the share of the time from first to last in which no call was running."""
        spans = sorted(self.spans)
        busy, reached = 0.0, spans[0][0]
        for started, ended in spans:
            busy += max(0.0, ended - max(started, reached))
            reached = max(reached, ended)
        return 1 - busy / (reached - spans[0][0])


def ours(place, files, path, device):
    """Embed by the pipeline; return seconds, vectors, and the figures that only it has."""
    from retrieval.embedders import load_embedder
    from retrieval.embedders.base import Calibration
    from retrieval.embedding import embed_images
    from retrieval.images import decode

    asked = ON_GPU[path] if device == "cuda" else {"device": "cpu"} | OURS[path]
    embedder = load_embedder(place, **asked, calibration=Calibration(sorted(set(files))[:128]))
    prepared = [embedder.prepare(decode(file)) for file in files[: 4 * embedder.batch_size]]
    batches = [np.stack(prepared[n : n + embedder.batch_size]) for n in range(0, len(prepared), embedder.batch_size)]
    embedder.embed(batches[0])
    started, done = time.perf_counter(), 0
    while done < len(files) / 2:
        done += len(embedder.embed(batches[done // embedder.batch_size % len(batches)]))
    alone = done / (time.perf_counter() - started)
    watched = Watched(embedder)
    started = time.perf_counter()
    vectors = np.concatenate([b.vectors for b in embed_images(files, watched, image_of=lambda file: file)])
    return time.perf_counter() - started, vectors, {"alone": alone, "waiting": watched.waiting()}


def one_path(options):
    """Run a path in this process, print its figures as JSON and save its vectors."""
    warnings.simplefilter("ignore")
    some = sorted(file for file in Path(options.images).rglob("*") if file.is_file())
    files = [some[number % len(some)] for number in range(options.pictures)]
    if options.path in LOOPS:
        (seconds, vectors), more = usual_loop(options.place, files, options.path, options.device), {}
    else:
        seconds, vectors, more = ours(options.place, files, options.path, options.device)
    np.save(options.vectors, vectors)
    # Not getrusage, which counts what the parent held when it started this process.
    (peak,) = (int(line.split()[1]) / 2**10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(json.dumps({"rate": len(files) / seconds, "peak": peak} | more))


def measure(model, place, options, folder):
    """Run every path of a model in turn, round after round, and print the table."""
    best = {}
    loops = LOOPS if model in SHAPES else LOOPS[:1]
    pictures = PICTURES[model] * (32 if options.device == "cuda" else 1)
    for _ in range(options.rounds):
        for path in (*loops, *(ON_GPU if options.device == "cuda" else OURS)):
            arguments = ["--place", place, "--path", path, "--vectors", folder / f"{path}.npy"]
            arguments += ["--images", options.images, "--pictures", pictures, "--device", options.device]
            ran = subprocess.run([sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True)
            if ran.returncode:
                print(f"{model} {path}: {ran.stderr.strip().splitlines()[-1]}")
                continue
            figures = json.loads(ran.stdout.splitlines()[-1])
            best[path] = max(best.get(path, figures), figures, key=lambda found: found["rate"])
    expected = np.load(folder / f"{loops[0]}.npy")
    print(f"\n{model}, {pictures} pictures")
    print(f"{'path':20}{'images/s':>9}{'× loop':>8}{'alone':>8}{'reached':>9}{'waiting':>9}{'cosine':>18}{'peak':>9}")
    for path, figures in best.items():
        cosines = (np.load(folder / f"{path}.npy") * expected).sum(axis=1)
        more = " " * 26
        if "alone" in figures:
            more = f"{figures['alone']:8.1f}{figures['rate'] / figures['alone']:9.2f}{figures['waiting']:9.1%}"
        print(
            f"{path:20}{figures['rate']:9.1f}{figures['rate'] / best[loops[0]]['rate']:8.2f}"
            f"{more}{cosines.min():10.6f} {cosines.mean():.5f}"
            f"{figures['peak']:6.0f} MB",
            flush=True,
        )


def main():
    """Measure the models asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="../shared/data/imagenet-sample")
    parser.add_argument("--models", nargs="+", default=["vits14", "vitb14", "vitl14", "efficientnet-lite0"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    for name in ("--place", "--path", "--vectors"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--pictures", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.path:
        one_path(options)
        return
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            place = "efficientnet-lite0" if model not in SHAPES else Path(folder) / model
            if model in SHAPES:
                save_model(model, place)
            measure(model, place, options, Path(folder))


if __name__ == "__main__":
    main()
