"""Damages files of weights at random, and checks the values that are read from them."""

import hashlib
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
from broken_case import SIDE, Case, damage, write_folder
from safetensors.numpy import save

from leukjax.models.registry import create_model
from leukjax.training import pretrained
from leukjax.weights.layouts import timm_tensors
from leukjax.weights.map import Mapped

MODEL = {"model.name": "resnet", "model.depth": 18, "model.width": 4}
RAN = "ran"  # a file that pickled code would create


def weights(case: Case, random: np.random.Generator) -> None:
    """Writes a damaged ResNet-18 of width 4 with timm's names, as safetensors or .npz."""
    write_folder(case, random)
    path = case.folder / str(random.choice(("weights.safetensors", "weights.npz", "weights.pth")))
    case.fields |= MODEL | {"init.weights": path}
    tensors = _tensors(random)
    if random.random() < 0.4:
        _change_tensors(tensors, random)
    packed = random.random() < 0.5
    data = _npz(tensors, random) if packed else save(tensors, {"format": "pt"})
    if random.random() < 0.15:
        case.fields["init.sha256"] = hashlib.sha256(data).hexdigest()
    if random.random() < 0.1:
        case.fields["init.allow"] = str(random.choice((".", r"layer\d", "^fc", "(", "(a+)+$")))
    how = random.random()
    if how < 0.4:
        data = _damage_directory(data, random)
    elif how < 0.8:
        data = damage(data, random)
    elif how < 0.87:
        data = _pickled(case.folder / RAN, random)
    path.write_bytes(data)


def check(file: Path, sha256: str, mapped: Mapped) -> None:
    """Asserts that every value equals that of an independent reader."""
    data = file.read_bytes()
    assert not sha256 or hashlib.sha256(data).hexdigest() == sha256, "took a file of another sum"
    reference = _read_plainly(data)
    for row in mapped.rows:
        if row.status == "loaded":
            expected = reference[row.tensor].astype(np.float32)
            if expected.ndim > 1:  # outputs first -> outputs last
                expected = expected.transpose({4: (2, 3, 1, 0), 2: (1, 0)}[expected.ndim])
            values = mapped.values[tuple(row.variable.split("/"))]
            assert values.shape == expected.shape, f"{row.variable}: another shape"
            assert np.array_equal(values, expected), f"{row.variable}: other numbers"
            assert np.isfinite(values).all(), f"{row.variable}: not finite"


def _read_plainly(data: bytes) -> dict[str, np.ndarray]:
    if data[:2] == b"PK":
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    length = struct.unpack("<Q", data[:8])[0]
    kinds = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I64": np.int64}
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__" and entry["dtype"] in kinds:
            start, stop = (8 + length + offset for offset in entry["data_offsets"])
            values = np.frombuffer(data[start:stop], kinds[entry["dtype"]])
            tensors[name] = values.reshape(entry["shape"])
    return tensors


def _tensors(random: np.random.Generator) -> dict[str, np.ndarray]:
    import flax

    module = create_model("resnet", 2, depth=18, width=4)
    flat = flax.traverse_util.flatten_dict(pretrained.shapes(module, SIDE))
    variables = {
        path: random.random(leaf.shape, np.float32) + np.float32(0.1) for path, leaf in flat.items()
    }
    return timm_tensors("resnet", variables, steps=3)


def _change_tensors(tensors: dict[str, np.ndarray], random: np.random.Generator) -> None:
    """Changes tensors: names, shapes, types, values."""
    for _ in range(random.integers(1, 3)):
        name = str(random.choice(list(tensors)))
        value = tensors.pop(name)
        how = random.integers(9)
        if how == 0:
            tensors[name + str(random.choice((".", "x", "é", "/../x", "\n")))] = value
        elif how == 1 and value.size:
            tensors[name] = value.reshape(-1)[:-1]
        elif how == 2:
            tensors[name] = value.astype(np.int64)
        elif how == 3 and value.size and value.dtype == np.float32:
            value.flat[int(random.integers(value.size))] = random.choice((np.nan, np.inf, -1, 1e38))
            tensors[name] = value
        elif how == 4:
            tensors[name] = value.astype(np.float16)
        elif how == 5:
            tensors[name] = np.ascontiguousarray(value.T)
        elif how == 6:
            tensors[name] = value[None]
        elif how == 7:
            tensors[name] = value.astype(np.float64)
        # otherwise it is missing


def _npz(tensors: dict[str, np.ndarray], random: np.random.Generator) -> bytes:
    file = io.BytesIO()
    write = np.savez if random.random() < 0.7 else np.savez_compressed
    odd = random.random()
    if odd < 0.1:  # big-endian
        tensors = {name: value.astype(value.dtype.newbyteorder(">")) for name, value in
                   tensors.items()}  # fmt: skip
    elif odd < 0.2:
        tensors = {name: np.asfortranarray(value) for name, value in tensors.items()}
    write(file, **tensors)
    return file.getvalue()


def _damage_directory(data: bytes, random: np.random.Generator) -> bytes:
    """Damages names, shapes and offsets."""
    if data[:2] != b"PK":
        return _damage_header(data, random)
    changed = bytearray(data)
    marks = (b"PK\1\2", b"PK\3\4", b"'shape': (", b"'descr': '", b"NUMPY", b"PK\5\6")
    start = data.find(marks[int(random.integers(6))], int(random.integers(len(data))))
    if start >= 0:
        for _ in range(random.integers(1, 4)):
            offset = start + int(random.integers(50))
            if offset < len(changed):
                changed[offset] = int(random.choice((0, 255, 48, 57, int(random.integers(256)))))
    return bytes(changed)


def _damage_header(data: bytes, random: np.random.Generator) -> bytes:
    """Returns a safetensors file whose JSON is wrong or malformed."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    entry = header[str(random.choice(names))]
    how = random.integers(8)
    if how == 0:
        entry["shape"] = [int(x) for x in random.integers(0, 5, random.integers(0, 5))]
    elif how == 1:
        entry["shape"] = [2**62, 2**62]
    elif how == 2:
        entry["dtype"] = str(random.choice(("F64", "F16", "BF16", "I32", "U8", "F8_E4M3", "X", "")))
    elif how == 3:
        entry["data_offsets"] = [int(x) for x in random.integers(0, len(body) + 9, 2)]
    elif how == 4:
        other = header[str(random.choice(names))]
        entry["data_offsets"] = other["data_offsets"]
    elif how == 5:
        header["__metadata__"] = random.choice(
            np.array([{"leukjax": "{"}, {"leukjax": '{"mean": [0, 0, 1e999]}'}, {"x": 1}, None,
                      {"leukjax": '{"mean":[1,1,1],"std":[0,1,1],"classes":[]}'}], object)
        )  # fmt: skip
    elif how == 6:
        del entry[str(random.choice(list(entry)))]
    text = json.dumps(header).encode()
    if how == 7:
        text = damage(text, random)
    size = len(text) if random.random() < 0.9 else int(random.choice((0, 1, 2**40, 2**63)))
    return struct.pack("<Q", size) + text + body


class _Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def _pickled(path: Path, random: np.random.Generator) -> bytes:
    bomb, file, how = _Bomb(path), io.BytesIO(), random.integers(3)
    if how == 0:
        return pickle.dumps(bomb, protocol=int(random.integers(2, 6)))
    if how == 1:
        np.savez(file, **{"conv1.weight": np.array([bomb], object)})
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(bomb))
    return file.getvalue()
