"""Small copies of published data sets in their official layouts, as folders and packed."""

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

from PIL import Image

from eval.types import Dataset

TENCH, GOLDFISH, SHARK = "n01440764", "n01443537", "n01484850"  # classes 0, 1 and 2
VAL_1, VAL_2, VAL_3 = "n01751748", "n09193705", "n02105855"  # what pictures 1, 2 and 3 of the validation set show
ROBIN = "00010_Animalia_Chordata_Aves_Passeriformes_Turdidae_Turdus_migratorius"
PLANT = "00011_Plantae_Tracheophyta_Magnoliopsida_Rosales_Rosaceae_Turdus_migratorius"  # a homonym, made up

# name → (its own folder, path below it → labels); what has no labels must be passed over
LAYOUTS: dict[str, tuple[str, dict[str, set[str] | None]]] = {
    "imagenet-train": (
        "train",
        {f"{TENCH}/{TENCH}_10026.JPEG": {TENCH}, f"{GOLDFISH}/{GOLDFISH}_10026.JPEG": {GOLDFISH}},
    ),
    "imagenet-val": (
        "val",
        {"ILSVRC2012_val_00000003.JPEG": {VAL_3}, "ILSVRC2012_val_00000001.JPEG": {VAL_1}, "notes.txt": None},
    ),
    "imagenet-real": (
        "val",
        {
            "ILSVRC2012_val_00000001.JPEG": None,  # no label is right
            "ILSVRC2012_val_00000002.JPEG": {VAL_2, "n04228054"},
            "ILSVRC2012_val_00000004.JPEG": {"n04263257"},
        },
    ),
    "imagenet-a": (
        "imagenet-a",
        {
            "n01498041/0.001_x.jpg": {"n01498041"},
            "n01531178/0.001_x.jpg": {"n01531178"},  # the same name in another folder
            "README.txt": None,
        },
    ),
    "imagenet-r": ("imagenet-r", {f"{GOLDFISH}/art_0.jpg": {GOLDFISH}, f"{SHARK}/art_0.jpg": {SHARK}}),
    "imagenet-sketch": ("sketch", {f"{TENCH}/sketch_0.JPEG": {TENCH}, f"{SHARK}/sketch_0.JPEG": {SHARK}}),
    "imagenet-v2-matched-frequency": (
        "imagenetv2-matched-frequency-format-val",
        {"2/a.jpeg": {SHARK}, "10/b.jpeg": {"n01530575"}, "0/c.jpeg": {TENCH}, "100/d.jpeg": {"n01860187"}},
    ),
    "ninco": (
        "NINCO_OOD_classes",
        {
            "Caracal caracal caracal/a_000.jpg": {"Caracal caracal caracal"},
            "high heels/b.PNG": {"high heels"},
            "s_sky/c.JPEG": {"s_sky"},
            "pseudorca_crassidens/d.gif": {"pseudorca_crassidens"},
            "s_sky/.DS_Store": None,
            "__MACOSX/s_sky/c.JPEG": None,
            "s_sky/@eaDir/c.JPEG/SYNOPHOTO_THUMB.jpg": None,
            "Thumbs.db": None,
        },
    ),
    "inaturalist-2021-mini": (
        "train_mini",
        {f"{ROBIN}/9d0c.jpg": {ROBIN}, f"{PLANT}/9d0c.jpg": {PLANT}},
    ),
    "tiny-imagenet-train": (
        "train",
        {f"{GOLDFISH}/images/{GOLDFISH}_0.JPEG": {GOLDFISH}, f"{GOLDFISH}/{GOLDFISH}_boxes.txt": None},
    ),
    "tiny-imagenet-val": (
        "val",
        {"images/val_0.JPEG": {GOLDFISH}, "images/val_1.JPEG": {"n01629819"}},
    ),
}
PACKED = ("tar", "tar.gz", "zip")


def encoded(number: int, *, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """Return a picture of 8 × 8 pixels that equals no other."""
    picture = Image.new("RGB", (8, 8), (number * 37 % 256, number * 91 % 256, number % 256)).convert(mode)
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()


def write_files(folder: Path, paths: list[str]) -> Path:
    """Write a picture, each another one, or a line of text to each path below a folder."""
    for number, path in enumerate(paths):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"text\n" if file.suffix in (".txt", ".db", "") else encoded(number))
    return folder


def write_layout(parent: Path, name: str) -> Path:
    """Write a small copy of a published data set below a folder, and return its own folder."""
    own, files = LAYOUTS[name]
    folder = write_files(parent / own, list(files))
    if name == "tiny-imagenet-val":
        rows = (f"{path[7:]}\t{next(iter(labels))}\t0\t0\t9\t9\n" for path, labels in files.items() if labels)
        (folder / "val_annotations.txt").write_text("".join(rows))
    return folder


def pack(folder: Path, kind: str) -> Path:
    """Return an archive beside a folder, with the folder itself in it."""
    packed = folder.parent / f"{folder.name}.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder.parent))
    else:
        with tarfile.open(packed, "w:gz" if kind == "tar.gz" else "w") as archive:
            archive.add(folder, folder.name)
    shutil.rmtree(folder)
    return packed


def truths(dataset: Dataset) -> dict[str, set[str]]:
    """Return the labels of each sample by id."""
    found = {sample.id: set(sample.labels) for sample in dataset.samples}
    assert len(found) == len(dataset.samples)  # no id twice
    return found


def contents(dataset: Dataset) -> dict[str, bytes]:
    """Return the encoded picture of each sample by id."""
    found: dict[str, bytes] = {}
    for sample in dataset.samples:
        picture = sample.picture()
        encoded = picture.read_bytes() if isinstance(picture, Path) else picture
        assert isinstance(encoded, bytes)
        found[sample.id] = encoded
    return found
