"""Data sets of one's own: a folder and an archive of it are the same, and links on disk are followed."""

import os
from pathlib import Path

import pytest

from eval.datasets.checking import check_dataset
from eval.datasets.loading import find_dataset, load_dataset
from retrieval.errors import FolderError
from retrieval.labels import imagenet_classes
from tests.eval.datasets.making import PACKED, SHARK, TENCH, encoded, pack, truths, write_files

OWN = {
    "plain": (["cat/a.JPG", "dog/sub/b.png"], {"cat/a.JPG": "cat", "dog/sub/b.png": "dog"}),
    "below one folder": (["ds/README.md", "ds/cat/a.JPG", "ds/dog/b.jpg"], {"cat/a.JPG": "cat", "dog/b.jpg": "dog"}),
    "read-me beside": (["README.md", "ds/cat/a.JPG", "ds/dog/b.jpg"], {"cat/a.JPG": "cat", "dog/b.jpg": "dog"}),
    "one label": (["cat/a.jpg", "cat/more/b.jpg"], {"cat/a.jpg": "cat", "cat/more/b.jpg": "cat"}),
    "left behind": (["cat/a.jpg", "cat/Thumbs.db", "__MACOSX/cat/._a.jpg", "dog/.DS_Store"], {"cat/a.jpg": "cat"}),
    "beside": (["cat/a.jpg", "dog/b.jpg", "c.jpg"], {"cat/a.jpg": "cat", "dog/b.jpg": "dog"}),
}


@pytest.mark.parametrize("kind", ["folder", *PACKED])
@pytest.mark.parametrize("layout", OWN)
def test_a_folder_and_an_archive_of_it_have_the_same_labels(layout: str, kind: str, tmp_path: Path) -> None:
    paths, right = OWN[layout]
    folder = write_files(tmp_path / "pictures", paths)
    path = folder if kind == "folder" else pack(folder, kind)
    found = find_dataset("mine", path)
    assert truths(found.dataset) == {name: {label} for name, label in right.items()}
    assert len(found.notes) == (layout == "beside")


def test_pictures_beside_the_label_folders_are_counted(tmp_path: Path) -> None:
    write_files(tmp_path, ["cat/a.jpg", "dog/b.jpg", "c.jpg", "README.md"])
    assert find_dataset("mine", tmp_path).notes == ("1 picture passed over: beside the label folders, not in one",)


@pytest.mark.parametrize(("dataset", "classes"), [("mine", ("a", "b", "c")), ("imagenet-train", (TENCH, SHARK))])
def test_links_to_folders_are_followed_unless_they_lead_back(
    dataset: str, classes: tuple[str, ...], tmp_path: Path
) -> None:
    first, *others = classes
    write_files(tmp_path / "set", [f"{first}/1.jpg"])
    for label in others:
        (tmp_path / "set" / label).symlink_to(first)
    (tmp_path / "set" / first / "up").symlink_to("..")
    (tmp_path / "set" / first / "round.jpg").symlink_to("round.jpg")
    found = truths(load_dataset(dataset, tmp_path / "set"))
    assert {name: labels for name, labels in found.items() if "/1.jpg" in name and name.count("/") == 1} == {
        f"{label}/1.jpg": {label} for label in classes
    }
    assert not any(name.count("up") > 1 for name in found)


def test_pipes_and_devices_are_no_pictures(tmp_path: Path) -> None:
    write_files(tmp_path, ["cat/1.jpg"])
    os.mkfifo(tmp_path / "cat" / "2.jpg")
    (tmp_path / "cat" / "3.jpg").symlink_to("/dev/zero")
    (tmp_path / "a.csv").write_text("path,label\ncat/1.jpg,a\ncat/2.jpg,a\n/dev/zero,a\ncat,a\n")
    for path, unusable in ((tmp_path, 2), (tmp_path / "a.csv", 3)):
        found = check_dataset("mine", path, sample=0)
        assert len(found.opened.unreadable) == unusable
        assert all("is not a file" in reason for _, reason in found.opened.unreadable)


@pytest.mark.parametrize(
    ("name", "files", "problem"),
    [
        ("imagenet-train", ["ILSVRC2012_img_train.tar"], "; give ILSVRC2012_img_train.tar itself"),
        ("imagenet-train", [f"{TENCH}.tar", f"{SHARK}.tar"], "; unpack each into a folder of its name, or give"),
        ("mine", ["pictures.zip"], "; give pictures.zip itself"),
        ("tiny-imagenet-val", ["val/images/val_0.JPEG"], "labels lie in val_annotations.txt beside the folder"),
        ("imagenet-v2-top-images", ["1/a.jpeg", "1000/a.jpeg"], "the folder 1000 is none of .* folders are 0 to 999"),
    ],
)
def test_a_wrong_folder_says_what_to_give(name: str, files: list[str], problem: str, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=problem):
        load_dataset(name, write_files(tmp_path, files))


def test_two_hundred_numbered_folders_are_not_those_of_v2(tmp_path: Path) -> None:
    write_files(tmp_path, [f"{number}/a.jpeg" for number in range(200)])
    with pytest.raises(FolderError, match="0 to 199 are all there are: .*ImageNet-A or ImageNet-R"):
        load_dataset("imagenet-v2-top-images", tmp_path)


def test_the_classes_of_another_set_are_recognised(tmp_path: Path) -> None:
    classes = [known.wnid for known in imagenet_classes() if known.in_a]
    write_files(tmp_path, [f"{wnid}/1.jpg" for wnid in classes])
    assert "the labels are the classes of imagenet-a: give that name" in check_dataset("mine", tmp_path).notes[-1]
    problems = check_dataset("imagenet-sketch", tmp_path, sample=1).problems
    assert any("those that have are the classes of ImageNet-A" in problem for problem in problems)


def test_usual_mistakes_stand_where_they_fit(tmp_path: Path) -> None:
    classes = [known.wnid for known in imagenet_classes() if known.in_a]
    write_files(tmp_path, [f"{wnid}/1.jpg" for wnid in classes])
    (tmp_path / classes[0] / "1.jpg").write_bytes(encoded(0)[:100])
    notes = check_dataset("imagenet-a", tmp_path).notes
    assert "File names repeat across its folders." in notes
    assert not any("numbers the 200 classes" in note for note in notes)
