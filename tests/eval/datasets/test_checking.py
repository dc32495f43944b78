"""Checking a copy against what was published: every deviation in words, and nothing where there is none."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from eval.datasets.catalogue import Archive, find_official, ninco_classes, official_datasets, real_labels, val_labels
from eval.datasets.checking import Check, check_dataset, compare_archive, digest_of, find_deviations
from eval.types import Dataset, Sample
from retrieval.errors import FolderError
from retrieval.labels import imagenet_classes
from tests.commands import vmem
from tests.eval.datasets.making import GOLDFISH, SHARK, TENCH, encoded, pack, write_files, write_layout

WNIDS = [known.wnid for known in imagenet_classes()]


def deviations(name: str, labels: dict[str, str], *, excluded: int = 0) -> list[str]:
    """Return what is wrong with a copy that has these labels by id."""
    official = find_official(name)
    assert official is not None
    samples = [Sample(name, b"", frozenset([label])) for name, label in labels.items()]
    found = find_deviations(official, Dataset(samples, excluded=excluded))
    return [problem for problems in found.values() for problem in problems]


def v2(per_class: int = 10) -> dict[str, str]:
    return {f"{place}/{n}.jpeg": wnid for place, wnid in enumerate(WNIDS) for n in range(per_class)}


def val() -> dict[str, str]:
    return {f"ILSVRC2012_val_{n:08d}.JPEG": min(labels) for n, labels in enumerate(val_labels(), 1)}


def ninco() -> dict[str, str]:
    return {f"{label}/{n}.jpg": label for label, images in ninco_classes().items() for n in range(images)}


def test_what_is_shipped_adds_up_to_what_was_published() -> None:
    assert len(val_labels()) == len(real_labels()) == 50_000
    assert sum(not labels for labels in real_labels()) == 3_163
    assert sum(len(labels) > 1 for labels in real_labels()) == 7_443
    sizes = ninco_classes().values()
    assert (len(sizes), sum(sizes), min(sizes), max(sizes)) == (64, 5_879, 31, 176)
    assert all(list(val_labels()).count(frozenset([wnid])) == 50 for wnid in WNIDS[::100])


def test_complete_copies_deviate_in_nothing() -> None:
    assert deviations("imagenet-v2-threshold0.7", v2()) == []
    assert deviations("imagenet-val", val()) == []
    real = {f"ILSVRC2012_val_{n:08d}.JPEG": min(labels) for n, labels in enumerate(real_labels(), 1) if labels}
    assert deviations("imagenet-real", real, excluded=3_163) == []


def test_a_class_of_v2_without_exactly_ten_pictures_is_named() -> None:
    copy = v2()
    del copy["7/3.jpeg"]
    copy["8/10.jpeg"] = WNIDS[8]
    (problem,) = deviations("imagenet-v2-top-images", copy)
    assert f"2 classes have another number of pictures than published: {WNIDS[7]} has 9, not 10" in problem


def test_an_incomplete_copy_names_what_is_missing() -> None:
    copy = {name: wnid for name, wnid in val().items() if wnid != TENCH}
    images, numbers, classes = deviations("imagenet-val", copy)
    assert images.startswith("49,950 pictures, 50,000 expected: the copy is incomplete")
    assert classes == f"1 of 1,000 classes have no picture: {TENCH}"
    assert numbers == "50 of the 50,000 numbered files are missing"


def test_the_size_of_a_sister_set_is_recognised() -> None:
    problems = deviations("imagenet-r", {str(n): TENCH for n in range(7_500)})
    assert problems[0] == "7,500 pictures, 30,000 expected: that is how many ImageNet-A has"


def test_ninco_is_compared_class_by_class_and_name_by_name() -> None:
    assert deviations("ninco", ninco()) == [
        "the files have other names than the published ones: some were renamed or replaced"
    ]
    fewer = {name: label for name, label in ninco().items() if name != "s_sky/0.jpg"}
    assert any("s_sky has" in problem for problem in deviations("ninco", fewer))


def test_the_classes_that_a_and_r_lack_are_named() -> None:
    subset = sorted(official_datasets()["imagenet-r"].subset or ())
    problems = deviations("imagenet-r", {f"{wnid}/a.jpg": wnid for wnid in subset[1:]})
    assert f"1 of 200 classes have no picture: {subset[0]}" in problems


def test_an_archive_is_compared_by_size_and_then_by_digest(tmp_path: Path) -> None:
    official = official_datasets()["imagenet-a"]
    path = tmp_path / "imagenet-a.tar"
    path.write_bytes(b"short")
    (problem,) = compare_archive(official, path)
    assert problem == "imagenet-a.tar has 5 bytes, 687,552,512 expected: download it again"
    right = "sha256:f9b0078b5df596d2ea19010c001bbd009e651de2c57e8fb7e355f31eb9d3f739"
    same = replace(official, archives=(Archive("imagenet-a.tar", right, 5),))
    assert compare_archive(same, path) == []
    other = replace(official, archives=(Archive("imagenet-a.tar", "md5:" + "0" * 32, 5),))
    assert compare_archive(other, path) == [
        "imagenet-a.tar has another digest than the published file: download it again"
    ]
    assert compare_archive(official, tmp_path) == []


def check_small(name: str, folder: Path) -> Check:
    return check_dataset(name, folder, sample=0)


def test_pictures_that_do_not_open_are_a_problem(tmp_path: Path) -> None:
    write_files(tmp_path, ["a/1.jpg", "a/2.jpg"])
    (tmp_path / "a" / "2.jpg").write_bytes(encoded(1)[:200])
    found = check_small("mine", tmp_path)
    assert found.opened.count == 2 and [name for name, _ in found.opened.unreadable] == ["a/2.jpg"]
    assert found.problems[0].startswith("1 of 2 pictures that were opened is unusable: a/2.jpg (")


def test_cmyk_and_a_png_called_jpeg_are_noted_and_no_problem(tmp_path: Path) -> None:
    write_files(tmp_path, [f"{TENCH}/a.JPEG", f"{TENCH}/b.JPEG", f"{SHARK}/c.JPEG"])
    (tmp_path / TENCH / "a.JPEG").write_bytes(encoded(7, mode="CMYK"))
    (tmp_path / TENCH / "b.JPEG").write_bytes(encoded(8, kind="PNG"))
    found = check_small("mine", tmp_path)
    assert found.problems == () and found.opened.unreadable == ()
    assert found.opened.cmyk == (f"{TENCH}/a.JPEG",) and found.opened.misnamed == ((f"{TENCH}/b.JPEG", "PNG"),)
    assert len(found.notes) == 2


def test_copies_under_two_labels_are_noted(tmp_path: Path) -> None:
    """As in the folders of ImageNet-Sketch's two cranes."""
    write_files(tmp_path, ["crane bird/1.jpg", "construction crane/1.jpg"])
    (tmp_path / "crane bird" / "1.jpg").write_bytes((tmp_path / "construction crane" / "1.jpg").read_bytes())
    found = check_small("mine", tmp_path)
    assert found.opened.copies == (("construction crane/1.jpg", "crane bird/1.jpg"),)
    assert "1 picture repeats another under another label" in found.notes[0]


def test_the_sample_is_spread_over_the_set(tmp_path: Path) -> None:
    write_files(tmp_path, [f"{label}/{n}.jpg" for label in "abcd" for n in range(5)])
    for number in range(5):
        (tmp_path / "d" / f"{number}.jpg").write_bytes(b"damaged")
    found = check_dataset("mine", tmp_path, sample=4)
    assert found.opened.count == 4 and [name for name, _ in found.opened.unreadable] == ["d/0.jpg"]


def test_the_digest_is_the_same_packed_and_unpacked_and_another_with_another_label(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, "imagenet-r")
    digest = check_small("imagenet-r", folder).digest
    assert check_small("imagenet-r", pack(folder, "zip")).digest == digest
    write_files(tmp_path / "other", [f"{SHARK}/art_0.jpg"])
    assert check_small("imagenet-r", tmp_path / "other").digest != digest
    assert digest == digest_of([f"{GOLDFISH}/art_0.jpg\t{GOLDFISH}", f"{SHARK}/art_0.jpg\t{SHARK}"])


def test_a_copy_with_problems_comes_with_the_usual_mistakes(tmp_path: Path) -> None:
    found = check_small("imagenet-sketch", write_layout(tmp_path, "imagenet-sketch"))
    assert found.expected_images == 50_889 and found.problems
    assert "It holds 50,889 pictures, not 50,000." in found.notes


def test_a_set_of_ones_own_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    found = check_small("mine", write_files(tmp_path, ["a/1.jpg", "b/1.jpg"]))
    assert (found.images, found.classes, found.expected_images, found.problems) == (2, 2, None, ())


def test_what_cannot_be_counted_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="expected"):
        check_dataset("imagenet-val", tmp_path)


def test_the_catalogue_has_a_source_a_layout_and_mistakes_for_every_set() -> None:
    known = official_datasets()
    assert len(known) == 15
    assert all(one.source.startswith("http") and one.mistakes and one.images and one.folders for one in known.values())
    assert {one.name for one in known.values() if one.subset} == {"imagenet-a", "imagenet-r"}
    for one in known.values():
        assert all(a.digest.partition(":")[0] in ("md5", "sha256") for a in one.archives)


def test_the_data_sets_are_listed_for_people_and_for_programs() -> None:
    table = vmem("eval", "datasets")
    assert table.returncode == 0 and "imagenet-v2-matched-frequency" in table.stdout and "50,889" in table.stdout
    listed = json.loads(vmem("eval", "datasets", "--json").stdout)
    assert {one["name"]: one["images"] for one in listed}["ninco"] == 5_879


def test_check_exits_with_0_or_1_and_prints_what_is_wrong(tmp_path: Path) -> None:
    own = vmem("eval", "check", "mine", write_files(tmp_path / "mine", ["a/1.jpg"]))
    assert own.returncode == 0 and "nothing to compare it with" in own.stdout
    partial = vmem("eval", "check", "imagenet-a", write_layout(tmp_path, "imagenet-a"), "--json")
    assert partial.returncode == 1 and json.loads(partial.stdout)["expected_images"] == 7_500


def test_a_name_that_drives_a_terminal_is_shown_without_its_effect(tmp_path: Path) -> None:
    write_files(tmp_path, ["a/\x1b[31m.jpg"])
    (tmp_path / "a" / "\x1b[31m.jpg").write_bytes(b"damaged")
    printed = vmem("eval", "check", "mine", tmp_path).stdout
    assert "PROBLEM" in printed and "\x1b" not in printed


def test_a_gif_of_several_frames_opens(tmp_path: Path) -> None:
    frames = [Image.new("P", (8, 8), n) for n in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    (tmp_path / "pseudorca_crassidens").mkdir()
    (tmp_path / "pseudorca_crassidens" / "a.gif").write_bytes(stream.getvalue())
    assert check_small("ninco", tmp_path).opened.unreadable == ()
