"""Pictures inside archives: tars in a tar, several threads at once, and what is damaged or no archive."""

import io
import shutil
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eval.datasets.loading import load_dataset
from eval.types import StoredPicture
from retrieval.errors import FolderError, ImageError
from tests.eval.datasets.making import PACKED, SHARK, TENCH, contents, encoded, pack, truths, write_files


def test_a_tar_of_tars_reads_as_folders(tmp_path: Path) -> None:
    outer = tmp_path / "ILSVRC2012_img_train.tar"
    with tarfile.open(outer, "w") as archive:
        for wnid in (TENCH, SHARK):
            inner = write_files(tmp_path / wnid, [f"{wnid}_{number}.JPEG" for number in range(3)])
            with tarfile.open(tmp_path / f"{wnid}.tar", "w") as packed:
                for file in sorted(inner.iterdir()):
                    packed.add(file, file.name)
            archive.add(tmp_path / f"{wnid}.tar", f"{wnid}.tar")
    found = load_dataset("imagenet-train", outer)
    assert truths(found) == {f"{wnid}/{wnid}_{n}.JPEG": {wnid} for wnid in (TENCH, SHARK) for n in range(3)}
    assert contents(found)[f"{SHARK}/{SHARK}_1.JPEG"] == (tmp_path / SHARK / f"{SHARK}_1.JPEG").read_bytes()


def test_a_plain_tar_that_is_called_tar_gz_is_read(tmp_path: Path) -> None:
    """As ImageNet-V2's are."""
    tar = pack(write_files(tmp_path / "imagenetv2-top-images-format-val", ["3/a.jpeg"]), "tar")
    renamed = tar.rename(tmp_path / "imagenetv2-top-images.tar.gz")
    assert set(truths(load_dataset("imagenet-v2-top-images", renamed))) == {"3/a.jpeg"}


def test_a_tar_with_long_names_and_dots_before_them_is_read(tmp_path: Path) -> None:
    name = f"./{TENCH}/" + "x" * 180 + "é.jpg"
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        info.size = len(encoded(1))
        archive.addfile(info, io.BytesIO(encoded(1)))
    found = load_dataset("imagenet-train", tmp_path / "a.tar")
    assert contents(found) == {name[2:]: encoded(1)}


@pytest.mark.parametrize("kind", PACKED)
def test_several_threads_read_the_same_bytes_as_one(kind: str, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "pictures", [f"{label}/{number}.jpg" for label in "ab" for number in range(40)])
    right = contents(load_dataset("mine", folder))
    samples = load_dataset("mine", pack(folder, kind)).samples
    with ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            assert dict(threads.map(lambda sample: (sample.id, sample.picture()), samples)) == right


@pytest.mark.parametrize("kind", PACKED)
def test_a_picture_has_its_own_fingerprint_that_stays_while_the_archive_does(kind: str, tmp_path: Path) -> None:
    packed = pack(write_files(tmp_path / "pictures", ["a/1.jpg", "a/2.jpg"]), kind)

    def fingerprints() -> list[str]:
        images = [sample.image for sample in load_dataset("mine", packed).samples]
        return [image.fingerprint for image in images if isinstance(image, StoredPicture)]

    before = fingerprints()
    assert len(set(before)) == 2 and fingerprints() == before
    pack(write_files(tmp_path / "pictures", ["a/1.jpg", "a/2.jpg", "a/3.jpg"]), kind)
    assert not set(before) & set(fingerprints())


@pytest.mark.parametrize("kind", PACKED)
def test_an_archive_of_ones_own_is_read_below_the_folders_that_all_files_share(kind: str, tmp_path: Path) -> None:
    write_files(tmp_path / "pets", ["photos/cat/1.jpg", "photos/dog/1.jpg", "photos/dog/.hidden.jpg"])
    found = truths(load_dataset("mine", pack(tmp_path / "pets", kind)))
    assert found == {"cat/1.jpg": {"cat"}, "dog/1.jpg": {"dog"}}


def test_an_archive_without_label_folders_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
        archive.writestr("a.jpg", encoded(1))
    with pytest.raises(FolderError, match="holds 1 file .a.jpg.: <label>/<image> expected"):
        load_dataset("mine", tmp_path / "flat.zip")


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_an_archive_that_breaks_off_is_refused(kind: str, tmp_path: Path) -> None:
    packed = pack(write_files(tmp_path / "pictures", [f"a/{n}.jpg" for n in range(20)]), kind)
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 3])
    with pytest.raises(FolderError, match="cannot be read to its end .*: download it again"):
        load_dataset("mine", packed)


def test_a_picture_that_is_cut_off_after_the_archive_was_opened_is_no_picture(tmp_path: Path) -> None:
    packed = pack(write_files(tmp_path / "pictures", ["a/1.jpg"]), "tar")
    (sample,) = load_dataset("mine", packed).samples
    with packed.open("rb+") as stream:
        stream.truncate(600)
    with pytest.raises(ImageError, match=r"a/1.jpg breaks off, because .*pictures.tar does"):
        sample.picture()


def test_a_damaged_member_of_a_zip_is_no_picture(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a/1.jpg", encoded(1))
    damaged = bytearray((tmp_path / "a.zip").read_bytes())
    damaged[100] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(damaged)
    (sample,) = load_dataset("mine", tmp_path / "a.zip").samples
    with pytest.raises(ImageError, match="a/1.jpg in .*a.zip is damaged: download it again"):
        sample.picture()


def test_a_file_that_is_no_archive_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"hello" * 1000)
    with pytest.raises(FolderError, match="is no archive and no table: a folder, a tar, tar.gz or zip, or .* expected"):
        load_dataset("imagenet-val", tmp_path / "a.tar")


def test_a_compression_that_is_not_read_is_named(tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "a"), "xztar", write_files(tmp_path / "pictures", ["a/1.jpg"]))
    with pytest.raises(FolderError, match="is compressed by xz: unpack it"):
        load_dataset("mine", tmp_path / "a.tar.xz")


def test_a_zip_with_a_compression_that_is_not_read_says_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a/1.jpg", encoded(1))
    with pytest.raises(FolderError, match="a/1.jpg in .*a.zip is compressed by lzma: unpack the zip"):
        load_dataset("mine", tmp_path / "a.zip")


def test_a_zip_that_breaks_off_is_refused(tmp_path: Path) -> None:
    packed = pack(write_files(tmp_path / "pictures", ["a/1.jpg"]), "zip")
    packed.write_bytes(packed.read_bytes()[:-30])
    with pytest.raises(FolderError, match="cannot be read to its end .File is not a zip file"):
        load_dataset("mine", packed)
