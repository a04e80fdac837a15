"""Files are told by content, read lazily, and nothing in them is run."""

import json
import os
import pickle
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from leukjax.errors import UserError
from leukjax.weights.read import open_file

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b/c": np.asfortranarray(np.arange(12, dtype=np.float64).reshape(3, 4)),
    "half": np.ones(3, np.float16),
    "count": np.array(3, np.int64),
}


def npz(path, **changes):
    np.savez(path, **{**ARRAYS, **changes})
    return path


@pytest.mark.parametrize("name", ["x.npz", "compressed.npz", "x.safetensors", "named.wrongly"])
def test_tensors_come_back(tmp_path, name):
    path = tmp_path / name
    if name == "x.npz":
        npz(path)
    elif name == "compressed.npz":
        np.savez_compressed(path, **ARRAYS)
    else:
        save_file({key: value.copy(order="C") for key, value in ARRAYS.items()}, path)
    tensors = open_file(path)
    assert tensors.shapes == {key: value.shape for key, value in ARRAYS.items()}
    assert tensors.floats == {"a", "b/c", "half"}
    for key in tensors.floats:
        found = tensors.read(key)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, ARRAYS[key])
    with pytest.raises(UserError, match="count holds no floating-point numbers"):
        tensors.read("count")


def test_bfloat16_is_widened(tmp_path):
    values = np.array([1.5, -2.25], ml_dtypes.bfloat16)
    save_file({"x": values}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(open_file(tmp_path / "x.safetensors").read("x"), [1.5, -2.25])


def read_all(path):
    tensors = open_file(path)
    return {name: tensors.read(name) for name in tensors.floats}


class Bomb:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def _pickle(path, bomb):
    path.write_bytes(pickle.dumps(bomb))


def _torch_zip(path, bomb):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(bomb))
        archive.writestr("archive/data/0", b"1234")


def _object_array(path, bomb):
    with path.open("wb") as file:
        np.savez(file, x=np.array([bomb], object))


@pytest.mark.parametrize("make", [_pickle, _torch_zip, _object_array])
def test_pickled_code_is_never_run(tmp_path, make):
    path, left = tmp_path / "weights", tmp_path / "left"
    make(path, Bomb(left))
    with pytest.raises(UserError, match=r"holds pickled Python, .*/pth_to_safetensors\.py"):
        open_file(path)
    assert not left.exists()


def _claims_more(path):
    """An array whose header claims a petabyte."""
    form = np.lib.format
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as file:
        form.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (2**48,)}
        )
        file.write(b"1234")


def _flipped(path):
    npz(path)
    data = bytearray(path.read_bytes())
    data[data.find(ARRAYS["a"].tobytes()) + 4] ^= 1
    path.write_bytes(data)


def _cut(path):
    npz(path)
    path.write_bytes(path.read_bytes()[:-40])


def _cut_safetensors(path):
    save_file({"x": np.ones(9, np.float32)}, path)
    path.write_bytes(path.read_bytes()[:-1])


def _overlapping(path):
    header = {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in ("x", "y")}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"12345678")


def test_a_pipe_and_a_zip_that_unpacks_without_end_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(UserError, match="is not a file"):
        open_file(tmp_path / "pipe.npz")
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x.npy", bytes(2**26))
    tracemalloc.start()
    with pytest.raises(UserError, match="compressed by a method that NumPy does not write"):
        open_file(tmp_path / "x.npz")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize("make", [_claims_more, _flipped, _cut, _cut_safetensors, _overlapping])
def test_damage_is_noticed(tmp_path, make):
    path = tmp_path / "weights.npz"
    make(path)
    with pytest.raises(UserError, match="damaged") as error:
        read_all(path)
    assert "\n" not in str(error.value)


def test_what_is_no_file_of_weights(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    for path, message in (
        (text, "is neither safetensors nor .npz"),
        (tmp_path / "none.npz", "does not exist: give a file of weights or a run"),
        (tmp_path, "is not a file"),
    ):
        with pytest.raises(UserError, match=message):
            open_file(path)
