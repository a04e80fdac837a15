"""Data sets in a table, an .npz or a Parquet file, damaged at random."""

import io
import json
import zipfile
from typing import Any

import broken_values
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from broken_case import CLASSES, TEXTS, Case, damage, draw_cell
from PIL import Image

COUNT = 12
_PARTS = ("train", "val", "test")


def tables(case: Case, random: np.random.Generator) -> None:
    """Damages a table that lists images, an .npz or Parquet files."""
    make = (_table, _json_lines, _npz, _parquet)[int(random.choice(4, p=(0.25, 0.15, 0.2, 0.4)))]
    del case.fields["data.subject_pattern"]
    make(case, random)
    if random.random() < 0.1:
        case.fields["data.columns"] = str(random.choice(TEXTS))
    if random.random() < 0.1:
        case.fields["data.positive"] = str(random.choice(TEXTS))


def _rows() -> list[dict[str, Any]]:
    return [
        {"path": f"c{n:02d}.png", "label": CLASSES[n // 2 % 2], "patient": f"p{n // 2}",
         "split": _PARTS[n // 4], "site": "AB"[n % 2], "age": 30 + n}
        for n in range(COUNT)
    ]  # fmt: skip


def _png(random: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(draw_cell(random)).save(file, "PNG")
    return file.getvalue()


def _write_images(case: Case, random: np.random.Generator) -> None:
    (case.folder / "data").mkdir()
    for row in _rows():
        (case.folder / "data" / row["path"]).write_bytes(_png(random))
    case.fields["data.root"] = case.folder / "data"
    if random.random() < 0.1:
        templates = ("{path}", "{label}/{path}", "{", "{}", "{nowhere}", "../{path}", "/{path}")
        case.fields["data.path_template"] = str(random.choice(templates))


def _table(case: Case, random: np.random.Generator) -> None:
    _write_images(case, random)
    rows = [list(_rows()[0]), *([str(cell) for cell in row.values()] for row in _rows())]
    if random.random() < 0.1:  # a row of a megabyte, a million columns, or a long header
        long = (["x" * 2_000_000], [""] * 1_000_000, ["x" * 1000] * 400)
        rows[int(random.integers(COUNT))] = long[int(random.integers(3))]
    case.config = "cnn:table"
    case.fields["data.table"] = case.folder / str(random.choice(("cells.csv", "cells.tsv")))
    case.fields["data.table"].write_bytes(broken_values.change_table(rows, random))


def _json_lines(case: Case, random: np.random.Generator) -> None:
    _write_images(case, random)
    text = "".join(json.dumps(row) + "\n" for row in _rows())
    case.config = "cnn:table"
    case.fields["data.table"] = case.folder / "cells.jsonl"
    case.fields["data.table"].write_bytes(broken_values.change_json(text.encode(), random))


def _npz(case: Case, random: np.random.Generator) -> None:
    images = np.stack([draw_cell(random) for _ in range(COUNT)])
    labels = np.arange(COUNT) // 2 % 2
    if random.random() < 0.5:
        arrays = {"images": images, "labels": labels, "groups": np.arange(COUNT) // 2}
        if random.random() < 0.5:
            arrays["classes"] = np.array(CLASSES)
    else:
        rows = {part: slice(4 * number, 4 * number + 4) for number, part in enumerate(_PARTS)}
        arrays = {f"{part}_images": images[of_part] for part, of_part in rows.items()}
        arrays |= {f"{part}_labels": labels[of_part, None] for part, of_part in rows.items()}
    file = io.BytesIO()
    (np.savez if random.random() < 0.5 else np.savez_compressed)(file, **arrays)  # type: ignore[arg-type]
    data = file.getvalue()
    if random.random() < 0.5:
        data = broken_values.change_arrays(data, random)
    else:
        data = _change_header(data, random)
    case.config, case.fields["data.root"] = "cnn:npz", case.folder / "cells.npz"
    case.fields["data.root"].write_bytes(data)


def _change_header(data: bytes, random: np.random.Generator) -> bytes:
    """Returns an .npz in which the header of one array, of the same length, states other things."""
    values = (b"(9999999999, 18, 18, 3)", b"(-12, 18, 18, 3)", b"()", b"(12,)", b"[12]", b"None",
              b"'<f8'", b"'|O8'", b"'<U99999999'", b"[('a', '<f8')]", b"True", b"1" * 40,
              b"__import__('os')", b"(" * 60)  # fmt: skip
    value = values[int(random.integers(len(values)))]
    key = [b"'shape': ", b"'descr': ", b"'fortran_order': "][int(random.integers(3))]
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(file, "w") as changed:
        chosen = str(random.choice(archive.namelist()))
        for name in archive.namelist():
            content = archive.read(name)
            if name == chosen:
                place = content.find(key) + len(key)
                header = (content[:place] + value + b", }")[:127].ljust(127) + b"\n"
                content = header + content[128:]
            changed.writestr(name, content)
    return file.getvalue()


def _parquet(case: Case, random: np.random.Generator) -> None:
    table = _odd_table(random) if random.random() < 0.5 else _good_table(random)
    options: dict[str, Any] = {
        "row_group_size": int(random.choice((1, 5, 1000))),
        "compression": str(random.choice(("none", "snappy", "gzip", "zstd", "brotli", "lz4"))),
        "use_dictionary": bool(random.random() < 0.5),
        "data_page_version": str(random.choice(("1.0", "2.0"))),
        "write_page_checksum": bool(random.random() < 0.2),
        "store_schema": bool(random.random() < 0.7),
    }
    if table.num_rows > COUNT:  # would be written out in full
        options |= {"use_dictionary": True, "write_statistics": False, "row_group_size": 10**6}
    case.config, root = "cnn:parquet", case.folder / "data"
    root.mkdir()
    case.fields["data.root"] = root
    for name in random.choice(("train-0", "test-0", "validation-0"), random.integers(1, 3)):
        file = io.BytesIO()
        pq.write_table(table, file, **options)
        data = file.getvalue()
        if random.random() < 0.6:
            data = _damage_parquet(data, random)
        (root / f"{name}.parquet").write_bytes(data)


def _good_table(random: np.random.Generator) -> pa.Table:
    columns: dict[str, Any] = {
        name: [row[name] for row in _rows()] for name in ("label", "patient", "split", "site")
    }
    pngs = [_png(random) for _ in range(COUNT)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns["image"] = pa.array([{"bytes": png, "path": None} for png in pngs], kind)
    if random.random() < 0.5:
        columns["label"] = [CLASSES.index(label) for label in columns["label"]]
    table = pa.table(columns)
    about = {"info": {"features": {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}}}
    text = json.dumps(about).encode()
    if random.random() < 0.3:
        text = broken_values.change_json(text, random)
    return table.replace_schema_metadata({"huggingface": text})


def _odd_table(random: np.random.Generator) -> pa.Table:
    """Returns a table with one column of another type, or with unusual values."""
    table = _good_table(random)
    index = int(random.integers(table.num_columns))
    name = table.column_names[index]
    repeated = pa.DictionaryArray.from_arrays([0] * COUNT, pa.array(["x" * 100_000]))
    values = (
        pa.nulls(COUNT), pa.array([[1]] * COUNT), pa.array([{"bytes": None}] * COUNT),
        pa.array([{"bytes": b""}] * COUNT), pa.array([1e308] * COUNT), pa.array([True] * COUNT),
        pa.array([2**63] * COUNT, pa.uint64()), pa.array([b"\xff"] * COUNT), repeated,
        pa.array([str(random.choice(TEXTS)) for _ in range(COUNT)]),
        pa.array([str(broken_values.ODD_TEXTS[n]) for n in range(COUNT)]),
        pa.array([b"\xff\xfe"] * COUNT).view(pa.string()),
        pa.array([99] * COUNT), pa.array([-2] * COUNT), pa.array([bytes(2**22)] * COUNT),
    )  # fmt: skip
    if random.random() < 0.2:
        return table.append_column(name, values[0])  # two columns of one name
    if random.random() < 0.2:
        return table.drop_columns(name)
    if random.random() < 0.1:
        return table.slice(0, int(random.integers(2)))
    if random.random() < 0.1:  # terabytes in a small file
        value = pa.array([bytes(2**24)], pa.binary())
        rows = pa.DictionaryArray.from_arrays(pa.array([0] * 50_000, pa.int32()), value)
        return pa.table({"image": rows, "label": ["a", "b"] * 25_000})
    return table.set_column(index, name, values[int(random.integers(len(values)))])


def _damage_parquet(data: bytes, random: np.random.Generator) -> bytes:
    """Damages anything, the footer, its length, or a few bytes of it."""
    size = int.from_bytes(data[-8:-4], "little")
    how, changed = random.integers(4), bytearray(data)
    if how == 0:
        return damage(data, random)
    if how == 1:
        lengths = (0, 1, size - 1, size + 1, len(data), 2**31 - 1, 2**31, 2**32 - 1)
        length = lengths[int(random.integers(len(lengths)))]
        return data[:-8] + length.to_bytes(4, "little") + data[-4:]
    footer = len(data) - 8 - size
    for _ in range(random.integers(1, 6)):
        low, high = (4, footer) if how == 3 and footer > 4 else (footer, len(data) - 8)
        changed[int(random.integers(low, high))] = int(random.integers(256))
    return bytes(changed)
