"""Tables of images: what is found, and what is said when something is missing."""

import json

import pytest
from trees import cell, encode, texts, write

import leukjax as lj
from leukjax import config
from leukjax.data import columns, table_file
from leukjax.data.columns import sort_labels
from leukjax.data.datasets import make_dataset
from leukjax.data.datasets.table import Table
from leukjax.data.split import make_split
from leukjax.errors import UserError


@pytest.fixture
def root(tmp_path):
    """Twelve images of six patients, and the rows that list them."""
    for number in range(12):
        write(tmp_path / "images" / f"c{number:02d}.png", encode(cell(number), "PNG"))
    return tmp_path


def rows():
    return [
        (f"images/c{n:02d}.png", ("blast", "normal")[n // 2 % 2], f"p{n // 2}", "tvx"[n // 4])
        for n in range(12)
    ]


def listed(header="path,label,patient", columns=3, delimiter=","):
    lines = [header.replace(",", delimiter), *(delimiter.join(row[:columns]) for row in rows())]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cells.csv", listed()),
        ("cells.tsv", listed(delimiter="\t")),
        ("cells.csv", listed("Filename;Class;Patient_ID", delimiter=";").replace(",", ";")),
        ("cells.csv", ("\ufeff" + listed()).encode()),
        ("cells.csv", listed().encode("utf-16")),
        (
            "cells.jsonl",
            "\n".join(
                json.dumps({"img_name": p, "labels": c, "subject": s}) for p, c, s, _ in rows()
            ),
        ),
    ],
)
def test_forms_of_a_table(root, name, content):
    data = Table(write(root / name, content))
    assert len(data) == 12
    assert data.classes == ("blast", "normal")
    assert data.subjects_known
    manifest = data.manifest
    assert manifest.id.tolist() == [row[0] for row in rows()]
    assert [data.classes[label] for label in manifest.label] == [row[1] for row in rows()]
    assert manifest.subject.tolist() == [row[2] for row in rows()]
    assert data.background == "black"


def test_columns_root_and_template(root):
    lines = "\n".join(f"c{n:02d},{n // 2 % 3},x{n}" for n in range(12))
    table = write(root / "lists" / "cells.csv", f"ID,grade,note\n{lines}\n")
    data = Table(table, root, columns="label=grade", path_template="images/{ID}.png")
    assert data.classes == ("0", "1", "2")
    assert not data.subjects_known
    assert any("no subjects" in text for text in texts(data))
    # A config makes the same data set.
    section = config.load("cnn:table", data.config_fields).data
    assert make_dataset(section).manifest.id.tolist() == data.manifest.id.tolist()
    with pytest.raises(UserError, match=r"root: .* lacks 12 of the 12 images .* and 9 more"):
        Table(table, root, columns="label=grade", path_template="images/{ID}.jpg")


def test_numbers_are_sorted_as_numbers(root):
    lines = "\n".join(f"images/c{n:02d}.png,{9 + n % 3}" for n in range(12))
    data = Table(write(root / "cells.csv", f"path,label\n{lines}\n"))
    assert data.classes == ("9", "10", "11")


def test_parts_of_the_table_are_the_official_split(root):
    names = {"t": "training", "v": "valid", "x": "Test"}
    lines = "\n".join(",".join((*row[:3], names[row[3]])) for row in rows())
    data = Table(write(root / "cells.csv", f"path,label,patient,split\n{lines}\n"))
    assert data.official_parts == {"training": "train", "valid": "val", "Test": "test"}
    split = make_split(data.manifest, "official", 0, official_parts=data.official_parts)
    assert split.part.tolist() == ["train"] * 4 + ["val"] * 4 + ["test"] * 4


def test_unlabelled_rows_are_in_no_part(root):
    content = listed().replace("images/c00.png,blast", "images/c00.png,")
    data = Table(write(root / "cells.csv", content))
    assert data.manifest.label[0] == -1
    assert any("1 images have no label" in text for text in texts(data))


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "no row below its header"),
        ("path,label\n", {}, "no row below its header"),
        ("a,b\nx,y\n", {}, r"no column of paths; its columns are a, b; name one with columns='p"),
        ("path,b\nx,y\n", {}, "has no column of labels"),
        ("path,path\nx,y\n", {}, "two columns are called path"),
        ("path,label\nimages/c00.png\n", {}, "line 2 has 1 values, the header has 2"),
        ("path,label\nimages/c00.png,a\n", {}, "has 1 class; it needs two"),
        (
            "path,label\n\nimages/c00.png,a\nimages/../images/c00.png,b\n",
            {},
            "images/c00.png is on the lines 3 and 4",
        ),
        ("path,label\n../c00.png,a\nimages/c01.png,b\n", {}, r"lacks 1 of the 2 .*: \.\./c00\.png"),
        ("path,label\n,a\nimages/c01.png,b\n", {}, "line 2 has no path"),
        (listed(), {"columns": "lable=label"}, "must read ROLE=COLUMN"),
        (listed(), {"columns": "label=grade"}, "no column 'grade'; it has path, label, patient"),
        (listed(), {"path_template": "{file}"}, "path_template: .* has no column 'file'"),
        (b"path,label\n\xff\xfe,b\n", {}, "cannot be read"),
        ('path,label\n"open', {}, "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(root, content, options, message):
    table = write(root / "cells.csv", content)
    with pytest.raises(UserError, match=message) as caught:
        Table(table, **options)
    assert "\n" not in str(caught.value)


def test_json_lines_that_are_none(root):
    for content, message in (
        ("{}\n[1]", "line 2 is not a JSON object"),
        ("{", "line 1 is not"),
        ('{"path": "\\ud800"}', "surrogates not allowed"),
        ('{"\\ud800": 1}', "surrogates not allowed"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            Table(write(root / "cells.jsonl", content))
        str(caught.value).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cells.csv", "path,label\n" + "x" * 5000 + ",a\n", "more than 4,096 characters"),
        ("cells.csv", 'path,label\nx,"' + "\n" * 5000 + '"\n', "more than 4,096 characters"),
        ("cells.csv", "," * 30 + "\n" + ("," * 29 + "x,\n") * 4, "more than 100 values"),
        ("cells.jsonl", "".join(f'{{"k{n}": 1}}\n' for n in range(11)), "more than 100 values"),
        (
            "cells.csv",
            "path,label\n" + "".join(f"images/c{n:02d}.png,{n}\n" for n in range(12)),
            "has 12 classes; it needs at most 10",
        ),
    ],
)
def test_sizes_are_bounded(root, monkeypatch, name, content, message):
    monkeypatch.setattr(table_file, "_MAX_ROW", 4096)
    monkeypatch.setattr(columns, "MAX_CELLS", 100)
    monkeypatch.setattr(columns, "MAX_CLASSES", 10)
    with pytest.raises(UserError, match=message):
        Table(write(root / name, content))


def test_a_config_names_its_fields():
    with pytest.raises(UserError, match=r"data\.table: give the table"):
        make_dataset(config.load("cnn:table").data)
    with pytest.raises(UserError, match=r"data\.table: .*/nowhere\.csv cannot be read"):
        make_dataset(config.load("cnn:table", {"data.table": "/nowhere.csv"}).data)
    assert lj.Table is Table


def test_json_lines_without_a_label_are_unlabelled(root):
    records = [{"path": path, "label": label} for path, label, *_ in rows()]
    del records[3]["label"]
    table = write(root / "cells.jsonl", "\n".join(map(json.dumps, records)))
    assert [entry.label for entry in Table(table).entries[:4]] == [0, 0, 1, -1]


def test_other_columns_are_attributes_unless_they_identify_people(root, tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "MAX_VALUES", 11)
    lines = ["path,label,patient,Hospital,sex,name,note"]
    lines += [
        f"{path},{label},{patient},{'AB'[n % 2]},{'mf'[n % 3 > 0]},Name {n:03d},"
        for n, (path, label, patient, _) in enumerate(rows())
    ]
    data = Table(write(root / "cells.csv", "\n".join(lines)))
    assert list(data.attributes) == ["source", "sex"]
    assert data.attributes["source"]["images/c01.png"] == "B"
    assert Table(data.config_fields["data.table"]).attributes == data.attributes
    records = data.prepare(16, cache_dir=str(tmp_path / "cache"))
    records.save_attributes(tmp_path / "attributes.csv")
    written = (tmp_path / "attributes.csv").read_text().splitlines()
    assert written[:2] == ["id,source,sex", "images/c00.png,A,m"]


def test_a_column_called_source_is_not_the_source_if_another_is(root):
    lines = ["path,label,patient,source,scanner"]
    lines += [
        f"{path},{label},{patient},{'xy'[n % 2]},{'AB'[n % 3 > 0]}"
        for n, (path, label, patient, _) in enumerate(rows())
    ]
    table = write(root / "cells.csv", "\n".join(lines))
    assert Table(table).attributes["source"]["images/c01.png"] == "y"
    given = Table(table, columns="source=scanner").attributes
    assert list(given) == ["source"]
    assert given["source"]["images/c01.png"] == "B"


@pytest.mark.parametrize(
    ("labels", "ordered"),
    [
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["1", "01", "0"], ("0", "01", "1")),  # equal numbers by their text, in every process
        (["10", "9", "b"], ("10", "9", "b")),
    ],
)
def test_classes_have_one_order(labels, ordered):
    for given in (labels, labels[::-1]):
        assert sort_labels(given) == ordered
