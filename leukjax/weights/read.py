"""Reads files of tensors: safetensors and NumPy's .npz. Nothing in them is executed.

Names and shapes are read first; a tensor is read only after they have been checked against a model,
so that a header that claims a petabyte allocates nothing.
"""

import dataclasses
import hashlib
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open

from leukjax.data.zips import open_zip
from leukjax.errors import UserError
from leukjax.storage import open_regular

CONVERTER = "python launch/pth_to_safetensors.py"

# Exceptions that the readers raise on damaged files.
_DAMAGE = (
    OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, SyntaxError,
    MemoryError, OverflowError, TypeError, SafetensorError, zipfile.BadZipFile, zlib.error,
    tokenize.TokenError,
)  # fmt: skip
_SAFETENSORS_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclasses.dataclass(frozen=True)
class Tensors:
    """Named tensors that are read one by one.

    Attributes:
      where: name of the file, for messages.
      shapes: of every tensor, by name, in the order of the file.
      floats: names of the floating-point tensors.
      metadata: texts in the file's header.
      get: reads a tensor.
    """

    where: str
    shapes: Mapping[str, tuple[int, ...]]
    floats: frozenset[str]
    metadata: Mapping[str, str]
    get: Callable[[str], np.ndarray]

    def read(self, name: str) -> Float32[np.ndarray, "..."]:
        """Returns one tensor.

        Raises:
          UserError: it is damaged, holds integers, or a number that is not finite.
        """
        if name not in self.floats:
            raise UserError(f"init.weights: {self.where}: {name} holds no floating-point numbers")
        try:
            tensor = self.get(name).astype(np.float32)
        except _DAMAGE as error:
            raise _damaged(self.where, error, name) from error
        if tensor.shape != self.shapes[name]:
            raise UserError(f"init.weights: {self.where}: {name} has not the size in its header")
        if not np.isfinite(tensor).all():
            raise UserError(f"init.weights: {self.where}: {name} holds numbers that are not finite")
        return tensor


def open_file(path: Path) -> Tensors:
    """Opens a file of tensors, in the format of its first bytes.

    Raises:
      UserError: no such file, pickled code, another format, or a damaged header.
    """
    try:
        if not path.is_file():
            state = "is not a file" if path.exists() else "does not exist"
            raise UserError(f"init.weights: {path} {state}: give a file of weights or a run")
        with open_regular(path) as file:
            start = file.read(16)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"init.weights: {path} cannot be read ({reason}): change its permissions"
        ) from error
    try:
        if start[:4] == b"PK\3\4":
            return _open_npz(path)
        if start[8:9] == b"{":
            return _open_safetensors(path)
    except UserError:
        raise
    except _DAMAGE as error:
        raise _damaged(str(path), error) from error
    if start[:1] == b"\x80":
        raise _pickled(path)
    raise UserError(
        f"init.weights: {path} is neither safetensors nor .npz, or its start is damaged; give one "
        f"of these ({CONVERTER} converts a .pth of PyTorch)"
    )


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits.

    Raises:
      UserError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"init.weights: {path} cannot be read ({error.strerror})") from error


def _pickled(path: Path) -> UserError:
    return UserError(
        f"init.weights: {path} holds pickled Python, which can run code when it is read, so it is "
        f"not read; {CONVERTER} converts a .pth of PyTorch to safetensors"
    )


def _damaged(where: str, error: BaseException, name: str = "") -> UserError:
    damage = f"{name} is damaged" if name else "is damaged or cut short"
    return UserError(
        f"init.weights: {where}: {damage} ({error or type(error).__name__}); get the file again"
    )


def _open_safetensors(path: Path) -> Tensors:
    file = safe_open(path, framework="numpy")  # checks offsets, sizes and the end
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, no mapping
    return Tensors(
        where=str(path),
        shapes={name: tuple(part.get_shape()) for name, part in slices.items()},
        floats=frozenset(
            name for name, part in slices.items() if part.get_dtype() in _SAFETENSORS_FLOATS
        ),
        metadata=dict(file.metadata() or {}),
        get=file.get_tensor,
    )


def _open_npz(path: Path) -> Tensors:
    try:
        zipped = open_zip(path)
    except UserError as error:
        raise _damaged(str(path), error) from error
    entries = {entry.filename: entry for entry in zipped.infos}
    if any(name.endswith(".pkl") for name in entries):
        raise _pickled(path)
    if len(entries) != len(zipped.infos):
        raise ValueError("two entries of one name")
    headers = {}
    with zipfile.ZipFile(zipped.file) as archive:
        for name, entry in entries.items():
            # Other compressions unpack a block of any size when only a header is read.
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name}: compressed by a method that NumPy does not write")
            if name.endswith(".npy"):
                headers[name.removesuffix(".npy")] = _npy_header(path, archive, entry)
    if not headers:
        raise UserError(f"init.weights: {path} is a zip without arrays; give an .npz")

    def get(name: str) -> np.ndarray:
        shape, dtype, fortran, offset = headers[name]
        # As a whole, so that the checksum of the zip is compared.
        data = zipped.read(entries[f"{name}.npy"])
        array = np.frombuffer(data, dtype, offset=offset)
        return array.reshape(shape, order="F" if fortran else "C")

    return Tensors(
        where=str(path),
        shapes={name: header[0] for name, header in headers.items()},
        floats=frozenset(name for name, header in headers.items() if header[1].kind == "f"),
        metadata={},
        get=get,
    )


def _npy_header(
    path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo
) -> tuple[tuple[int, ...], np.dtype, bool, int]:
    """Shape, dtype, whether in Fortran's order, and the offset of the numbers."""
    npy: Any = np.lib.format
    with archive.open(entry) as file:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        if version not in read:
            raise ValueError(f"{entry.filename}: version {version}")
        shape, fortran, dtype = read[version](file)
        offset = file.tell()
    if dtype.hasobject:
        raise _pickled(path)
    if any(size < 0 for size in shape):
        raise ValueError(f"{entry.filename}: a negative size")
    if offset + math.prod(shape) * dtype.itemsize != entry.file_size:
        raise ValueError(f"{entry.filename}: has another number of values than its header states")
    return shape, dtype, fortran, offset
