"""Untrusted zips: opened, listed and read within bounds of memory."""

import bz2
import dataclasses
import lzma
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

from leukjax.data import image_limits
from leukjax.errors import UserError
from leukjax.storage import open_regular

# Bytes of the directory at a zip's end: half a million files.
MAX_DIRECTORY_BYTES = 2**26
# What `xz -9` takes; a decoder may have to hold it.
MAX_DICTIONARY_BYTES = 2**26


@dataclasses.dataclass(frozen=True)
class Zip:
    """An open zip. Thread-safe.

    Attributes:
      file: the open file.
      infos: its members.
    """

    file: IO[bytes]
    infos: tuple[zipfile.ZipInfo, ...]

    def read(self, info: zipfile.ZipInfo) -> bytes:
        """Returns the content of a member: as many bytes as the directory states, never more.

        Raises:
          OSError: the zip cannot be read.
          ValueError: the member is damaged, encrypted, larger than stated, or packed by another
            method than stored, deflated, bzip2 and LZMA.
        """
        if info.compress_size > info.file_size + info.file_size // 50 + 1024:
            raise ValueError("it is larger packed than unpacked")
        image_limits.take_bytes(info.file_size + info.compress_size)
        header = self._bytes(30, info.header_offset)
        if header[:4] != b"PK\3\4" or header[6] & 1:
            raise ValueError("its header is damaged")
        name, extra = struct.unpack_from("<HH", header, 26)
        packed = self._bytes(info.compress_size, info.header_offset + 30 + name + extra)
        content = _unpacked(packed, info)
        if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
            raise ValueError("its size or checksum differs")
        return content

    def _bytes(self, size: int, start: int) -> bytes:
        """Reads without `seek` and `read`, since threads share the file."""
        parts = []
        while size > 0:
            parts.append(os.pread(self.file.fileno(), min(size, 2**30), start))
            if not parts[-1]:
                raise ValueError("it is cut off")
            size, start = size - len(parts[-1]), start + len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _unpacked(packed: bytes, info: zipfile.ZipInfo) -> bytes:
    """Returns at most one byte more than the directory states: a member may unpack to any size."""
    most = info.file_size + 1
    try:
        if info.compress_type == zipfile.ZIP_STORED:
            return packed
        if info.compress_type == zipfile.ZIP_DEFLATED:
            return zlib.decompressobj(-15).decompress(packed, most)
        if info.compress_type == zipfile.ZIP_BZIP2:
            return bz2.BZ2Decompressor().decompress(packed, most)
        if info.compress_type == zipfile.ZIP_LZMA:
            return _lzma(packed).decompress(packed[9:], most)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, struct.error) as error:
        raise ValueError(str(error)) from error
    raise ValueError(f"it is packed by method {info.compress_type}, which is not read")


def _lzma(packed: bytes) -> lzma.LZMADecompressor:
    """Returns the decompressor that the header of a member requires."""
    length, first, dictionary = struct.unpack_from("<2xHBI", packed)
    if length != 5 or dictionary > MAX_DICTIONARY_BYTES:
        raise ValueError("its LZMA header is damaged, or asks for too much memory")
    filters = {
        "id": lzma.FILTER_LZMA1,
        "dict_size": max(dictionary, 4096),
        "lc": first % 9,
        "lp": first // 9 % 5,
        "pb": first // 45,
    }
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[filters])


def open_zip(where: Path) -> Zip:
    """Opens a zip and reads its directory.

    Raises:
      OSError: it cannot be read, or is a pipe or device.
      UserError: it is damaged, no zip, or has too many members.
    """
    file = open_regular(where)
    try:
        size = _directory_size(file)
        if size > MAX_DIRECTORY_BYTES:
            raise UserError(
                f"{where}: its directory has {size >> 20} MiB; the maximum is "
                f"{MAX_DIRECTORY_BYTES >> 20}: unpack it and give the folder"
            )
        return Zip(file, tuple(zipfile.ZipFile(file).infolist()))
    except (OSError, UserError):
        file.close()
        raise
    # Damaged directories of zips raise nearly anything.
    except Exception as error:
        file.close()
        raise UserError(f"{where}: not a whole zip ({error}): download it again") from error


def _directory_size(file: IO[bytes]) -> int:
    """Returns the bytes of the directory of a zip, as its end states; 0 if there is no end."""
    end = file.seek(0, os.SEEK_END)
    start = max(0, end - 22 - 2**16 - 76)
    tail = os.pread(file.fileno(), end - start, start)
    file.seek(0)
    offset = tail.rfind(b"PK\5\6")
    if offset < 0 or len(tail) < offset + 16:
        return 0
    (size,) = struct.unpack_from("<I", tail, offset + 12)
    if offset >= 76 and tail.startswith(b"PK\6\7", offset - 20):
        (size,) = struct.unpack_from("<Q", tail, offset - 76 + 40)
    return size
