"""Archives that are damaged, lie or lead outside: no picture is lost in silence, nothing hangs or fills the memory."""

import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from eval.datasets.checking import check_dataset
from eval.datasets.loading import find_dataset, load_dataset
from eval.types import Dataset
from retrieval.errors import FolderError, ImageError, VisualMemoryWarning
from tests.eval.datasets.making import SHARK, TENCH, contents, encoded, truths

NAMES = [f"{label}/{number}.jpg" for label in "ab" for number in range(20)]


def tar_of(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a tar."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def header(name: str, *, kind: bytes = tarfile.REGTYPE, size: int = 0, linkname: str = "") -> bytes:
    """Return the header of a tar's member."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, linkname
    return info.tobuf(tarfile.GNU_FORMAT)


def load_bytes(folder: Path, name: str, content: bytes, *, file: str = "a.tar") -> Dataset:
    (folder / file).write_bytes(content)
    return load_dataset(name, folder / file)


@pytest.mark.parametrize("junk", [os.urandom(2048), bytes(2048)], ids=["overwritten", "zeroed"])
def test_a_tar_that_is_damaged_in_the_middle_is_refused(junk: bytes, tmp_path: Path) -> None:
    whole = tar_of((name, encoded(number)) for number, name in enumerate(NAMES))
    place = whole.index(b"b/3.jpg")
    with pytest.raises(FolderError, match="it breaks off or is damaged at byte .*: download it again"):
        load_bytes(tmp_path, "mine", whole[:place] + junk + whole[place + len(junk) :])


def test_a_tar_that_is_cut_between_two_files_is_refused(tmp_path: Path) -> None:
    whole = tar_of((name, encoded(number)) for number, name in enumerate(NAMES))
    with pytest.raises(FolderError, match="it breaks off: the empty blocks that end a tar are missing"):
        load_bytes(tmp_path, "mine", whole[: whole.index(b"b/3.jpg")])


@pytest.mark.parametrize("inner", [b"", b"no tar", os.urandom(4096), tar_of([("1.jpg", encoded(1))])[:1024]])
def test_a_class_that_is_no_whole_tar_is_named(inner: bytes, tmp_path: Path) -> None:
    whole = tar_of([(f"{TENCH}.tar", tar_of([("1.jpg", encoded(1))])), (f"{SHARK}.tar", inner)])
    with pytest.raises(FolderError, match=f"{SHARK}.tar in .*a.tar is no tar, breaks off or is damaged"):
        load_bytes(tmp_path, "imagenet-train", whole)


def test_a_tar_within_two_others_is_refused(tmp_path: Path) -> None:
    deep = tar_of([("a.tar", tar_of([("b.tar", tar_of([("1.jpg", encoded(1))]))]))])
    with pytest.raises(FolderError, match="a/b.tar in .* is a tar in a tar in a tar, which is not read"):
        load_bytes(tmp_path, "mine", deep)


def test_what_an_operating_system_leaves_beside_a_class_is_no_class(tmp_path: Path) -> None:
    whole = tar_of([(f"{TENCH}.tar", tar_of([("1.jpg", encoded(1))])), (f"._{TENCH}.tar", b"attributes")])
    assert truths(load_bytes(tmp_path, "imagenet-train", whole)) == {f"{TENCH}/1.jpg": {TENCH}}


@pytest.mark.parametrize("size", [-512, 1 << 33, 1 << 62])
def test_a_member_that_claims_an_impossible_size_is_refused(size: int, tmp_path: Path) -> None:
    whole = tar_of([("a/1.jpg", encoded(1))])[:1536] + header("a/2.jpg", size=size)
    with pytest.raises(FolderError, match="cannot be read to its end"):
        load_bytes(tmp_path, "mine", whole + bytes(1024))


def test_links_are_followed_inside_an_archive_and_counted_where_they_lead_elsewhere(tmp_path: Path) -> None:
    first = tar_of([("cat/1.jpg", encoded(1))])[:1536]
    links = [
        ("./cat/2.jpg", tarfile.LNKTYPE, "./cat/1.jpg"),
        ("dog/3.jpg", tarfile.SYMTYPE, "../dog/4.jpg"),  # what comes later, and is a link itself
        ("dog/4.jpg", tarfile.SYMTYPE, "../cat/1.jpg"),
        ("dog/5.jpg", tarfile.LNKTYPE, "etc/passwd"),
        ("dog/6.jpg", tarfile.SYMTYPE, "/cat/1.jpg"),
        ("dog/7.jpg", tarfile.SYMTYPE, "../../cat/1.jpg"),
        ("dog/8.jpg", tarfile.SYMTYPE, "8.jpg"),
        ("dog/9.jpg", tarfile.FIFOTYPE, ""),
    ]
    made = b"".join(header(name, kind=kind, linkname=target) for name, kind, target in links)
    with pytest.warns(VisualMemoryWarning, match="a.tar: .* passed over"):
        dataset = load_bytes(tmp_path, "mine", first + made + bytes(1024))
    assert contents(dataset) == dict.fromkeys(["cat/1.jpg", "cat/2.jpg", "dog/3.jpg", "dog/4.jpg"], encoded(1))
    assert truths(dataset)["dog/3.jpg"] == {"dog"}
    notes = check_dataset("mine", tmp_path / "a.tar").notes
    assert notes[0] == "1 special file passed over: pipes and devices hold no pictures"
    assert notes[1] == "4 links passed over: no file inside the archive lies at the other end"


def test_links_inside_a_tar_in_a_tar_stay_in_it(tmp_path: Path) -> None:
    link = header("2.jpg", kind=tarfile.LNKTYPE, linkname="1.jpg")
    out = header("3.jpg", kind=tarfile.SYMTYPE, linkname="../a/1.jpg")
    whole = tar_of([("a.tar", tar_of([("1.jpg", encoded(1))])[:1536] + link + out + bytes(1024)), ("b/1.jpg", b"")])
    (tmp_path / "a.tar").write_bytes(whole)
    found = find_dataset("mine", tmp_path / "a.tar")
    assert truths(found.dataset) == {"a/1.jpg": {"a"}, "a/2.jpg": {"a"}, "b/1.jpg": {"b"}}
    assert found.notes == ("1 link passed over: no file inside the archive lies at the other end",)


def test_links_in_a_zip_are_followed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("cat/1.jpg", encoded(1))
        for name, target in (("dog/2.jpg", "../cat/1.jpg"), ("dog/3.jpg", "/etc/passwd")):
            link = zipfile.ZipInfo(name)
            link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, target)
    found = find_dataset("mine", tmp_path / "a.zip")
    assert contents(found.dataset) == {"cat/1.jpg": encoded(1), "dog/2.jpg": encoded(1)}
    assert found.notes == ("1 link passed over: no file inside the archive lies at the other end",)


@pytest.mark.parametrize("prefix", ["./", "././", "/", "/data/pets/", ".//"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_are_read_however_a_program_wrote_them(kind: str, prefix: str, tmp_path: Path) -> None:
    names = [f"{prefix}cat/1.jpg", f"{prefix}dog/1.jpg", "../cat/2.jpg", "cat/../../dog/2.jpg"]
    if kind == "tar":
        (tmp_path / "a.tar").write_bytes(tar_of((name, encoded(1)) for name in names))
    else:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name in names:
                archive.writestr(name, encoded(1))
    found = find_dataset("mine", tmp_path / f"a.{kind}")
    assert truths(found.dataset) == {"cat/1.jpg": {"cat"}, "dog/1.jpg": {"dog"}}
    assert found.notes == ("2 files passed over: a path with .. in it leads out of the archive",)


def test_a_zip_with_backslashes_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("pets\\", "pets\\cat\\1.jpg", "pets\\dog\\1.jpg"):
            info = zipfile.ZipInfo("name")
            info.filename = name
            archive.writestr(info, b"" if name.endswith("\\") else encoded(1))
    assert truths(load_dataset("mine", tmp_path / "a.zip")) == {"cat/1.jpg": {"cat"}, "dog/1.jpg": {"dog"}}


def test_labels_of_another_encoding_are_written_as_escapes(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("café/1.jpg"))
    assert truths(load_dataset("mine", tmp_path / "a.tar")) == {"caf\\xe9/1.jpg": {"caf\\xe9"}}


@pytest.mark.parametrize("claimed", [0, 1000, 0xFFFFFFF0])
def test_a_zip_unpacks_no_more_than_a_picture_claims_and_may(claimed: int, tmp_path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed, name = packer.compress(bytes(1 << 24)) + packer.flush(), b"a/1.jpg"
    sizes = (0, len(packed), claimed, len(name))
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, *sizes, 0) + name
    central = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 0, *sizes, 0, 0, 0, 0, 0, 0) + name
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local) + len(packed), 0)
    (sample,) = load_bytes(tmp_path, "mine", local + packed + central + end, file="a.zip").samples
    with pytest.raises(ImageError, match="is damaged: download it again|more than a picture's limit"):
        sample.picture()


def test_a_zip_whose_list_of_members_ends_early_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in NAMES:
            archive.writestr(name, b"")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.rindex(b"PK\1\2", 0, -200) + 33] = 0xFF  # the length of its comment, which hides those behind
    with pytest.raises(FolderError, match="40 members expected, .* found"):
        load_bytes(tmp_path, "mine", bytes(content), file="a.zip")


def test_an_encrypted_zip_says_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/1.jpg", encoded(1))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # the flag
    with pytest.raises(FolderError, match="a/1.jpg in .* is encrypted: unpack the zip"):
        load_bytes(tmp_path, "mine", bytes(content), file="a.zip")


def test_a_sparse_file_says_that_it_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="a/1.jpg in .* is a sparse file, which is not read: unpack the tar"):
        load_bytes(tmp_path, "mine", header("a/1.jpg", kind=tarfile.GNUTYPE_SPARSE) + bytes(1024))


@pytest.mark.parametrize("name", ["pipe", "pipe.csv", "pipe.parquet", "pipe.tar", "dangling"])
@pytest.mark.parametrize("dataset", ["mine", "imagenet-val"])
def test_a_path_that_is_neither_folder_nor_file_is_refused(dataset: str, name: str, tmp_path: Path) -> None:
    if name == "dangling":
        (tmp_path / name).symlink_to("nowhere")
    else:
        os.mkfifo(tmp_path / name)
    with pytest.raises(FolderError, match="is neither a folder nor a file"):
        load_dataset(dataset, tmp_path / name)
