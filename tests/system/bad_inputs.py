"""Inputs that the training command must refuse, each with the line that it must say."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

# A run of a second on 24 images of 12 subjects.
GOOD = {
    "data.subject_pattern": "(p[0-9]+)_",
    "data.image_size": 16,
    "model.width": 4,
    "train.batch_size": 4,
    "train.epochs": 1,
}
NO_PATTERN = {"data.subject_pattern": None}

Make = Callable[[Path], dict]
CASES: dict[str, tuple[Make, str]] = {}


def case(says: str) -> Callable[[Make], Make]:
    """A function that makes a bad input in a folder and gives the fields that name it."""

    def add(make: Make) -> Make:
        CASES[make.__name__] = (make, says)
        return make

    return add


def field(name: str, says: str, **fields: object) -> None:
    """A case of good images and wrong fields; `data__root` stands for ``data.root``."""
    changes = {key.replace("__", "."): value for key, value in fields.items()}
    CASES[name] = (lambda folder: {"data.root": images(folder / "data")} | changes, says)


def cell(seed: int, side: int = 24) -> np.ndarray:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    image = random.integers(30, 220, (side, side, 3), np.uint8)
    image[np.hypot(x, y) > side * random.uniform(0.25, 0.5)] = 0
    return image


def png(image: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        file, kind, **options
    )
    return file.getvalue()


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def images(root: Path) -> Path:
    """Two classes, six subjects each, two cells each."""
    for number, kind in enumerate(("blast", "healthy")):
        for subject in range(6):
            for index in range(2):
                data = png(cell(100 * number + 10 * subject + index))
                write(root / kind / f"p{number}{subject}_{index}.png", data)
    return root


def with_image(folder: Path, content: bytes) -> dict:
    root = images(folder / "data")
    write(root / "blast" / "p09_9.png", content)
    return {"data.root": root}


# The root, and the layout below it.


@case(r"data\.root: is empty: give the folder")
def root_not_given(folder: Path) -> dict:
    return {}


@case(r"data\.root: .*/none does not exist: give the folder")
def root_missing(folder: Path) -> dict:
    return {"data.root": folder / "none"}


@case(r"data\.root: .* holds no image .*: give the folder")
def root_empty(folder: Path) -> dict:
    (folder / "data").mkdir()
    return {"data.root": folder / "data"}


@case(r"data\.root: .*/data cannot be read \(Permission denied\): restore it or change")
def root_unreadable(folder: Path) -> dict:
    images(folder / "data").chmod(0)
    return {"data.root": folder / "data"}


@case(r"data\.root: .*/blast cannot be read \(Permission denied\): restore it or change")
def folder_of_a_class_unreadable(folder: Path) -> dict:
    (images(folder / "data") / "blast").chmod(0)
    return {"data.root": folder / "data"}


@case(r"blast/p00_0\.png: cannot be read \(Permission denied\): restore it or change")
def image_unreadable(folder: Path) -> dict:
    (images(folder / "data") / "blast" / "p00_0.png").chmod(0)
    return {"data.root": folder / "data"}


@case(r"data\.root: .*notes\.txt is a file but not a zip: give the folder")
def root_is_a_file(folder: Path) -> dict:
    return {"data.root": write(folder / "notes.txt", "hello")}


@case(r"data\.root: .* is not laid out as C-NMC 2019: found .*; expected C-NMC_training_data")
def layout_is_not_cnmc(folder: Path) -> dict:
    return {"data.root": images(folder / "data"), "": "cnn:cnmc"} | NO_PATTERN


@case(r"data\.root: .* is not laid out as ALL-IDB2: found .*; expected Im001_1\.tif")
def layout_is_not_all_idb2(folder: Path) -> dict:
    return {"data.root": images(folder / "data"), "": "cnn:all_idb2"} | NO_PATTERN


@case(r"data\.root: p00_0\.png is not in a class folder .*: move it into one, remove it")
def root_a_level_too_low(folder: Path) -> dict:
    return {"data.root": images(folder / "data") / "blast"}


@case(r"data\.root: .* holds only the class .* a level too high or too low")
def root_a_level_too_high(folder: Path) -> dict:
    images(folder / "data" / "inner")
    return {"data.root": folder / "data"}


@case(r"data\.root: .* holds test, train, with .* not like its classes\. Set .*root=.*/data/train")
def root_holds_the_parts(folder: Path) -> dict:
    for part in ("train", "test"):
        images(folder / "data" / part)
    return {"data.root": folder / "data"}


@case(r"data\.root: class third has no image .*: add images or remove the folder")
def class_without_images(folder: Path) -> dict:
    (images(folder / "data") / "third").mkdir()
    return {"data.root": folder / "data"}


@case(r"data\.root: no image of third can be decoded .*\. Replace the files")
def class_without_good_images(folder: Path) -> dict:
    write(images(folder / "data") / "third" / "p20_0.png", b"hello")
    return {"data.root": folder / "data", "data.bad_images": "skip"}


# Images.


@case(r"blast/p09_9\.png: has no bytes: download or copy it again")
def image_of_zero_bytes(folder: Path) -> dict:
    return with_image(folder, b"")


@case(r"blast/p09_9\.png: is damaged or cut off .*: download or copy it again")
def image_truncated(folder: Path) -> dict:
    return with_image(folder, png(cell(1))[:-200])


@case(r"blast/p09_9\.png: is not a PNG, .*: convert, replace or remove it")
def image_that_is_text(folder: Path) -> dict:
    return with_image(folder, b"hello")


@case(r"blast/p09_9\.png: 1 x 1 pixels; at least 8 per side are needed: remove it")
def image_of_1_pixel(folder: Path) -> dict:
    return with_image(folder, png(cell(1)[:1, :1]))


@case(r"blast/p09_9\.png: .* pixels.*: crop or shrink it")
def image_of_20_000_pixels_a_side(folder: Path) -> dict:
    return with_image(folder, png(Image.new("1", (20_000, 20_000))))


# Names and tables.


@case(r"data\.subject_pattern: '\(\[a-z\]\+\)\+!' takes too long on .*; avoid a repetition")
def pattern_without_end(folder: Path) -> dict:
    root = images(folder / "data")
    (root / "blast" / "p00_0.png").rename(root / "blast" / f"{'a' * 48}.png")
    return {"data.root": root, "data.subject_pattern": "([a-z]+)+!"}


def subjects(folder: Path, change: Callable[[str], str]) -> dict:
    root = images(folder / "data")
    rows = [f"{p.relative_to(root)},{p.name[:3]}\n" for p in sorted(root.rglob("*.png"))]
    write(folder / "subjects.csv", change("path,subject\n" + "".join(rows)))
    return {"data.root": root, "data.subject_csv": folder / "subjects.csv"} | NO_PATTERN


@case(r"data\.subject_csv: .* cannot be read \(No such file or directory\): give a CSV")
def table_missing(folder: Path) -> dict:
    subjects(folder, str)
    return {"data.root": folder / "data", "data.subject_csv": "none.csv"} | NO_PATTERN


@case(r"data\.subject_csv: .* has no row for blast/p00_0\.png \(1 such images\): add their rows")
def table_with_a_missing_row(folder: Path) -> dict:
    return subjects(folder, lambda text: text.replace("blast/p00_0.png,p00\n", ""))


@case(r"subjects\.csv: line 26: blast/p00_0\.png has two rows: remove one")
def table_with_a_duplicate_row(folder: Path) -> dict:
    return subjects(folder, lambda text: text + "blast/p00_0.png,p00\n")


@case(r"subjects\.csv: line 26: blast/x\.png is not an image below the root: write paths relative")
def table_with_an_unknown_row(folder: Path) -> dict:
    return subjects(folder, lambda text: text + "blast/x.png,p00\n")


def labels(folder: Path, change: Callable[[str], str]) -> dict:
    """C-NMC: one fold, and two preliminary images with their labels."""
    for subject in range(1, 7):
        for kind, mark in (("all", ""), ("hem", "H")):
            name = f"UID_{mark}{subject}_1_1_{kind}.bmp"
            write(folder / "data" / "fold_0" / kind / name, png(cell(subject), "BMP"))
    for number in (1, 2):
        write(folder / "data" / "prelim" / f"{number}.bmp", png(cell(90 + number), "BMP"))
    rows = "UID_50_1_1_all.bmp,1.bmp,1\nUID_H50_1_1_hem.bmp,2.bmp,0\n"
    write(folder / "data" / "labels.csv", change(f"Patient_ID,new_names,labels\n{rows}"))
    return {"data.root": folder / "data", "": "cnn:cnmc"} | NO_PATTERN


@case(r"labels\.csv: has no row for 2\.bmp .*: download the file again or remove the images")
def labels_with_a_missing_row(folder: Path) -> dict:
    return labels(folder, lambda text: text.replace("UID_H50_1_1_hem.bmp,2.bmp,0\n", ""))


@case(r"labels\.csv: line 4: 1\.bmp has two rows: remove one")
def labels_with_a_duplicate_row(folder: Path) -> dict:
    return labels(folder, lambda text: text + "UID_50_1_1_all.bmp,1.bmp,1\n")


@case(r"labels\.csv: line 4: '9999\.bmp' is none of the preliminary files .*: correct the row")
def labels_with_an_unknown_row(folder: Path) -> dict:
    return labels(folder, lambda text: text + "UID_50_1_1_all.bmp,9999.bmp,1\n")


# Zips.


def zipped(folder: Path, more: dict[str, bytes]) -> Path:
    root, target = images(folder / "data"), folder / "data.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, path.relative_to(root))
        for name, content in more.items():
            archive.writestr(name, content)
    return target


@case(r"data\.zip: member '\.\./blast/x\.png' points outside the zip: do not use this file")
def zip_with_a_path_outside_itself(folder: Path) -> dict:
    return {"data.root": zipped(folder, {"../blast/x.png": png(cell(1))})}


@case(r"data\.zip: member 'blast/x\.png' brings the unpacked size over .*: unpack it yourself")
def zip_that_unpacks_beyond_the_limit(folder: Path) -> dict:
    target = zipped(folder, {"blast/x.png": b""})
    data = bytearray(target.read_bytes())
    struct.pack_into("<I", data, data.rfind(b"PK\1\2") + 24, 2**31)  # the size it claims
    target.write_bytes(data)
    return {"data.root": target}


@case(r"data\.zip: not a whole zip .*: download it again")
def zip_cut_off(folder: Path) -> dict:
    target = zipped(folder, {})
    target.write_bytes(target.read_bytes()[:-300])
    return {"data.root": target}


@case(r"data\.zip!blast/p09_9\.png: damaged in its zip .*: download the zip again")
def zip_with_a_damaged_member(folder: Path) -> dict:
    target = zipped(folder, {"blast/p09_9.png": b"A" * 999})
    target.write_bytes(target.read_bytes().replace(b"A" * 999, b"B" * 999))
    return {"data.root": target}


# Fields that do not go with each other, the data or the machine (four devices).

field("batch_not_divisible_by_the_devices", r"--config\.train\.batch_size=6: not divisible by the "
      r"4 devices .*; change it or mesh\.data", train__batch_size=6)  # fmt: skip
field("evaluation_batch_not_divisible_by_the_devices", r"--config\.train\.eval_batch_size=5: not "
      r"divisible by the 4 devices .*; change it", train__eval_batch_size=5)  # fmt: skip
field("more_devices_than_there_are", r"--config\.mesh\.data=8, .*: only 4 devices are here; give",
      train__batch_size=8, mesh__data=8)  # fmt: skip
field("fewer_images_than_a_batch", r"train\.batch_size: a batch of 64 cannot be filled by the 16 "
      r"training images: use 16 or less", train__batch_size=64)  # fmt: skip
field("fewer_groups_than_folds", r"split\.protocol kfold: class blast has 6 groups for 9 parts\."
      r" Lower split\.folds or add data", split__protocol="kfold", split__folds=9)  # fmt: skip
field("image_too_small_for_the_cnn", r"image_size=8: too small for the cnn.*; give "
      r"at least 16", data__image_size=8)  # fmt: skip
field("image_too_small_for_the_hybrid", r"image_size=24: too small for the "
      r"hybrid_vit r26_s32.*; give more than 32", data__image_size=24,
      **{"": "hybrid_vit:image_folder"})  # fmt: skip
field("image_too_small_for_the_resnet", r"--config\.data\.image_size=4: must be between 8 and 2048",
      data__image_size=4, **{"": "resnet50:image_folder"})  # fmt: skip
field("unknown_field", r"--config\.data\.rot: no such field; did you mean --config\.data\.root\?",
      data__rot="x")  # fmt: skip
field("weights_for_other_classes", r"--config\.loss\.class_weights=1,2,3: must be .* 2 numbers "
      r"above 0, for blast, healthy", loss__class_weights="1,2,3")  # fmt: skip
field("mean_of_two_numbers", r"--config\.data\.mean=1,2: must be auto, fit, or three numbers",
      data__mean="1,2")  # fmt: skip
field("positive_class_that_is_none", r"data\.positive: 'x' is none of the classes blast, healthy",
      data__positive="x")  # fmt: skip


# Folders that are written.


@case(r".*/file/run: cannot be written \(Not a directory\); choose another folder")
def workdir_below_a_file(folder: Path) -> dict:
    write(folder / "file", "")
    return {"data.root": images(folder / "data"), "workdir": folder / "file" / "run"}


@case(r".*/file: cannot be written \(File exists\); choose another folder")
def workdir_is_a_file(folder: Path) -> dict:
    write(folder / "file", "")
    return {"data.root": images(folder / "data"), "workdir": folder / "file"}


@case(r".*/closed/run: cannot be written \(Permission denied\); choose another folder")
def workdir_without_permission(folder: Path) -> dict:
    (folder / "closed").mkdir(mode=0o555)
    return {"data.root": images(folder / "data"), "workdir": folder / "closed" / "run"}


@case(r"data\.cache_dir: .*/closed/cache.* cannot be written \(Permission denied\): choose")
def cache_without_permission(folder: Path) -> dict:
    (folder / "closed").mkdir(mode=0o555)
    return {"data.root": images(folder / "data"), "data.cache_dir": folder / "closed" / "cache"}


@case(r"/closed/compiled: permission denied; choose a folder that you may use")
def compilation_cache_without_permission(folder: Path) -> dict:
    (folder / "closed").mkdir(mode=0o555)
    place = folder / "closed" / "compiled"
    return {"data.root": images(folder / "data"), "runtime.compilation_cache": place}


@case(r".* holds a run that differs from this one: .*; undo the change or choose another")
def workdir_of_another_run(folder: Path) -> dict:
    # The good run is in that folder: see the test.
    workdir = folder.parent / "good" / "run"
    return {"data.root": images(folder / "data"), "workdir": workdir, "train.batch_size": 8}


def arguments(folder: Path, changes: dict) -> list[str]:
    fields = GOOD | changes
    name, workdir = fields.pop("", "cnn:image_folder"), fields.pop("workdir", folder / "run")
    return [
        f"--config={name}",
        f"--workdir={workdir}",
        *(f"--config.{key}={value}" for key, value in fields.items() if value is not None),
    ]
