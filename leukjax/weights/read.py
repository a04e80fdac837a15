"""Files of tensors, by content: safetensors and NumPy's .npz. Nothing in them is ever run.

Names and shapes are read first and checked against a model; only then is a tensor read. So a header
that claims a petabyte claims it in vain.
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

# What a damaged file can make the readers raise.
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
      where: what messages call the file.
      shapes: of every tensor, by name, in the order of the file.
      floats: names of those that hold floating-point numbers.
      metadata: texts that the file carries.
    """

    where: str
    shapes: Mapping[str, tuple[int, ...]]
    floats: frozenset[str]
    metadata: Mapping[str, str]
    get: Callable[[str], np.ndarray]

    def read(self, name: str) -> Float32[np.ndarray, "..."]:
        """One tensor.

        Raises:
          UserError: it is damaged, of integers, or holds a number that is not finite.
        """
        if name not in self.floats:
            raise UserError(f"init.weights: {self.where}: {name} holds no floating-point numbers")
        try:
            tensor = self.get(name).astype(np.float32)
        except _DAMAGE as error:
            raise _damaged(self.where, error, name) from error
        if tensor.shape != self.shapes[name]:
            raise UserError(f"init.weights: {self.where}: {name} is not of the size that it claims")
        if not np.isfinite(tensor).all():
            raise UserError(f"init.weights: {self.where}: {name} holds numbers that are not finite")
        return tensor


def open_file(path: Path) -> Tensors:
    """The tensors of a file, recognised by its first bytes.

    Raises:
      UserError: no such file, pickled code, another format, or a damaged directory of tensors.
    """
    try:
        if not path.is_file():
            state = "is no file" if path.exists() else "does not exist"
            raise UserError(f"init.weights: {path} {state}: give a file of weights or a run")
        with open_regular(path) as file:
            start = file.read(16)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"init.weights: {path} cannot be read ({reason}): change its permissions"
        ) from (error)
    try:
        if start[:4] == b"PK\3\4":
            return _open_npz(path)
        if start[8:9] == b"{":
            return _open_safetensors(path)
    except _DAMAGE as error:
        raise _damaged(str(path), error) from error
    if start[:1] == b"\x80":
        raise _pickled(path)
    raise UserError(
        f"init.weights: {path} is neither safetensors nor .npz, or its start is damaged; give one "
        f"of these (a .pth of PyTorch becomes one by {CONVERTER})"
    )


def checksum(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits.

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
        f"not read; a .pth of PyTorch becomes safetensors by {CONVERTER}"
    )


def _damaged(where: str, error: BaseException, name: str = "") -> UserError:
    what = f"{name} is damaged" if name else "is damaged or cut short"
    return UserError(
        f"init.weights: {where}: {what} ({error or type(error).__name__}); get the file again"
    )


def _open_safetensors(path: Path) -> Tensors:
    file = safe_open(path, framework="numpy")  # maps the file; checks offsets, sizes and the end
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
        opened = open_zip(path)
    except UserError as error:
        raise _damaged(str(path), error) from error
    entries = {entry.filename: entry for entry in opened.infos}
    if any(name.endswith(".pkl") for name in entries):
        raise _pickled(path)
    if len(entries) != len(opened.infos):
        raise ValueError("two entries of one name")
    headers = {}
    with zipfile.ZipFile(opened.file) as archive:
        for name, entry in entries.items():
            # What else a zip may be packed with unpacks without bounds when a header is read.
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name}: packed by a method that NumPy does not write")
            if name.endswith(".npy"):
                headers[name.removesuffix(".npy")] = _npy_header(path, archive, entry)
    if not headers:
        raise UserError(f"init.weights: {path} is a zip without arrays; give an .npz")

    def get(name: str) -> np.ndarray:
        shape, dtype, fortran, offset = headers[name]
        # Whole, so that the zip's own checksum is looked at.
        data = opened.read(entries[f"{name}.npy"])
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
    """Shape, dtype, whether in Fortran's order, and where the numbers begin."""
    form: Any = np.lib.format
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # The others unpack a block of any size at once.
        raise ValueError(f"{entry.filename}: packed in a way that NumPy does not write")
    with archive.open(entry) as file:
        version = form.read_magic(file)
        read = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
        if version not in read:
            raise ValueError(f"{entry.filename}: version {version}")
        shape, fortran, dtype = read[version](file)
        offset = file.tell()
    if dtype.hasobject:
        raise _pickled(path)
    if any(size < 0 for size in shape):
        raise ValueError(f"{entry.filename}: a negative size")
    if offset + math.prod(shape) * dtype.itemsize != entry.file_size:
        raise ValueError(f"{entry.filename}: holds another number of values than it claims")
    return shape, dtype, fortran, offset
