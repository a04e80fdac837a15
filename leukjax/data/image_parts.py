"""Reduces an image file to the parts that its pixels need, and bounds the cost of decoding them.

Profiles, comments, thumbnails and further pages are removed before a decoder reads the file, so
that they can neither spoil a good image nor cost time and memory. A file whose pixels cost far more
than their number suggests is refused. Only the standard library is used: `leukjax.export` copies
this module into the loader of an exported model.
"""

import re
import struct
import zlib
from typing import NamedTuple

# A progressive JPEG is decoded once for each of its scans. Encoders write about ten.
MAX_SCANS = 64
MAX_SCANNED_PIXELS = 800_000_000
MAX_SEGMENTS = 50_000  # of a JPEG
MAX_CHUNKS = 200_000  # of a PNG
MAX_BLOCKS = 1_200_000  # of a GIF
MAX_RUN_LENGTHS = 2**23  # pixels, or pairs of bytes, of a BMP
MAX_CANVAS = 2**24  # pixels of a WebP
MAX_PIECES = 2**16  # strips or tiles of a TIFF
MAX_TILE_PIXELS = 2**22  # of a TIFF whose image is smaller; a larger image may have larger tiles
MAX_PROFILE_BYTES = 2**20  # of a compressed profile that holds the orientation


class Unreadable(Exception):
    """An image file that is refused. The message does not name the file."""


class Parts(NamedTuple):
    """The parts of a file that are kept.

    Attributes:
      data: the file without what its pixels do not need.
      orientation: 2 to 8 as in EXIF; 1 = as stored.
      several: the file holds further pages or frames, which `data` need not have.
      costly: time and memory of decoding cannot be bounded by looking at the file.
      size: width and height, where a decoder would allocate them before they can be checked.
    """

    data: bytes
    orientation: int = 1
    several: bool = False
    costly: bool = False
    size: tuple[int, int] | None = None


def parts(data: bytes) -> Parts:
    """Returns the parts of a PNG, JPEG, BMP, TIFF, GIF, WebP or AVIF file that its pixels need.

    Raises:
      Unreadable: another format, a damaged structure, or pixels that cost too much.
    """
    if not data:
        raise Unreadable("has no bytes: download or copy it again")
    try:
        for start, pattern, reduce in _READERS:
            if data[start : start + len(pattern)] == pattern:
                return reduce(data)
    except (struct.error, IndexError, KeyError) as error:
        raise _damaged() from error
    raise _unknown()


def _damaged() -> Unreadable:
    return Unreadable("is damaged or cut off: download or copy it again")


def _unknown() -> Unreadable:
    return Unreadable(
        "is not a PNG, JPEG, BMP, TIFF, GIF, WebP or AVIF file: convert, replace or remove it"
    )


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """Returns the orientation stated by an EXIF block, or else by an XMP text, or else 1."""
    stated = _exif_orientation(exif)
    if not stated:
        match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)
        stated = int(match[1]) if match else 1
    return stated if 1 <= stated <= 8 else 1


def _exif_orientation(exif: bytes) -> int:
    """Returns 0 if it states none; ignores everything else in the block, whatever its state."""
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for offset in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(order + "HHI", exif, offset)
            if tag == 0x0112 and values == 1:
                form = order + {1: "B", 3: "H", 4: "I"}[kind]
                return int(struct.unpack_from(form, exif, offset + 8)[0])
    except (struct.error, KeyError):
        pass
    return 0


_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def _png(data: bytes) -> Parts:
    view, offset, kept = memoryview(data), 8, [memoryview(data)[:8]]
    texts: dict[bytes, bytes] = {}
    several = False
    for _ in range(MAX_CHUNKS):
        if offset + 8 > len(data):
            break
        size, name = struct.unpack_from(">I4s", data, offset)
        end = offset + 12 + size
        if name in _PNG_KEPT:
            kept.append(view[offset:end])
        elif name in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            key, text = _png_text(name, view[offset + 8 : end - 4])
            texts.setdefault(key, text)
        elif name == b"acTL":
            several = struct.unpack_from(">I", data, offset + 8)[0] > 1
        if name == b"IEND":
            break
        offset = end
    else:
        raise Unreadable(f"has more than {MAX_CHUNKS:,} chunks: save it again")
    if bytes(kept[1][4:8] if len(kept) > 1 else b"") != b"IHDR":
        raise _damaged()
    exif = texts.get(b"eXIf") or _hexadecimal(texts.get(b"Raw profile type exif", b""))
    orientation = orientation_of(exif, texts.get(b"XML:com.adobe.xmp", b""))
    return Parts(_joined(data, kept), orientation, several)


def _png_text(name: bytes, body: memoryview) -> tuple[bytes, bytes]:
    """Returns key and text of a chunk that may state an orientation; empty for any other."""
    if name == b"eXIf":
        return name, bytes(body[:MAX_PROFILE_BYTES])
    key, _, text = bytes(body[: MAX_PROFILE_BYTES + 80]).partition(b"\0")
    if key not in (b"Raw profile type exif", b"XML:com.adobe.xmp"):
        return b"", b""
    compressed = name == b"zTXt"
    if name == b"iTXt":
        compressed = text[:1] == b"\1"
        text = text[2:].split(b"\0", 2)[-1]  # after language and translated key
    elif compressed:
        text = text[1:]
    if compressed:
        try:
            text = zlib.decompressobj().decompress(text, MAX_PROFILE_BYTES)
        except zlib.error:
            return b"", b""
    return key, text


def _hexadecimal(profile: bytes) -> bytes:
    """Returns the bytes of an ImageMagick "raw profile": three lines, then hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(profile.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment: TEM, RST0 to RST7, SOI
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_DROPPED = {0xFE, *range(0xE1, 0xEE), 0xEF}  # comments and applications, without JFIF and Adobe


def _jpeg(data: bytes) -> Parts:
    view, offset, kept = memoryview(data), 2, [memoryview(data)[:2]]
    exif = xmp = b""
    scans = pixels = 0
    for _ in range(MAX_SEGMENTS):
        match = _MARKER.search(data, offset)
        if match is None:
            break
        marker, offset = match[1][0], match.end()
        if marker == 0xD9:  # the end: what follows is another image, or none
            kept.append(view[offset - 2 : offset])
            break
        if marker in _ALONE:
            continue
        end = offset + (struct.unpack_from(">H", data, offset)[0] if offset + 2 <= len(data) else 0)
        body = data[offset + 2 : offset + 2 + 16]
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif = exif or data[offset + 2 : end]
        elif marker == 0xE1:
            xmp = xmp or (data[offset + 2 : end] if data.startswith(_XMP, offset + 2) else b"")
        elif marker in _FRAMES:
            height, width = struct.unpack_from(">xHH", body)
            pixels = max(pixels, width * height)
        elif marker == 0xDA:
            scans += 1
            after = _AFTER_SCAN.search(data, end)
            end = after.start() if after else len(data)
        if marker not in _DROPPED:
            kept.append(view[offset - 2 : end])
        offset = end
    else:
        raise Unreadable(f"has more than {MAX_SEGMENTS:,} segments: save it again")
    if scans > MAX_SCANS or scans * pixels > MAX_SCANNED_PIXELS:
        raise Unreadable(f"has {scans:,} scans of {pixels:,} pixels: save it again")
    return Parts(_joined(data, kept), orientation_of(exif, xmp))


def _joined(data: bytes, kept: list[memoryview]) -> bytes:
    return data if sum(map(len, kept)) == len(data) else b"".join(kept)


def _bmp(data: bytes) -> Parts:
    header, width, height, packing = struct.unpack_from("<Iii4xI", data, 14)
    if header == 12 or packing not in (1, 2):
        return Parts(data)
    # Pillow expands run lengths in Python, byte by byte.
    if abs(width * height) > MAX_RUN_LENGTHS or len(data) > 2 * MAX_RUN_LENGTHS:
        raise Unreadable(f"has {width} x {abs(height)} pixels as run lengths: save it as PNG")
    return Parts(data, costly=True)


def _gif(data: bytes) -> Parts:
    """Returns the first frame, without its disposal, which concerns a second frame only."""
    offset = 13 + _palette_size(data[10])
    kept, control = [data[:offset]], b""
    first = last = 0
    blocks = 0

    def after(offset: int) -> int:
        """Returns the end of the sub-blocks that begin at an offset."""
        nonlocal blocks
        while offset < len(data) and data[offset] and blocks < MAX_BLOCKS:
            blocks, offset = blocks + 1, offset + 1 + data[offset]
        return offset + 1

    while offset < len(data) and data[offset] != 0x3B and blocks < MAX_BLOCKS:
        blocks += 1
        if data[offset] == 0x21:  # an extension
            if data[offset + 1] == 0xF9 and data[offset + 2] >= 4 and not first:
                control = bytes((0x21, 0xF9, 4, data[offset + 3] & 1, 0, 0, data[offset + 6], 0))
            offset = after(offset + 2)
        elif data[offset] == 0x2C:  # a frame
            if first:
                return Parts(b"".join((*kept, b";")), several=True)
            first = offset
            last = offset = after(offset + 11 + _palette_size(data[offset + 9]))
            kept += [control, data[first:last]]
        else:
            offset += 1
    if blocks >= MAX_BLOCKS:
        raise Unreadable(f"has more than {MAX_BLOCKS:,} blocks: save it again")
    if not first or last > offset:
        raise _damaged()
    return Parts(b"".join((*kept, b";")))


def _palette_size(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def _webp(data: bytes) -> Parts:
    kind, size = data[12:16], None
    if kind == b"VP8X":
        size = tuple(int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        size = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    elif kind == b"VP8 ":
        size = tuple(value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    if size is None:
        raise _damaged()
    # The decoder holds three copies of the canvas.
    return Parts(data, costly=size[0] * size[1] > MAX_CANVAS, size=(size[0], size[1]))


def _avif(data: bytes) -> Parts:
    if data[8:12] not in (b"avif", b"avis", b"mif1", b"msf1"):
        raise _unknown()
    # The frame inside may be far larger than the image, and come with hidden ones.
    return Parts(data, costly=True)


# Size, kind of pixels, palette, strips and tiles, and what decompression needs.
_TIFF_KEPT = {
    *(254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323),
    *(324, 325, 332, 338, 339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521),
    *(529, 530, 531, 532),
}
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}
_WHOLE = {1: "B", 3: "H", 4: "I", 16: "Q"}
_PIECES = (273, 279, 324, 325)  # offsets and byte counts of strips, of tiles
_LONGEST = {320: 3 * 2**16, 347: 2**16}  # palette, JPEG tables
# Without compression, LZW, deflate (two numbers), PackBits: bounded by what they unpack to.
_BOUNDED = (1, 5, 8, 32773, 32946)


class _Directory:
    """The first directory of a TIFF or BigTIFF; its tags are read on demand."""

    def __init__(self, data: bytes) -> None:
        self.data, self.order = data, "<" if data[:2] == b"II" else ">"
        self.big = struct.unpack_from(self.order + "H", data, 2)[0] == 43
        self.word = "Q" if self.big else "I"
        counter, entry, first = ("Q", 20, 8) if self.big else ("H", 12, 4)
        self.inline = inline = 8 if self.big else 4  # bytes of values that are in the tag itself
        (self.start,) = self._unpack(self.word, first)
        (count,) = self._unpack(counter, self.start)
        if count > 2**16:
            raise Unreadable("has more than 65,536 tags: save it again")
        start = self.start + struct.calcsize(counter)
        # tag -> (type, number of values, where they are)
        self.tags: dict[int, tuple[int, int, int]] = {}
        for offset in range(start, start + entry * count, entry):
            tag, kind, values = self._unpack("HH" + self.word, offset)
            if kind in _BYTES and tag in _TIFF_KEPT | {274, 700}:
                where = offset + entry - inline
                if _BYTES[kind] * values > inline:
                    (where,) = self._unpack(self.word, where)
                self.tags[tag] = (kind, values, where)
        end = start + entry * count
        self.several = any(data[end : end + inline])

    def _unpack(self, form: str, offset: int) -> tuple:
        return struct.unpack_from(self.order + form, self.data, offset)

    def whole(self, tag: int, default: int) -> int:
        """Returns the first value of a tag of whole numbers."""
        values = self.wholes(tag, 1)
        return values[0] if values else default

    def wholes(self, tag: int, most: int) -> tuple[int, ...]:
        """Returns up to `most` values of a tag of whole numbers; none if it is missing."""
        kind, values, where = self.tags.get(tag, (0, 0, 0))
        if kind not in _WHOLE:
            return ()
        return self._unpack(f"{min(values, most)}{_WHOLE[kind]}", where)

    def written(self, tags: dict[int, tuple[int, int, int]]) -> bytes:
        """Returns the file with only these tags in its directory, which is its only one.

        Values stay where they are, so that the file keeps its length: a cut file stays cut.
        """
        counter = struct.pack(self.order + ("Q" if self.big else "H"), len(tags))
        table = [counter]
        for tag, (kind, values, where) in sorted(tags.items()):
            table.append(struct.pack(self.order + "HH" + self.word, tag, kind, values))
            size = _BYTES[kind] * values
            if size <= self.inline:
                table.append(self.data[where : where + size].ljust(self.inline, b"\0"))
            else:
                table.append(struct.pack(self.order + self.word, where))
        content = b"".join((*table, bytes(self.inline)))
        view, start = memoryview(self.data), self.start
        return b"".join((view[:start], content, view[start + len(content) :]))


def _tiff(data: bytes) -> Parts:
    directory = _Directory(data)
    width, height = directory.whole(256, 0), directory.whole(257, 0)
    rows = min(directory.whole(278, height) or height, height)
    pieces = _pieces(directory, width, height, rows)
    tags = {}
    for tag in directory.tags.keys() & _TIFF_KEPT:
        kind, values, where = directory.tags[tag]
        if tag in _PIECES:
            values = min(values, pieces)
        elif values > _LONGEST.get(tag, 64):
            raise _damaged()
        tags[tag] = (kind, values, where)
    _, length, where = directory.tags.get(700, (0, 0, 0))
    xmp = data[where : where + min(length, MAX_PROFILE_BYTES)]
    stated = directory.whole(274, 0)
    return Parts(
        directory.written(tags),
        stated if 1 <= stated <= 8 else orientation_of(b"", xmp),
        directory.several,
        costly=directory.whole(259, 1) not in _BOUNDED,
    )


def _pieces(directory: _Directory, width: int, height: int, rows: int) -> int:
    """Returns the number of strips or tiles there must be; what they unpack and read is bounded.

    Raises:
      Unreadable: tiles far larger than the image, too many of them, or bytes that are read again
        and again.
    """
    samples = directory.whole(277, 1)
    planes = samples if directory.whole(284, 1) == 2 else 1
    pieces = -(-height // max(rows, 1))
    if 322 in directory.tags:
        wide, high = directory.whole(322, 0), directory.whole(323, 0)
        if not wide or not high:
            raise _damaged()
        if wide * high > max(MAX_TILE_PIXELS, width * height * 5 // 4):
            raise Unreadable(
                f"has tiles of {wide} x {high} pixels around {width} x {height}: save it again"
            )
        pieces = max(pieces if 273 in directory.tags else 0, -(-width // wide) * -(-height // high))
    pieces *= planes
    if pieces > MAX_PIECES or samples > 64:
        raise Unreadable(f"has more than {MAX_PIECES:,} strips or tiles: save it again")
    unpacked = width * height * samples * max(directory.wholes(258, 64) or (1,)) // 8
    for tag in (279, 325):
        if sum(directory.wholes(tag, pieces)) > 4 * max(len(directory.data), unpacked):
            raise Unreadable("has strips or tiles that overlap: save it again")
    return pieces


_READERS = (
    (0, b"\x89PNG\r\n\x1a\n", _png),
    (0, b"\xff\xd8\xff", _jpeg),
    (0, b"BM", _bmp),
    (0, b"II*\0", _tiff),
    (0, b"MM\0*", _tiff),
    (0, b"II+\0", _tiff),
    (0, b"MM\0+", _tiff),
    (0, b"GIF87a", _gif),
    (0, b"GIF89a", _gif),
    (8, b"WEBP", _webp),
    (4, b"ftyp", _avif),
)
