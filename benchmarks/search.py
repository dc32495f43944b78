r"""Search of a large memory beside raw ScaNN, FAISS and exact comparison: speed, recall, memory, disk.

    python benchmarks/search.py [--items 1000000] [--dimension 384] [--queries 1000] [--noise 2] [--keep DIR] \
        [--only STEP ...] [--faiss INDEX ...]

Clustered unit vectors of 1,000 classes, float32; k = 50. With noise 2 classes lie apart; with 2.25 they overlap:
raw ScaNN then needs an eighth of the leaves for a recall of 0.99. Searched are a memory made by
`add_vectors`, ScaNN through its own wrapper, FAISS (Flat, HNSW, IVF, product quantisation with refinement), and a
matrix product. Every build and every measurement runs in a process of its own, one after the other; every setting keeps
its best of three rounds, and each path is shown at the fastest of its settings that reaches a recall. A path's settings
end with the first that finds more than 0.9997. With --keep, what was built there is used again, so that a later run
only measures; --only runs some of the steps.

Prints of each build: seconds, peak memory of its process and bytes on disk, both over the size of the float32 matrix.
Then queries a second in batches, ratios, and the median of one query alone, at each recall; seconds to open a built
memory and to answer; recall after 10 % churn beside a fresh build; agreement of votes with those on float32.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import search_peers as peers
from clustered import NOISE, draw, nearest_exactly, recall
from search_memory import RECALLS, K, churn, load, open_memory, opening, ours, remember, voting

CHURN = 0.05  # of the items forgotten, and as many new ones added: 10 % in all
SCANN = ("scann-1.4", "scann-2")  # leaves, as multiples of the root of the items
FAISS = ("flat", "hnsw", "ivf", "pq", "ivfpq")
ALL = 0.9997  # a recall beyond which nothing is asked for


def make_data(folder, items, dimension, queries, noise):
    """Draw the vectors, more for the churn, and queries; find the true neighbours before and after it."""
    vectors, classes, asked, truths = draw(items + round(CHURN * items), dimension, queries=queries, noise=noise)
    gone = np.random.default_rng(1).choice(items, len(vectors) - items, replace=False)
    kept = np.setdiff1d(np.arange(len(vectors)), gone)
    arrays = {"classes": classes, "queries": asked, "query_classes": truths, "gone": gone, "kept": kept}
    arrays |= {"vectors": vectors[:items], "new": vectors[items:], "truth": nearest_exactly(vectors[:items], asked, K)}
    arrays["churned_truth"] = kept[nearest_exactly(vectors[kept], asked, K)]
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def build(folder, what):
    """Build one thing in its folder."""
    target = folder / what.replace("memory-table", "memory")
    if what == "memory-table":
        vectors, classes = load(folder, "vectors", "classes", mapped=True)
        remember(target, vectors, classes[: len(vectors)], np.arange(len(vectors)))
    elif what == "memory-index":
        open_memory(folder / "memory").build_index()
    elif what == "fresh":
        vectors, new, classes, kept = load(folder, "vectors", "new", "classes", "kept")
        remember(target, np.concatenate([vectors, new])[kept], classes[kept], kept)
        open_memory(target).build_index()
    else:
        target.mkdir()
        (vectors,) = load(folder, "vectors")
        made_by, name = what.split("-")
        (peers.build_scann if made_by == "scann" else peers.build_faiss)(name, vectors, target)


def measure(folder, what):
    """Return rows (setting, recall, queries a second, milliseconds alone) of one path."""
    queries, truth = load(folder, "queries", "truth")
    items, dimension = load(folder, "vectors", mapped=True)[0].shape
    if what == "memory":
        searches = ours(folder)
    elif what == "exact":
        from retrieval.indexes.exact import ExactIndex

        index = ExactIndex(*load(folder, "vectors"))
        searches = {"matrix product": lambda some: index.search(some, K)[0]}
    elif what in SCANN:
        searches = peers.open_scann(what.removeprefix("scann-"), folder / what, items)
    else:
        searches = peers.open_faiss(what.removeprefix("faiss-"), folder / what, items, dimension)
    rows = []
    for setting, search in searches.items():
        rows.append([setting, *rates(search, queries, truth)])
        if rows[-1][1] > ALL:  # those that follow look further, and are slower
            break
    return rows


def rates(search, queries, truth):
    """Return recall, queries a second in one batch, and the median milliseconds of one query alone."""
    found, seconds, alone = search(queries), [], []
    for _ in range(3):
        seconds.append(timed(search, queries))
        each = [timed(search, queries[row : row + 1]) for row in range(min(200, len(queries)))]
        alone.append(float(np.median(each)))
    return recall(found, truth), len(queries) / min(seconds), 1000 * min(alone)


def timed(search, queries):
    """Return the seconds that a search takes."""
    started = time.perf_counter()
    search(queries)
    return time.perf_counter() - started


def size(folder):
    """Return the bytes of a folder's files; one of two names counts once."""
    return sum({file.stat().st_ino: file.stat().st_size for file in folder.rglob("*") if file.is_file()}.values())


def in_a_process(step, folder, *arguments):
    """Run one of this file's functions in a process of its own; return what it returns, its seconds and peak memory."""
    command = [sys.executable, __file__, "--step", step, str(folder), *map(str, arguments)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    return json.loads(answer.splitlines()[-1])


def run_step(step, folder, *arguments):
    """Print what a function returns, with its seconds and the process's peak memory."""
    started = time.perf_counter()
    returned = STEPS[step](Path(folder), *map(as_number, arguments))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"returned": returned, "seconds": time.perf_counter() - started, "peak": peak}))


def as_number(text):
    """Return a command line's number, or the text that is none."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


STEPS = {
    "make_data": make_data,
    "build": build,
    "measure": measure,
    "opening": opening,
    "voting": voting,
    "churn": churn,
}


def report_builds(folder, matrix, faiss):
    """Build what is not there yet, and print what each took."""
    print(f"\n{'build':14} {'seconds':>8} {'peak/matrix':>12} {'disk/matrix':>12}")
    for what in ("memory-table", "memory-index", *SCANN, *(f"faiss-{name}" for name in faiss), "fresh"):
        note = folder / f"{what}.json"
        if not note.exists():
            note.write_text(json.dumps(in_a_process("build", folder, what)))
        took, kept = json.loads(note.read_text()), folder / ("memory" if what.startswith("memory") else what)
        print(f"{what:14} {took['seconds']:8.1f} {took['peak'] / matrix:12.2f} {size(kept) / matrix:12.2f}", flush=True)


def report_rates(folder, faiss):
    """Measure every path, and print the fastest setting of each at each recall, beside ours."""
    paths = ("memory", *SCANN, *(f"faiss-{name}" for name in faiss), "exact")
    rows = {path: in_a_process("measure", folder, path)["returned"] for path in paths}
    for least in RECALLS:
        print(f"\nrecall@{K} of {least} or more:")
        best = {
            path: max((row for row in rows[path] if row[1] >= least), key=lambda row: row[2], default=None)
            for path in paths
        }
        for path, row in best.items():
            if row is None:
                print(f"  {path:12} not reached (at most {max(row[1] for row in rows[path]):.4f})")
                continue
            beside = ""
            if best["memory"] and path != "memory":
                alone = min(other[3] for other in rows[path] if other[1] >= least) / min(
                    other[3] for other in rows["memory"] if other[1] >= least
                )
                beside = f"ours is {best['memory'][2] / row[2]:.2f} of it, alone {alone:.2f}"
            print(
                f"  {path:12} {row[2]:8.0f} queries/s, alone {row[3]:7.3f} ms, recall {row[1]:.4f} ({row[0]}) {beside}"
            )
    print(
        "\nall of ours:",
        *(f"  {row[0]}: {row[2]:.0f}/s, {row[3]:.3f} ms, {row[1]:.4f}" for row in rows["memory"]),
        sep="\n",
    )


def main():
    """Make, build, measure."""
    if sys.argv[1:2] == ["--step"]:
        run_step(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--noise", type=float, default=NOISE)
    parser.add_argument("--keep", type=Path, help="Keep data and builds here, and use what is there already.")
    parser.add_argument("--only", nargs="+", choices=("builds", "rates", "opening", "voting", "churn"), default=None)
    parser.add_argument("--faiss", nargs="*", choices=FAISS, default=FAISS, help="Which of FAISS's indexes to build.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)) / f"{options.items}x{options.dimension}-{options.noise:g}"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "churned_truth.npy").exists():
            in_a_process("make_data", folder, options.items, options.dimension, options.queries, options.noise)
        wanted = options.only or ("builds", "rates", "opening", "voting", "churn")
        if "builds" in wanted:
            report_builds(folder, 4 * options.items * options.dimension, options.faiss)
        if "rates" in wanted:
            report_rates(folder, options.faiss)
        for step in ("opening", "voting", "churn"):
            if step in wanted:
                numbers = in_a_process(step, folder)["returned"]
                print(f"\n{step}: " + ", ".join(f"{name} {number:.4f}" for name, number in numbers.items()), flush=True)


if __name__ == "__main__":
    main()
