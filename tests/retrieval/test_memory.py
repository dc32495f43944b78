"""The memory: what goes in can be found again, survives, and is never mixed with another embedder's vectors."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.datasets.folder import read_folder
from retrieval import VisualMemory
from retrieval.adding import AddReport, Item
from retrieval.building import build_memory
from retrieval.embedders.base import foreign_vectors
from retrieval.embedders.execution import Execution
from retrieval.errors import (
    DuplicateId,
    EmbedderMismatch,
    FolderError,
    InvalidArgument,
    MemoryExists,
    MissingWeights,
    NotAMemory,
    NotAnImage,
    StorageError,
    VisualMemoryWarning,
)
from retrieval.images import decode
from tests.conftest import COLOURS, draw, save_dinov2
from tests.runs import evaluate


@pytest.fixture
def memory(tmp_path: Path, checkpoint: Path) -> VisualMemory:
    return VisualMemory.create(tmp_path / "memory", embedder=str(checkpoint))


@pytest.fixture
def vectors_only(tmp_path: Path) -> VisualMemory:
    return VisualMemory.create(tmp_path / "vectors", embedder=foreign_vectors("mine", 3))


def test_a_picture_finds_itself_first(built: Path, pictures: Path) -> None:
    neighbors = VisualMemory.open(built).search(pictures / "red" / "2.png", k=4)[0]
    assert (neighbors[0].id, neighbors[0].label) == ("red/2.png", "red")
    assert neighbors[0].distance == pytest.approx(0, abs=1e-5)
    assert [n.distance for n in neighbors] == sorted(n.distance for n in neighbors)


def test_stored_half_precision_moves_no_distance_by_a_ten_thousandth(built: Path, pictures: Path) -> None:
    memory = VisualMemory.open(built)
    paths = sorted(pictures.glob("*/*.png"))
    vectors = memory.embed(paths)
    found = memory.search_vectors(vectors, k=len(paths))
    exact = np.sort(1 - vectors.astype(float) @ vectors.astype(float).T, axis=1)
    assert np.abs(found.distances - exact).max() < 1e-4


def test_an_opened_memory_is_the_one_that_was_written(built: Path) -> None:
    memory = VisualMemory.open(built)
    stats = memory.stats()
    assert (len(memory), stats.items, stats.index) == (18, 18, "exact")
    assert stats.labels == {"blue": 6, "green": 6, "red": 6}
    assert stats.bytes_on_disk > 10_000 and memory.index_is_ready()


def test_new_items_and_classes_take_part_in_the_next_search(memory: VisualMemory) -> None:
    assert memory.add([("a", "red", draw((200, 0, 0), 1))]) == AddReport(added=1)
    memory.search(draw((0, 0, 200), 2), k=1)
    memory.add([("b", "blue", draw((0, 0, 200), 2))])
    assert memory.search(draw((0, 0, 200), 2), k=1)[0][0].label == "blue"
    assert {n.id for n in VisualMemory.open(memory.path).search(draw((0, 0, 0), 1), k=2)[0]} == {"a", "b"}


def test_an_id_that_is_there_is_skipped_unless_said_otherwise(memory: VisualMemory) -> None:
    red, blue = draw((200, 0, 0), 1), draw((0, 0, 200), 1)
    memory.add([("a", "red", red)])
    assert memory.add([("a", "blue", blue), ("b", "blue", blue), ("b", "red", red)]) == AddReport(added=1, skipped=2)
    assert memory.stats().labels == {"blue": 1, "red": 1}


def test_an_id_that_is_there_can_be_replaced(memory: VisualMemory) -> None:
    memory.add([("a", "red", draw((200, 0, 0), 1)), ("b", "red", draw((200, 0, 0), 2))])
    changed = [("a", "blue", draw((0, 0, 200), 1)), ("a", "green", draw((0, 200, 0), 1))]
    report = memory.add(changed, on_duplicate="replace")
    assert (report.added, report.replaced, len(memory)) == (0, 1, 2)
    assert memory.search(draw((0, 200, 0), 1), k=1)[0][0].label == "green"


def test_an_id_that_is_there_can_be_an_error(memory: VisualMemory) -> None:
    memory.add([("a", "red", draw((200, 0, 0), 1))])
    with pytest.raises(DuplicateId, match="there already or come twice: a;") as caught:
        memory.add([("a", "red", draw((200, 0, 0), 1))], on_duplicate="error")
    assert caught.value.ids == ("a",)


def test_an_unknown_choice_for_duplicates_is_refused(memory: VisualMemory) -> None:
    with pytest.raises(InvalidArgument, match="on_duplicate='keep': choose one of skip, replace, error"):
        memory.add([], on_duplicate="keep")


def test_labels_are_text_and_the_empty_text_is_one(memory: VisualMemory) -> None:
    memory.add([("a", "", draw((200, 0, 0), 1))])
    assert memory.stats().labels == {"": 1}
    with pytest.raises(InvalidArgument, match=r"label 0: text expected, such as str\(label\)"):
        memory.add([("b", 0, draw((200, 0, 0), 1))])  # type: ignore[list-item]


def test_items_of_an_endless_source_are_committed_while_it_runs(memory: VisualMemory) -> None:
    drawn = 0

    def endless() -> Iterator[Item]:
        nonlocal drawn
        while True:
            if drawn == 1200:
                raise KeyboardInterrupt
            drawn += 1
            yield Item(str(drawn), "red", draw((200, 0, 0), drawn % 6))

    with pytest.raises(KeyboardInterrupt):
        memory.add(endless())
    assert len(VisualMemory.open(memory.path)) > 0


def test_threads_read_one_whole_version_while_items_are_replaced(vectors_only: VisualMemory) -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 3))
    names = [str(number) for number in range(200)]
    vectors_only.add_vectors(names, names, vectors)
    finished = threading.Event()

    def count_wrong() -> int:
        wrong = 0
        while not finished.is_set():
            found = vectors_only.search_vectors(vectors[:20], k=1)
            wrong += int((found.ids[:, 0] != names[:20]).sum() + (found.labels[:, 0] != names[:20]).sum())
        return wrong

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(count_wrong) for _ in range(2)]
        try:
            for name in names[:15]:  # by the same vector and label: no answer may change
                vectors_only.add_vectors([name], [name], vectors[int(name)][None], on_duplicate="replace")
        finally:
            finished.set()
        assert [reader.result() for reader in readers] == [0, 0]


@pytest.mark.parametrize("item", [("id", "label"), {"id": "a"}, "abc", None])
def test_what_is_no_item_is_refused(memory: VisualMemory, item: object) -> None:
    with pytest.raises(InvalidArgument, match=r"as an item: Item or \(id, label, picture\) expected"):
        memory.add([item])  # type: ignore[list-item]


def test_a_bad_picture_costs_one_line_and_not_its_batch(memory: VisualMemory) -> None:
    report = memory.add([("good", "red", draw((200, 0, 0), 1)), ("bad", "red", b"no picture"), ("empty", "red", b"")])
    assert report.added == 1
    assert [id_ for id_, _ in report.unreadable] == ["bad", "empty"]


def test_thumbnails_are_small_pictures_without_metadata(tmp_path: Path, checkpoint: Path) -> None:
    memory = VisualMemory.create(tmp_path / "m", embedder=str(checkpoint), thumbnail_pixels=40)
    memory.add([("a", "red", draw((200, 0, 0), 1, (300, 150)))])
    (small,) = memory.thumbnails(["a"])
    assert small is not None and decode(small).size == (40, 20)


def test_ready_features_are_scaled_and_found(vectors_only: VisualMemory) -> None:
    vectors = np.array([[2, 0, 0], [0, 3, 0], [0, 0, 0.5]])
    assert vectors_only.add_vectors(["x", "y", "z"], ["a", "b", "c"], vectors).added == 3
    found = vectors_only.search_vectors(np.array([[0, 9.0, 1]]), k=2)
    assert found.ids.tolist() == [["y", "z"]]
    assert found.distances[0, 0] == pytest.approx(1 - 9 / np.hypot(9, 1), abs=1e-6)
    assert vectors_only.thumbnails(["y", "absent"]) == [None, None]


def test_ready_features_keep_the_rules_for_duplicates(vectors_only: VisualMemory) -> None:
    def one(x: float) -> np.ndarray:
        return np.array([[x, 1.0, 0]])

    vectors_only.add_vectors(["x"], ["a"], one(0))
    assert vectors_only.add_vectors(["x", "y", "y"], ["b", "b", "c"], np.eye(3)) == AddReport(added=1, skipped=2)
    assert vectors_only.stats().labels == {"a": 1, "b": 1}
    replaced = vectors_only.add_vectors(["x"], ["z"], one(1), on_duplicate="replace")
    assert replaced == AddReport(replaced=1) and vectors_only.stats().labels == {"b": 1, "z": 1}
    with pytest.raises(DuplicateId, match="come twice: y;"):
        vectors_only.add_vectors(["new", "y"], ["a", "a"], np.eye(3)[:2], on_duplicate="error")
    assert len(vectors_only) == 2


@pytest.mark.parametrize(
    ("ids", "labels", "vectors", "message"),
    [
        (["a"], ["x"], np.ones((1, 4)), "got vectors of 4 dimensions: the memory holds 3"),
        (["a"], ["x"], np.zeros((1, 3)), "vector 0 is zero or not finite"),
        (["a"], ["x"], np.full((1, 3), np.nan), "vector 0 is zero or not finite"),
        (["a", "b"], ["x"], np.ones((2, 3)), "got 2 ids, 1 labels and 2 vectors"),
        (["a"], [7], np.ones((1, 3)), "got labels of type int64: text expected"),
    ],
)
def test_features_that_do_not_fit_are_refused(
    vectors_only: VisualMemory, ids: list, labels: list, vectors: np.ndarray, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        vectors_only.add_vectors(ids, labels, vectors)
    assert len(vectors_only) == 0


def test_a_memory_of_ready_features_asks_to_be_searched_by_vectors(vectors_only: VisualMemory) -> None:
    vectors_only.add_vectors(["x"], ["a"], np.ones((1, 3)))
    with pytest.raises(InvalidArgument, match=r"vectors made elsewhere \(mine\): search it by vectors"):
        vectors_only.search(draw((0, 0, 0), 1), k=1)


@pytest.mark.parametrize("k", [0, -3, 2.5, True])
def test_k_below_one_or_not_whole_is_refused(built: Path, pictures: Path, k: object) -> None:
    with pytest.raises(InvalidArgument, match="a whole number of neighbours, 1 or more, expected"):
        VisualMemory.open(built).search(pictures / "red" / "1.png", k=k)  # type: ignore[arg-type]


def test_k_above_the_size_gives_every_item_and_says_so(built: Path, pictures: Path) -> None:
    with pytest.warns(UserWarning, match="k=99 is more than the 18 items in the memory"):
        assert VisualMemory.open(built).search(pictures / "red" / "1.png", k=99).k == 18


def test_an_empty_memory_says_how_to_fill_it(memory: VisualMemory) -> None:
    with pytest.raises(InvalidArgument, match="the memory is empty: add pictures"):
        memory.search(draw((0, 0, 0), 1), k=1)


def test_a_query_that_is_no_picture_is_refused(built: Path) -> None:
    with pytest.raises(NotAnImage, match="is not a picture"):
        VisualMemory.open(built).search(b"words", k=1)


def test_another_embedder_is_refused(built: Path, tmp_path: Path) -> None:
    other = save_dinov2(tmp_path / "other", seed=5)
    with pytest.raises(EmbedderMismatch, match="was built by small-dinov2 .* not by other"):
        VisualMemory.open(built, embedder=str(other))


def test_other_weights_in_the_embedders_place_are_refused(tmp_path: Path, pictures: Path) -> None:
    weights = save_dinov2(tmp_path / "model", seed=1)
    build_memory(tmp_path / "memory", pictures, embedder=str(weights))
    shutil.rmtree(weights)
    save_dinov2(weights, seed=2)
    with pytest.raises(EmbedderMismatch, match="use the embedder it was built by"):
        VisualMemory.open(tmp_path / "memory").search(pictures / "red" / "1.png", k=1)


def test_a_moved_embedder_can_be_pointed_at(tmp_path: Path, pictures: Path) -> None:
    weights = save_dinov2(tmp_path / "model", seed=1)
    build_memory(tmp_path / "memory", pictures, embedder=str(weights))
    moved = weights.rename(tmp_path / "moved")
    with pytest.raises(MissingWeights, match="where it is no longer: say where it is now with --embedder FOLDER"):
        VisualMemory.open(tmp_path / "memory").search(pictures / "red" / "1.png", k=1)
    found = VisualMemory.open(tmp_path / "memory", embedder=str(moved)).search(pictures / "red" / "1.png", k=1)
    assert found[0][0].id == "red/1.png"


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_a_path_without_a_memory_is_refused(tmp_path: Path, make) -> None:
    make(tmp_path / "x")
    with pytest.raises(NotAMemory, match="is no memory .*: make one with `vmem memory build"):
        VisualMemory.open(tmp_path / "x")


def test_a_broken_table_is_reported_as_such(tmp_path: Path) -> None:
    (tmp_path / "m" / "items.lance" / "_versions").mkdir(parents=True)
    with pytest.raises(NotAMemory, match="holds a memory that cannot be read"):
        VisualMemory.open(tmp_path / "m")


def test_damaged_data_files_are_reported_and_not_thrown(built: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(built, tmp_path / "memory")
    for file in (copied / "items.lance" / "data").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(NotAMemory, match="holds a memory that cannot be read: .*; `vmem memory check .*` says what"):
        VisualMemory.open(copied).search_vectors(np.ones((1, 32)), k=1)


def test_an_index_left_by_a_restored_table_is_not_trusted(vectors_only: VisualMemory, tmp_path: Path) -> None:
    table = vectors_only.path / "items.lance"
    vectors_only.add_vectors(["a"], ["a"], np.eye(3)[:1])
    shutil.copytree(table, tmp_path / "backup")
    vectors_only.add_vectors(["b"], ["b"], np.eye(3)[1:2])
    vectors_only.build_index()
    shutil.rmtree(table)
    shutil.copytree(tmp_path / "backup", table)
    restored = VisualMemory.open(vectors_only.path)
    restored.add_vectors(["c"], ["c"], np.eye(3)[2:])
    assert restored.search_vectors(np.eye(3)[2:], k=1)[0][0].id == "c"


def test_a_memory_opened_before_another_wrote_to_it_adds_nothing_twice(vectors_only: VisualMemory) -> None:
    earlier = VisualMemory.open(vectors_only.path)
    vectors_only.add_vectors(["x", "y"], ["a", "a"], np.eye(3)[:2])
    assert earlier.add_vectors(["x", "z"], ["b", "b"], np.eye(3)[:2]) == AddReport(added=1, skipped=1)
    assert earlier.stats().labels == {"a": 2, "b": 1}


def test_thumbnails_go_by_id_when_rows_have_moved(memory: VisualMemory) -> None:
    memory.add([(label, label, draw(colour, 1)) for label, colour in COLOURS.items()])
    (before,) = memory.search(draw(COLOURS["red"], 1), k=3)
    memory.add([("red", "red", draw((0, 0, 0), 1))], on_duplicate="replace")
    rows = [neighbor.row for neighbor in before]
    ids = [neighbor.id for neighbor in before]
    pictures = [decode(small).getpixel((2, 40)) for small in memory.thumbnails(ids, rows=rows) if small]
    wanted = [(0, 0, 0) if id_ == "red" else COLOURS[id_] for id_ in ids]
    assert np.abs(np.array(pictures) - wanted).max() < 12


def test_a_memory_can_be_made_in_the_folder_one_stands_in(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / ".new-left-over").mkdir()  # as a killed run leaves it
    program = f"from retrieval import VisualMemory; print(len(VisualMemory.create('.', embedder={str(checkpoint)!r})))"
    made = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert made.stdout == "0\n"
    assert {entry.name for entry in tmp_path.iterdir()} == {"items.lance", ".writer.lock"}


@pytest.mark.parametrize("name", ["x" * 300, os.fsdecode(b"caf\xe9")])
def test_a_path_that_no_memory_can_have_is_refused(tmp_path: Path, checkpoint: Path, name: str) -> None:
    with pytest.raises(NotAMemory, match="is no memory"):
        VisualMemory.open(tmp_path / name)
    with pytest.raises(StorageError, match="cannot be written"):
        VisualMemory.create(tmp_path / name, embedder=str(checkpoint))


@pytest.mark.parametrize(("option", "value"), [("index", "scann"), ("thumbnail_pixels", 99)])
def test_a_memory_that_was_begun_otherwise_is_not_gone_on_with(
    built: Path, pictures: Path, checkpoint: Path, option: str, value: object
) -> None:
    with pytest.raises(MemoryExists, match=f"was begun with {option} .*, not {value}: leave that out"):
        build_memory(built, pictures, embedder=str(checkpoint), **{option: value})  # type: ignore[arg-type]


def test_a_memory_is_never_made_over_something_else(built: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("dear diary")
    for path in (built, tmp_path / "mine"):
        with pytest.raises(MemoryExists, match="not an empty folder: choose another path"):
            VisualMemory.create(path, embedder=str(checkpoint))


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written: .*file is not a folder"):
        VisualMemory.create(tmp_path / "file" / "memory", embedder=str(checkpoint))
    with pytest.raises(StorageError, match="cannot be written"):
        VisualMemory.create("/proc/memory", embedder=str(checkpoint))


def test_a_memory_whose_index_cannot_be_saved_is_searched_all_the_same(tmp_path: Path) -> None:
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", 3), index="scann")
    memory.add_vectors(["a", "b", "c"], ["x", "y", "z"], np.eye(3))
    (memory.path / "index").write_text("a file in the index's place")
    assert memory.search_vectors(np.eye(3), k=1).ids[:, 0].tolist() == ["a", "b", "c"]


def test_building_passes_over_bad_files_and_lists_them(tmp_path: Path, pictures: Path, checkpoint: Path) -> None:
    folder = shutil.copytree(pictures, tmp_path / "folder")
    (folder / "red" / "notes.txt").write_text("not a picture")
    whole = (folder / "red" / "1.png").read_bytes()
    (folder / "blue" / "torn\n.png").write_bytes(whole[: len(whole) // 2])
    (folder / "green" / ".hidden").write_text("passed over in silence")
    memory, report = build_memory(tmp_path / "memory", folder, embedder=str(checkpoint))
    assert (report.added, len(report.unreadable)) == (18, 2)
    lines = (memory.path / "unreadable.tsv").read_text().splitlines()
    assert [json.loads(line.split("\t")[0]) for line in lines] == ["blue/torn\n.png", "red/notes.txt"]


def test_file_names_of_any_bytes_can_be_built_from_and_measured(tmp_path: Path, checkpoint: Path) -> None:
    label = os.fsdecode(os.fsencode(tmp_path) + b"/folder/caf\xe9")
    os.makedirs(label)
    for number in range(3):
        draw((200, 0, 0), number).save(Path(label, f"{number}.png"))
    Path(label, os.fsdecode(b"\xff.txt")).write_text("words")
    memory, report = build_memory(tmp_path / "memory", tmp_path / "folder", embedder=str(checkpoint))
    assert report.added == 3 and memory.stats().labels == {"caf\\xe9": 3}
    summary, _ = evaluate(memory, {"q": read_folder(tmp_path / "folder")}, tmp_path / "run", k=3)
    assert (summary.metrics["q"].count, summary.metrics["q"].unreadable) == (3, 1)


def test_building_again_adds_only_what_is_new(tmp_path: Path, pictures: Path, checkpoint: Path) -> None:
    folder = shutil.copytree(pictures, tmp_path / "folder")
    build_memory(tmp_path / "memory", folder, embedder=str(checkpoint))
    (folder / "pink").mkdir()
    draw((250, 150, 150), 1).save(folder / "pink" / "new.png")
    memory, report = build_memory(tmp_path / "memory", folder, embedder=str(checkpoint))
    assert (report.added, report.skipped, len(memory)) == (1, 18, 19)


def test_building_from_another_folder_into_a_memory_is_refused(built: Path, tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "other" / "x").mkdir(parents=True)
    draw((0, 0, 0), 1).save(tmp_path / "other" / "x" / "1.png")
    with pytest.raises(MemoryExists, match="holds a memory built from .*: use `vmem memory add"):
        build_memory(built, tmp_path / "other", embedder=str(checkpoint))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds nothing: <label>/<image> expected"),
        (["1.png"], "holds only files, no label folders"),
        (["a/notes.txt"], "holds no usable picture among 1 files; the first: .*notes.txt is not a picture"),
    ],
)
def test_a_folder_without_labelled_pictures_makes_no_memory(
    tmp_path: Path, files: list[str], message: str, checkpoint: Path
) -> None:
    (tmp_path / "folder" / "a").mkdir(parents=True)
    for file in files:
        (tmp_path / "folder" / file).write_text("text")
    if not files or "/" not in files[0]:
        (tmp_path / "folder" / "a").rmdir()
    with pytest.raises(FolderError, match=message):
        build_memory(tmp_path / "memory", tmp_path / "folder", embedder=str(checkpoint))
    assert not (tmp_path / "memory").exists()


def _size(path: Path) -> int:
    try:
        return len(VisualMemory.open(path))
    except NotAMemory:
        return 0


def test_a_killed_build_goes_on_where_it_stopped(tmp_path: Path, checkpoint: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "noise").mkdir(parents=True)
    draw_from = np.random.default_rng(0)
    for number in range(2100):  # more than two commits
        Image.fromarray(draw_from.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / "noise" / f"{number:04d}.png")
    program = (
        "import sys; from retrieval.building import build_memory; build_memory(*sys.argv[1:3], embedder=sys.argv[3])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "memory"), str(folder), str(checkpoint)]
    committed = 0
    for wanted in (1, 2, None):  # commits to wait for before the kill; None: to the end
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
        while wanted and process.poll() is None and _size(tmp_path / "memory") < wanted * 1024:
            time.sleep(0.02)
        if wanted:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        memory = VisualMemory.open(tmp_path / "memory")
        assert len(memory) >= committed
        assert committed > 0 or 0 < len(memory) < 2100  # the first kill leaves a part
        committed = len(memory)
    ids = memory.snapshot().ids.tolist()
    assert len(ids) == len(set(ids)) == 2100
    assert memory.index_is_ready()
    assert [entry.name for entry in tmp_path.iterdir() if ".new" in entry.name] == []


def test_a_memory_records_how_its_vectors_were_made(tmp_path: Path, checkpoint: Path, pictures: Path) -> None:
    build_memory(tmp_path / "memory", pictures, embedder=str(checkpoint), backend="torch", precision="float32")
    opened = VisualMemory.open(tmp_path / "memory")
    (made,) = opened.settings.executions
    assert (made.backend, made.precision, made.device) == ("torch", "float32", "cpu")
    version = opened.version
    opened.add_vectors(["one"], ["red"], np.ones((1, 32)), made_by=Execution("elsewhere", "bfloat16", "cpu"))
    again = VisualMemory.open(tmp_path / "memory")
    assert [one.precision for one in again.settings.executions] == ["float32", "bfloat16"]
    assert len(again) == 19 and again.version > version


def test_float32_queries_meet_a_memory_of_another_backend_without_a_word(
    tmp_path: Path, checkpoint: Path, pictures: Path
) -> None:
    build_memory(tmp_path / "memory", pictures, embedder=str(checkpoint), backend="torch", precision="float32")
    opened = VisualMemory.open(tmp_path / "memory", backend="openvino", precision="float32")
    assert opened.search(pictures / "red" / "2.png", k=1)[0][0].id == "red/2.png"


def test_int8_meeting_float32_is_said_with_what_was_measured(tmp_path: Path, checkpoint: Path, pictures: Path) -> None:
    pytest.importorskip("nncf")
    path = tmp_path / "memory"
    build_memory(path, pictures, embedder=str(checkpoint), precision="int8")
    query = pictures / "red" / "2.png"
    own = VisualMemory.open(path)  # asked as it was made, where its copy of the model is at hand
    assert own.embedder.execution == own.settings.executions[0] and own.embedder.execution.precision == "int8"
    assert own.search(query, k=1)[0][0].id == "red/2.png"
    with pytest.warns(VisualMemoryWarning, match="vectors made in int8, and pictures are now embedded in float32; cos"):
        VisualMemory.open(path, precision="float32").search(query, k=1)


def test_int8_takes_its_ranges_from_the_memorys_own_pictures(built: Path, pictures: Path) -> None:
    pytest.importorskip("nncf")
    asked = VisualMemory.open(built, precision="int8")
    with pytest.warns(VisualMemoryWarning, match="are now embedded in int8"):
        assert asked.search(pictures / "red" / "2.png", k=1)[0][0].label == "red"
    assert asked.embedder.execution.calibration


def test_an_unknown_precision_is_refused_before_anything_is_loaded(built: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no precision 'double'"):
        VisualMemory.open(built, precision="double")
    with pytest.raises(InvalidArgument, match="no backend 'onnx'"):
        VisualMemory.create(tmp_path / "memory", embedder="dinov2-vitg14", backend="onnx")
