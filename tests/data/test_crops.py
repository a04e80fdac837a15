"""Cells cut out of fields: formats of annotations, windows, and what is wrong with others."""

import json
import threading

import numpy as np
import pytest
from trees import encode, texts, write, zip_folder

import leukjax as lj
from leukjax import config
from leukjax.data import annotation_formats, annotations, field_cache
from leukjax.data.annotation_formats import Cell
from leukjax.data.datasets import crops, make_dataset
from leukjax.data.datasets.crops import Crops, window
from leukjax.data.decode import BadImage
from leukjax.data.split import make_split
from leukjax.errors import UserError

WIDTH, HEIGHT = 64, 48
NAMES = ("rbc", "wbc")
# (class, left, top, width, height), the same in each field.
BOXES = [(0, 4, 8, 16, 12), (1, 30, 20, 10, 20), (0, 50, 30, 14, 18)]


def field(seed):
    return np.random.default_rng(seed).integers(1, 255, (HEIGHT, WIDTH, 3), np.uint8)


def fields(root, names=("a", "b", "c"), folder="images"):
    for name in names:
        write(root / folder / f"{name}.png", encode(field(ord(name) - ord("a")), "PNG"))
    return root


def coco_content(names=("a", "b", "c"), **changes):
    content = {
        "images": [
            {"id": 7 + k, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT}
            for k, name in enumerate(names)
        ],
        "categories": [{"id": 3 + k, "name": name} for k, name in enumerate(NAMES)],
        "annotations": [
            {"id": 10 * k + j, "image_id": 7 + k, "category_id": 3 + box[0], "bbox": box[1:]}
            for k in range(len(names))
            for j, box in enumerate(BOXES)
        ],
    }
    return json.dumps(content | changes)


def coco(root):
    write(root / "all.json", coco_content())


def yolo(root, end=""):
    lines = [
        f"{k} {(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} {h / HEIGHT}{end}"
        for k, x, y, w, h in BOXES
    ]
    for name in "abc":
        write(root / "labels" / f"{name}.txt", "\n".join(lines) + "\n")
    write(root / "data.yaml", "nc: 2\nnames:\n  0: rbc\n  1: wbc\n")


def voc(root):
    objects = "".join(
        f"<object><name>{NAMES[k]}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for k, x, y, w, h in BOXES
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    for name in "abc":
        write(root / "Annotations" / f"{name}.xml", f"<annotation>{size}{objects}</annotation>")


@pytest.fixture(params=[coco, yolo, voc])
def root(request, tmp_path):
    request.param(fields(tmp_path / "data"))
    return tmp_path / "data"


def test_formats_of_boxes(root):
    data = Crops(root)
    assert data.classes == NAMES
    assert len(data) == 9
    assert data.manifest.id.tolist()[:4] == [f"images/a.png#000{k}" for k in range(3)] + [
        "images/b.png#0000"
    ]
    assert set(data.manifest.subject) == {f"images/{name}.png" for name in "abc"}
    assert "the fields are the subjects" in "".join(texts(data))
    for seed, name in enumerate("abc"):
        of_field = [entry for entry in data.entries if entry.path == f"images/{name}.png"]
        for entry, (label, x, y, w, h) in zip(of_field, BOXES, strict=True):
            assert entry.label == label
            np.testing.assert_array_equal(
                data.image(entry), field(seed)[y : y + h, x : x + w]
            )  # fmt: skip


def test_a_config_makes_the_same_cells_from_a_zip(root, tmp_path, monkeypatch):
    monkeypatch.setenv("LEUKJAX_CACHE", str(tmp_path / "cache"))
    packed = zip_folder(root, tmp_path / "data.zip")
    changes = {"data.crop_margin": 0.25, "data.crop_size": 16, "data.subject_pattern": "([ab])"}
    write(root / "images" / "c.png", b"")  # the zip has all
    section = config.load("cnn:crops", changes | {"data.root": str(packed)}).data
    section.subject_pattern = "images/([abc])"
    data = make_dataset(section)
    again = make_dataset(config.load("cnn:crops", data.config_fields).data)
    records, other = data.prepare(16), again.prepare(16)
    assert records.checksum == other.checksum
    assert set(data.manifest.subject) == {"a", "b", "c"}
    assert not any("WARNING" in text for text in texts(data))
    assert lj.Crops is Crops


@pytest.mark.parametrize(
    ("box", "margin", "size", "expected"),
    [
        ((4, 8, 16, 12), 0.0, 0, (4, 8, 20, 20)),
        ((4, 8, 16, 12), 0.25, 0, (0, 5, 24, 23)),
        ((4, 8, 16, 12), 0.0, 20, (2, 4, 22, 24)),
        ((30.4, 20.6, 10.2, 20), 0.0, 0, (30, 21, 41, 41)),
        ((50, 40, 14, 18), 0.5, 0, (43, 31, 64, 48)),  # cut at the border
        ((-6, -4, 20, 20), 0.0, 0, (0, 0, 14, 16)),
        ((20, 20, 0, 0), 0.0, 11, (15, 15, 26, 26)),  # a point
        ((63, 47, 0, 0), 0.0, 20, (53, 37, 64, 48)),
    ],
)
def test_windows(box, margin, size, expected):
    cell = Cell("x", box, "a.txt: line 1", is_point=not box[2])
    assert window(cell, (HEIGHT, WIDTH), margin, size) == expected


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (Cell("x", (64, 0, 9, 9), "a: 1"), r"a: 1: 64 0, .* outside the field of 64x48 pixels"),
        (Cell("x", (-9, 0, 9, 9), "a: 1"), "outside"),
        (Cell("x", (0, -9.5, 9, 9), "a: 1"), "outside"),
        (Cell("x", (5, 5, 0, 9), "a: 1"), "is empty or outside"),
        (Cell("x", (5, 5, 20, -9), "a: 1"), "is empty or outside"),
        (Cell("x", (5, 5, 9, 3), "a: 1"), "the window has 9x3 pixels, and needs 8"),
        (Cell("x", (5, 5, 9, 9), "a: 1", field_size=(640, 480)), "and 640x480 by the annotation"),
    ],
)
def test_windows_that_cannot_be_cut(cell, message):
    with pytest.raises(BadImage, match=message):
        window(cell, (HEIGHT, WIDTH), 0.0, 0)


def test_a_box_outside_stops_or_is_left_out(tmp_path):
    fields(tmp_path)
    content = json.loads(coco_content())
    content["annotations"][4]["bbox"] = [900, 900, 10, 10]
    write(tmp_path / "all.json", json.dumps(content))
    with pytest.raises(UserError, match=r"all\.json: annotation 11: 900 900, .* correct it"):
        Crops(tmp_path).scan()
    data = Crops(tmp_path, bad_images="skip")
    assert len(data.manifest) == 8
    assert data.skipped[0].id == "images/b.png#0001"
    assert any("1 of 9 images" in text for text in texts(data))


def test_parts_of_coco_files(tmp_path):
    for part, names in (("train", "abc"), ("valid", "de"), ("test", "fg")):
        fields(tmp_path, names, part)
        write(tmp_path / part / "_annotations.coco.json", coco_content(names))
    data = Crops(tmp_path)
    assert data.official_parts == {"train": "train", "valid": "val", "test": "test"}
    split = make_split(data.manifest, "auto", 0, official_parts=data.official_parts)
    assert split.part.tolist() == ["test"] * 6 + ["train"] * 9 + ["val"] * 6


def test_files_of_one_name_in_the_folders_of_parts(tmp_path):
    for part in ("train", "val", "test"):
        fields(tmp_path, "a", f"images/{part}")
        lines = "\n".join("01"[k] + " 0.5 0.5 0.4 0.4" for k in range(2))
        write(tmp_path / "labels" / part / "a.txt", lines)
    data = Crops(tmp_path)
    assert data.classes == ("0", "1")
    assert [entry.phase for entry in data.entries] == ["test"] * 2 + ["train"] * 2 + ["val"] * 2


@pytest.mark.parametrize(
    ("suffix", "content", "options", "classes"),
    [
        (".txt", "10 10 wbc\n40 30 rbc\n", {}, ("rbc", "wbc")),
        (".txt", "x,y,class\n10,10,11\n40,30,2\n", {}, ("2", "11")),
        (".xyc", "10\t10\n\n40\t30\n", {"label": r"images/(\w)"}, ("a", "b", "c")),
    ],
)
def test_points(tmp_path, suffix, content, options, classes):
    fields(tmp_path)
    for name in "abc":
        write(tmp_path / "points" / f"{name}{suffix}", content)
    data = Crops(tmp_path, annotations=tmp_path / "points", size=20, **options)
    assert data.classes == classes
    assert len(data) == 6
    np.testing.assert_array_equal(data.image(data.entries[0]), field(0)[0:20, 0:20])
    np.testing.assert_array_equal(data.image(data.entries[3]), field(1)[20:40, 30:50])


def test_points_need_a_size_and_a_class(tmp_path):
    fields(tmp_path)
    write(tmp_path / "a.txt", "10 10")
    with pytest.raises(UserError, match=r"data\.crop_size: give the side of the window"):
        make_dataset(config.load("cnn:crops", {"data.root": str(tmp_path)}).data)
    with pytest.raises(UserError, match=r"label: a\.txt: line 1 has no class"):
        Crops(tmp_path, size=20)
    with pytest.raises(UserError, match=r"label: '\(z\)' finds no label in images/a\.png"):
        Crops(tmp_path, size=20, label="(z)")


def test_names_of_yolo_classes(tmp_path):
    yolo(fields(tmp_path), end=" 0.9")
    write(tmp_path / "data.yaml", "names: [rbc, wbc]")
    write(tmp_path / "labels" / "classes.txt", "rbc\nwbc\n")
    write(tmp_path / "README.txt", "About the set")
    data = Crops(tmp_path, annotations=tmp_path / "labels")
    assert data.classes == NAMES
    write(tmp_path / "labels" / "classes.txt", "rbc\nplatelet\n")
    with pytest.raises(UserError, match=r"classes\.txt: names other classes than data\.yaml"):
        Crops(tmp_path, annotations=tmp_path / "labels")


BOMB = "<!DOCTYPE a [<!ENTITY b 'bb'>]><annotation>&b;</annotation>"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("all.json", "{", r"annotations: all\.json: is not JSON"),
        ("all.json", "[" * 200_000, "is not JSON"),
        ("all.json", "[]", "it has no list 'categories'"),
        ("all.json", coco_content(images=[{"id": 1.5}]), "id is float"),
        ("all.json", coco_content(images=[]), "annotation 0: no image 7"),
        ("all.json", coco_content(categories=[]), "no category 3"),
        ("all.json", coco_content("abcd"), r"root: lacks 1 of the 4 images of all\.json.*: d\.png"),
        ("all.json", coco_content().replace("[4, 8, 16, 12]", '["a", 8, 16, 12]'), "not numbers"),
        ("all.json", coco_content().replace("[4, 8, 16, 12]", "[NaN, 8, 1, 1]"), "no coordinates"),
        ("all.json", coco_content().replace("[4, 8, 16, 12]", "[4, 8]"), "has no bbox"),
        ("all.json", coco_content(annotations=[]), "no coco annotation of a cell was found"),
        (
            "all.json",
            coco_content().replace('"rbc"', '"w\\nbc"').replace('"wbc"', '"w bc"'),
            "all cells are of the class w bc",
        ),
        ("a.txt", "0 0.5 0.5 0.1", r"a\.txt: line 1 has 4 values|a\.txt: line 1: has 4 values"),
        ("a.txt", "0 0.5 0.5 0.1 x", "not numbers"),
        ("a.txt", b"\xff\xfe0", "is not UTF-8"),
        ("a.txt", "0 0.5 0.5 0.4 0.4", "all cells are of the class 0; two classes"),
        ("a.xml", "<annotation>", "is no XML that is read"),
        ("a.xml", BOMB, "it has a DOCTYPE"),
        ("a.xml", BOMB.encode("utf-16"), "it has a DOCTYPE"),
        ("a.xml", "<a><object><bndbox/></object></a>", "object 1: .* are not numbers"),
        ("b/images/a.xml", "<a/>", "no voc annotation of a cell was found"),
        ("other.md", "", "annotations: none were found below root"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, content, message):
    write(fields(tmp_path) / name, content)
    with pytest.raises(UserError, match=message) as caught:
        Crops(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("names: [a, [b]]", "its names are no list of names"),
        ("names: 3", "its names are no list of names"),
        ("a: &a [x]\nb: [*a, *a]\nnames: [rbc]", "class 1 is none of the 1 named"),
        ("names: [", "is no YAML that is read"),
        ("!!python/object/apply:os.abort []", None),
        ("{\n" * 3000, "is no YAML that is read"),
    ],
)
def test_yaml_executes_nothing(tmp_path, content, message):
    yolo(fields(tmp_path))
    write(tmp_path / "data.yaml", content)
    if message is None:
        assert Crops(tmp_path).classes == ("0", "1")
    else:
        with pytest.raises(UserError, match=message):
            Crops(tmp_path)


def test_several_formats_and_fields_are_not_guessed(tmp_path, monkeypatch):
    yolo(fields(tmp_path))
    coco(tmp_path)
    with pytest.raises(UserError, match=r"several formats: yolo \(labels/a\.txt\), coco"):
        Crops(tmp_path)
    assert len(Crops(tmp_path, format="coco")) == len(Crops(tmp_path, format="yolo")) == 9
    assert len(Crops(tmp_path, annotations=tmp_path / "all.json")) == 9
    monkeypatch.setattr(annotations, "MAX_CELLS", 8)
    with pytest.raises(UserError, match="more than 8 cells"):
        Crops(tmp_path, format="coco")
    monkeypatch.setattr(annotation_formats, "MAX_FIELD_BYTES", 8)
    with pytest.raises(UserError, match="at most 8 are read"):
        Crops(tmp_path, format="yolo")
    monkeypatch.undo()
    write(tmp_path / "again.json", coco_content("c"))
    with pytest.raises(UserError, match=r"images/c\.png is annotated in again\.json too"):
        Crops(tmp_path, format="coco")
    fields(tmp_path, "a", "more")
    with pytest.raises(UserError, match=r"all\.json.*several of the name: a\.png"):
        Crops(tmp_path, annotations=tmp_path / "all.json")


@pytest.mark.parametrize("make", [coco, yolo, voc])
def test_changed_bytes_are_read_or_refused(tmp_path, make):
    make(fields(tmp_path))
    suffixes = (".json", ".txt", ".xml", ".yaml")
    paths = sorted(path for path in tmp_path.rglob("*") if path.suffix in suffixes)
    rng, messages = np.random.default_rng(0), []
    for place in rng.random(60).tolist():
        path = paths[int(rng.integers(len(paths)))]
        whole = path.read_bytes()
        at = int(place * len(whole))
        path.write_bytes(whole[:at] + rng.choice([b"", b"9", b"-1", b"\n"]) + whole[at + 1 :])
        try:
            data = Crops(tmp_path)
            assert all(min(data.image(entry).shape) > 0 for entry in data.entries)
        except UserError as error:
            messages.append(str(error))
        path.write_bytes(whole)
    assert len(messages) > 5
    assert not [message for message in messages if "\n" in message]


def test_a_change_of_the_annotations_is_another_data_set(tmp_path):
    coco(fields(tmp_path))
    before = Crops(tmp_path).stat_key()
    assert Crops(tmp_path).stat_key() == before
    assert Crops(tmp_path, margin=0.5).stat_key() != before
    write(tmp_path / "all.json", coco_content().replace("[4, 8, 16, 12]", "[4, 8, 16, 13]"))
    assert Crops(tmp_path).stat_key() != before


def test_a_field_is_decoded_once_for_all_threads(tmp_path, monkeypatch):
    coco(fields(tmp_path))
    decoded = []
    decode = crops.decode
    monkeypatch.setattr(
        crops, "decode", lambda data, path: decoded.append(path) or decode(data, path)
    )
    data = Crops(tmp_path)
    data.scan(str(tmp_path / "cache"), threads=4)
    assert sorted(decoded) == [f"images/{name}.png" for name in "abc"]


def test_real_cells_are_those_of_a_folder(shared, tmp_path):
    """Cells of bccd_cells beside each other in fields, with boxes: the same images and split."""
    source = shared / "data" / "bccd_cells"
    names = sorted(path.name.rsplit("_", 1)[0] for path in (source / "WBC").iterdir())[:24]
    content = {"images": [], "annotations": [], "categories": []}
    for code, label in enumerate(("Platelets", "RBC", "WBC")):
        content["categories"].append({"id": code, "name": label})
    for number, name in enumerate(dict.fromkeys(names)):
        canvas = np.full((100, 1200, 3), 200, np.uint8)
        left = 0
        for path in sorted(source.glob(f"*/{name}_*.jpg")):
            pixels, _ = crops.decode(path.read_bytes(), path.name)
            height, width = pixels.shape[:2]
            canvas[:height, left : left + width] = pixels
            code = ("Platelets", "RBC", "WBC").index(path.parent.name)
            box = {"image_id": number, "category_id": code, "bbox": [left, 0, width, height]}
            content["annotations"].append(box | {"id": len(content["annotations"])})
            write(tmp_path / "cells" / path.parent.name / path.name, path.read_bytes())
            left += width
        write(tmp_path / "fields" / f"{name}.png", encode(canvas, "PNG"))
        content["images"].append({"id": number, "file_name": f"{name}.png"})
    write(tmp_path / "fields" / "cells.json", json.dumps(content))
    pattern, cache = r"(BloodImage_\d+)", str(tmp_path / "cache")
    cut = Crops(tmp_path / "fields", subject=pattern).prepare(48, cache_dir=cache)
    folder = lj.ImageFolder(tmp_path / "cells", subject=pattern).prepare(48, cache_dir=cache)
    assert cut.classes == folder.classes
    order, other = np.argsort(cut.manifest.pixels), np.argsort(folder.manifest.pixels)
    np.testing.assert_array_equal(cut.images(order), folder.images(other))
    np.testing.assert_array_equal(cut.manifest.label[order], folder.manifest.label[other])
    parts = [make_split(records.manifest, "subject", 0).part for records in (cut, folder)]
    np.testing.assert_array_equal(parts[0][order], parts[1][other])


def test_the_cache_keeps_a_bounded_number_of_bytes(monkeypatch):
    calls = []

    def decode(path):
        calls.append(path)
        if path == "bad":
            raise BadImage("bad: no image")
        if path == "gone":
            raise UserError("gone")
        return np.zeros((10, 10, 3), np.uint8), ()

    monkeypatch.setattr(field_cache, "MAX_BYTES", 600)
    cache = field_cache.FieldCache(decode)
    for path in ("a", "b", "a", "c", "a", "b"):
        cache(path)
    assert calls == ["a", "b", "c", "b"]  # c replaced b, which was not used for longest
    for error, path, times in ((BadImage, "bad", 1), (UserError, "gone", 2)):
        for _ in range(2):
            with pytest.raises(error, match=path):
                cache(path)
        assert calls.count(path) == times


def test_threads_wait_for_the_field_that_another_decodes():
    started, go = threading.Event(), threading.Event()
    calls = []

    def decode(path):
        calls.append(path)
        started.set()
        assert go.wait(10)
        return np.zeros((2, 2, 3), np.uint8), ("grey",)

    cache = field_cache.FieldCache(decode)
    results = []
    threads = [threading.Thread(target=lambda: results.append(cache("a"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert started.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert calls == ["a"]
    assert [conversions for _, conversions in results] == [("grey",)] * 3
