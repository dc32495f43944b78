"""Published data sets in their official layouts, each with what usually goes wrong with it."""

from pathlib import Path

import pytest

from eval.datasets.checking import check_dataset
from eval.datasets.loading import load_dataset
from retrieval.errors import FolderError, InvalidArgument, VisualMemoryWarning
from retrieval.labels import imagenet_classes
from tests.eval.datasets.making import (
    GOLDFISH,
    LAYOUTS,
    PACKED,
    ROBIN,
    SHARK,
    TENCH,
    VAL_1,
    VAL_3,
    contents,
    pack,
    truths,
    write_files,
    write_layout,
)


def expected(name: str) -> dict[str, set[str]]:
    return {path: labels for path, labels in LAYOUTS[name][1].items() if labels}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_official_layout_gives_every_picture_its_labels(name: str, tmp_path: Path) -> None:
    assert truths(load_dataset(name, write_layout(tmp_path, name))) == expected(name)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_folder_above_will_do_even_with_other_folders_beside(name: str, tmp_path: Path) -> None:
    write_layout(tmp_path, name)
    write_files(tmp_path / "unrelated", ["a/b.jpg"])
    assert truths(load_dataset(name, tmp_path)) == expected(name)


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("name", LAYOUTS)
def test_an_archive_holds_the_same_ids_labels_and_bytes_as_the_folder(name: str, kind: str, tmp_path: Path) -> None:
    folder = write_layout(tmp_path, name)
    unpacked = load_dataset(name, folder)
    order, pictures = [sample.id for sample in unpacked.samples], contents(unpacked)
    packed = load_dataset(name, pack(folder, kind))
    assert [sample.id for sample in packed.samples] == order
    assert truths(packed) == expected(name) and contents(packed) == pictures


CONTRADICTIONS = {
    "imagenet-train": {f"{TENCH}/{GOLDFISH}_33.JPEG": "is filed under n01440764, but its name says n01443537"},
    "imagenet-sketch": {f"{TENCH}/{TENCH}_33_{SHARK}.JPEG": f"but its name says {TENCH} and {SHARK}"},
    "tiny-imagenet-train": {f"{TENCH}/images/{GOLDFISH}_0.JPEG": "but its name says n01443537"},
    "imagenet-val": {
        f"{TENCH}/x_{GOLDFISH}.JPEG": "but its name says n01443537",
        f"{TENCH}/ilsvrc2012_val_00000001.jpeg": f"is filed under {TENCH}, but the published list says {VAL_1}",
    },
    "imagenet-v2-top-images": {f"0/{SHARK}_1.jpeg": f"is filed under {TENCH}, but its name says {SHARK}"},
}


@pytest.mark.parametrize(
    ("name", "path", "problem"),
    [(name, path, problem) for name, files in CONTRADICTIONS.items() for path, problem in files.items()],
)
def test_a_place_and_a_name_that_tell_two_classes_are_refused(
    name: str, path: str, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(FolderError, match=problem):
        load_dataset(name, write_files(tmp_path / LAYOUTS.get(name, ("set",))[0], [path]))


def test_folders_of_v2_that_begin_at_1_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, [f"{number}/a.jpeg" for number in range(1, 40)])
    with pytest.raises(FolderError, match="folders are numbered 1 to 39, and ImageNet-V2 .* begins at 0"):
        load_dataset("imagenet-v2-top-images", tmp_path)


def test_names_in_lower_case_tell_their_number_as_well(tmp_path: Path) -> None:
    write_files(tmp_path, ["ilsvrc2012_val_00000001.jpeg", "ilsvrc2012_val_00000003.jpeg"])
    found = truths(load_dataset("imagenet-val", tmp_path))
    assert found == {"ilsvrc2012_val_00000001.jpeg": {VAL_1}, "ilsvrc2012_val_00000003.jpeg": {VAL_3}}


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("imagenet-val", ["ILSVRC2012_val_00000001.JPEG", f"{VAL_1}/ILSVRC2012_val_00000001_{VAL_1}.JPEG"]),
        ("imagenet-train", [f"{TENCH}/{TENCH}_10026.JPEG", f"{TENCH}_10026.JPEG"]),
        ("tiny-imagenet-train", [f"{TENCH}/{TENCH}_0.JPEG", f"{TENCH}/images/{TENCH}_0.JPEG"]),
    ],
)
def test_a_copy_that_lies_flat_and_in_folders_counts_once(name: str, paths: list[str], tmp_path: Path) -> None:
    with pytest.warns(VisualMemoryWarning, match="1 picture passed over: there twice, flat and in folders maybe"):
        assert len(load_dataset(name, write_files(tmp_path, paths)).samples) == 1
    assert any("counted once" in note for note in check_dataset(name, tmp_path).notes)


def test_a_picture_of_tiny_imagenet_without_annotation_is_said(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, "tiny-imagenet-val")
    write_files(folder, ["images/val_9.JPEG"])
    with pytest.warns(VisualMemoryWarning, match="picture passed over: without a line in val_annotations.txt, such as"):
        assert truths(load_dataset("tiny-imagenet-val", folder)) == expected("tiny-imagenet-val")


def test_a_jfif_is_a_picture_and_other_files_that_are_passed_over_are_said(tmp_path: Path) -> None:
    write_files(tmp_path, [f"{TENCH}/sketch_0.jfif", f"{TENCH}/sketch_1.heic", f"{TENCH}/notes.txt", "README"])
    with pytest.warns(VisualMemoryWarning, match="1 file passed over: by their endings no pictures, such as .*_1.heic"):
        assert list(truths(load_dataset("imagenet-sketch", tmp_path))) == [f"{TENCH}/sketch_0.jfif"]


@pytest.mark.parametrize(("name", "classes"), [("imagenet-a", 200), ("imagenet-r", 200)])
def test_a_and_r_come_with_the_subset_that_their_authors_score_over(name: str, classes: int, tmp_path: Path) -> None:
    subset = load_dataset(name, write_layout(tmp_path, name)).subset
    assert subset is not None and len(subset) == classes
    assert {label for labels in expected(name).values() for label in labels} <= subset


def test_the_validation_set_has_no_subset(tmp_path: Path) -> None:
    assert load_dataset("imagenet-val", write_layout(tmp_path, "imagenet-val")).subset is None


@pytest.mark.parametrize("path", [f"{VAL_1}/ILSVRC2012_val_00000001.JPEG", f"ILSVRC2012_val_00000001_{VAL_1}.JPEG"])
def test_validation_pictures_sorted_into_folders_or_renamed_by_a_hub_are_known(path: str, tmp_path: Path) -> None:
    assert truths(load_dataset("imagenet-val", write_files(tmp_path / "val", [path]))) == {path: {VAL_1}}


def test_validation_pictures_go_by_number_where_folders_are_numbers(tmp_path: Path) -> None:
    write_files(tmp_path, ["0/ILSVRC2012_val_00000003.JPEG", "1/ILSVRC2012_val_00000001.JPEG"])
    found = truths(load_dataset("imagenet-val", tmp_path))
    assert list(found.values()) == [{VAL_3}, {VAL_1}]


@pytest.mark.parametrize("path", [f"{TENCH}/ILSVRC2012_val_00000001.JPEG", f"ILSVRC2012_val_00000001_{TENCH}.JPEG"])
@pytest.mark.parametrize("name", ["imagenet-val", "imagenet-real"])
def test_a_validation_picture_under_another_class_than_published_is_named(name: str, path: str, tmp_path: Path) -> None:
    write_files(tmp_path, [path])
    with pytest.raises(FolderError, match=f"{path} is filed under {TENCH}, but the published list says {VAL_1}"):
        load_dataset(name, tmp_path)


def test_a_number_beyond_the_validation_set_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, ["ILSVRC2012_val_00050001.JPEG"])
    with pytest.raises(FolderError, match="has the number 50,001: from 1 to 50,000 expected"):
        load_dataset("imagenet-val", tmp_path)


def test_reassessed_labels_leave_out_pictures_without_a_right_label_and_count_them(tmp_path: Path) -> None:
    dataset = load_dataset("imagenet-real", write_layout(tmp_path, "imagenet-real"))
    assert dataset.excluded == 1 and len(dataset.samples) == 2


def test_reassessed_labels_refuse_files_whose_number_is_not_known(tmp_path: Path) -> None:
    write_files(tmp_path, [f"{TENCH}/0001.JPEG"])
    with pytest.raises(FolderError, match="the reassessed labels go by that number"):
        load_dataset("imagenet-real", tmp_path)


def test_training_files_that_a_hub_put_into_one_folder_go_by_the_wnid_in_their_names(tmp_path: Path) -> None:
    write_files(tmp_path, [f"{TENCH}_1_{TENCH}.JPEG", f"{SHARK}_2.JPEG"])
    found = truths(load_dataset("imagenet-train", tmp_path))
    assert found == {f"{TENCH}_1_{TENCH}.JPEG": {TENCH}, f"{SHARK}_2.JPEG": {SHARK}}


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r", "imagenet-train", "imagenet-sketch"])
def test_folders_numbered_by_a_loader_are_refused(name: str, tmp_path: Path) -> None:
    write_files(tmp_path, [f"{number}/a.jpg" for number in range(200)])
    with pytest.raises(FolderError, match="200 folders .0, 1, 10, ….: .*whose numbers these are nobody can tell"):
        load_dataset(name, tmp_path)


def test_a_class_outside_the_subset_says_that_another_set_lies_there(tmp_path: Path) -> None:
    write_files(tmp_path, [f"{TENCH}/a.jpg"])
    with pytest.raises(FolderError, match=rf"{TENCH} \(tench\) is none of the 200 classes of ImageNet-A"):
        load_dataset("imagenet-a", tmp_path)


def test_a_class_that_imagenet_does_not_have_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, ["n99999999/a.jpg"])
    with pytest.raises(FolderError, match="n99999999 is no class of ImageNet-1k"):
        load_dataset("imagenet-sketch", tmp_path)


def test_v2_folders_are_numbers_and_not_text(tmp_path: Path) -> None:
    """In order of text 10 and 100 stand before 2, which turns an accuracy of 63 into 1."""
    write_files(tmp_path, [f"{number}/a.jpeg" for number in range(1000)])
    found = truths(load_dataset("imagenet-v2-threshold0.7", tmp_path))
    assert all(found[f"{known.index}/a.jpeg"] == {known.wnid} for known in imagenet_classes())


def test_v2_of_the_older_release_has_wnid_folders(tmp_path: Path) -> None:
    write_files(tmp_path, [f"{SHARK}/a.jpeg"])
    assert truths(load_dataset("imagenet-v2-top-images", tmp_path)) == {f"{SHARK}/a.jpeg": {SHARK}}


def test_another_form_of_v2_is_refused_by_its_folders_name(tmp_path: Path) -> None:
    write_layout(tmp_path, "imagenet-v2-matched-frequency")
    with pytest.raises(FolderError, match="is ImageNet-V2 matched-frequency, not ImageNet-V2 top-images"):
        load_dataset("imagenet-v2-top-images", tmp_path)


def test_of_three_forms_of_v2_side_by_side_the_named_one_is_taken(tmp_path: Path) -> None:
    for form in ("matched-frequency", "threshold0.7", "top-images"):
        write_files(tmp_path / f"imagenetv2-{form}-format-val", [f"1/{form}.jpeg"])
    assert truths(load_dataset("imagenet-v2-top-images", tmp_path)) == {"1/top-images.jpeg": {GOLDFISH}}


def test_ninco_is_found_beside_the_other_sets_that_come_with_it(tmp_path: Path) -> None:
    write_layout(tmp_path / "NINCO", "ninco")
    write_files(tmp_path / "NINCO", ["NINCO_popular_datasets_subsamples/places/a.jpg", "NINCO_OOD_unit_tests/b/c.png"])
    assert truths(load_dataset("ninco", tmp_path / "NINCO")) == expected("ninco")


def test_a_class_that_ninco_does_not_have_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, ["s_sky/a.jpg", "cats/b.jpg"])
    with pytest.raises(FolderError, match="'cats' is none of NINCO's 64 classes"):
        load_dataset("ninco", tmp_path)


def test_a_taxon_that_is_not_spelled_whole_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, [f"{ROBIN}/a.jpg", "Turdus_migratorius/b.jpg"])
    with pytest.raises(FolderError, match="'Turdus_migratorius' is no class of iNaturalist 2021"):
        load_dataset("inaturalist-2021-val", tmp_path)


def test_tiny_imagenets_validation_set_may_be_sorted_into_folders(tmp_path: Path) -> None:
    paths = [f"val/{GOLDFISH}/val_0.JPEG", f"val/{SHARK}/images/val_1.JPEG"]
    write_files(tmp_path, paths)
    found = truths(load_dataset("tiny-imagenet-val", tmp_path))
    assert found == {paths[0][4:]: {GOLDFISH}, paths[1][4:]: {SHARK}}


def test_a_damaged_list_of_tiny_imagenet_is_named(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, "tiny-imagenet-val")
    (folder / "val_annotations.txt").write_text("val_0.JPEG\n")
    with pytest.raises(FolderError, match="val_annotations.txt cannot be read"):
        load_dataset("tiny-imagenet-val", folder)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_with_something_else_says_what_it_holds_and_what_was_expected(name: str, tmp_path: Path) -> None:
    write_files(tmp_path, ["cats/a.txt", "dogs/b.txt"])
    with pytest.raises(FolderError, match=r"holds 2 folders \(cats, dogs\): .*expected"):
        load_dataset(name, tmp_path)


@pytest.mark.parametrize("name", ["imagenet-val", "ninco", "mine"])
def test_an_empty_folder_and_a_missing_one_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="holds nothing: .* expected"):
        load_dataset(name, tmp_path)
    with pytest.raises(FolderError, match="missing is not there"):
        load_dataset(name, tmp_path / "missing")


def test_a_class_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, [f"{TENCH}/list.txt"])
    with pytest.raises(FolderError, match="holds no pictures"):
        load_dataset("imagenet-train", tmp_path)


def test_pictures_beside_the_class_folders_alone_are_no_data_set(tmp_path: Path) -> None:
    write_files(tmp_path, ["s_sky/notes.txt", "a.jpg"])
    with pytest.raises(FolderError, match="holds no labelled pictures: NINCO expected"):
        load_dataset("ninco", tmp_path)


def test_the_name_of_several_sets_asks_which(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="ImageNet_V2 stands for several data sets: choose one of .*top-images"):
        load_dataset("ImageNet_V2", tmp_path)


def test_a_name_may_be_spelled_with_capitals_and_underscores(tmp_path: Path) -> None:
    dataset = load_dataset("ImageNet_A", write_layout(tmp_path, "imagenet-a"))
    assert dataset.subset is not None
