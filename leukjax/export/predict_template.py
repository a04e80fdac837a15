"""Predicts images with the model beside this file: python predict.py IMAGE…

Needs Pillow, and jax and flatbuffers for .stablehlo or numpy and onnxruntime for .onnx; it does not
need the library that trained the network. In Python:
`import predict; predict.predict(["a.png", "b.png"])` returns one row of probabilities per image.
"""

import csv
import hashlib
import io
import json
import os
import stat
import sys
import warnings
from pathlib import Path

import numpy as np

# `leukjax.export` replaces this line by the module's source.
from leukjax.data.image_file import Unreadable, decode

FOLDER = Path(__file__).resolve().parent
DESCRIPTION = FOLDER / "model.json"
ABOUT = json.loads(DESCRIPTION.read_text(encoding="utf-8")) if DESCRIPTION.exists() else {}
MAX_BYTES = 2**28  # of an image file
MAX_PADDED_PIXELS, SHRUNK_SIDE = 50_000_000, 4096


def predict(images):
    """Returns float32[n, classes] for image files, or for an array uint8[n, S, S, 3]."""
    blob = (FOLDER / ABOUT["file"]).read_bytes()
    if hashlib.sha256(blob).hexdigest() != ABOUT["sha256"]:
        raise SystemExit(f"{FOLDER / ABOUT['file']}: is damaged; copy it again")
    if not isinstance(images, np.ndarray):
        images = np.stack([prepare(read(path)) for path in images])
    if ABOUT["file"].endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(blob, providers=["CPUExecutionProvider"])
        return session.run(None, {ABOUT["input_name"]: images})[0]
    from jax import export

    return np.asarray(export.deserialize(bytearray(blob)).call(images))


def read(path):
    """Returns the pixels uint8[h, w, 3] of an image file."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SystemExit(f"{name(path)}: is not a regular file: leave it out")
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise SystemExit(f"{name(path)}: has more than {MAX_BYTES >> 20} MiB: shrink it")
        return decode(data)[0]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SystemExit(f"{name(path)}: cannot be read ({reason}): leave it out") from error
    except Unreadable as error:
        raise SystemExit(f"{name(path)}: {error}") from error


def name(path):
    """Returns a path as text; bytes that are not UTF-8 become escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")


def prepare(image):
    """Prepares uint8[h, w, 3] as in training: crop, pad to a square, resize to uint8[S, S, 3]."""
    if ABOUT["denoise"] != "none":
        raise SystemExit(f"the images were denoised ({ABOUT['denoise']}); give prepared arrays")
    for when, side in ABOUT["windows"]:  # a window around the centre, for images of some size
        if when in (0, *image.shape[:2]) and (when == 0 or image.shape[0] == image.shape[1]):
            top, left = ((max(n - side, 0) // 2) for n in image.shape[:2])
            image = image[top : top + side, left : left + side]
    size, longest = ABOUT["image_size"], max(image.shape[:2])
    wanted = max(SHRUNK_SIDE, size)
    if not ABOUT["crop"] and longest**2 > MAX_PADDED_PIXELS and longest > wanted:
        image = shrink(image, *(max(1, round(n * wanted / longest)) for n in image.shape[:2]))
    side = ABOUT["crop"] or max(image.shape[:2])
    down, right = side - image.shape[0], side - image.shape[1]
    edges = ((down // 2, down - down // 2), (right // 2, right - right // 2), (0, 0))
    image = np.pad(image, edges, mode="constant" if ABOUT["background"] == "black" else "edge")
    return resize(image, size)


def shrink(image, height, width):
    """Shrinks by area, to a height and width not above the image's."""
    weights = (_area(image.shape[0], height), _area(image.shape[1], width))
    mean = _apply(weights, image.astype(np.float32))
    halved = image.shape[:2] == (2 * height, 2 * width)
    return (np.floor(mean + 0.5) if halved else np.rint(mean)).astype(np.uint8)


def resize(image, size):
    """Resizes by area (shrinking) or Lanczos (growing), with OpenCV's rounding, bit by bit."""
    side = len(image)
    if side == size:
        return image
    if side > size:
        return shrink(image, size, size)
    grown = np.floor((_apply([_taps(side, size, 4)] * 2, image.astype(float)) + 2**21) / 2**22)
    if ABOUT["background"] == "black":  # no halo of Lanczos around the cell
        mask = np.where(image.any(2, keepdims=True), 255.0, 0.0)
        linear = np.floor((_apply([_taps(side, size, 1)] * 2, mask) + 2**21) / 2**22)
        grown = np.where(linear > 0, grown, 0)
    return np.clip(grown, 0, 255).astype(np.uint8)


def _apply(weights, image):
    # Row by row, because the order of a float32 sum decides its last bit.
    for axis in (1, 0):
        image, shares = np.moveaxis(image, axis, 0), weights[axis]
        result = np.zeros((len(shares), *image.shape[1:]), shares.dtype)
        for i, row in enumerate(image):
            hit = np.flatnonzero(shares[:, i])
            result[hit] += shares[hit, i][:, None, None] * row
        image = np.moveaxis(result, 0, axis)
    return image


def _area(side, size):
    weights, scale = np.zeros((size, side), np.float32), side / size
    for k in range(size):
        low, high = k * scale, k * scale + scale
        cell = min(scale, side - low)
        first, last = int(np.ceil(low)), min(int(np.floor(high)), side - 1)
        weights[k, first:last] = 1 / cell
        if first - low > 1e-3:
            weights[k, first - 1] = (first - low) / cell
        if high - last > 1e-3:
            weights[k, last] = min(high - last, 1, cell) / cell
    return weights


def _taps(side, size, radius):
    position = (np.arange(size) + 0.5) * (side / size) - 0.5
    offsets = np.arange(1 - radius, radius + 1)
    d = (position - np.floor(position))[:, None] - offsets
    taps = np.sinc(d) * np.sinc(d / radius) if radius > 1 else 1 - np.abs(d)
    taps = np.rint(taps / taps.sum(1, keepdims=True) * 2**11)
    weights = np.zeros((size, side))
    for j, offset in enumerate(offsets):
        source = np.clip(np.floor(position) + offset, 0, side - 1).astype(int)
        np.add.at(weights, (np.arange(size), source), taps[:, j])
    return weights


def line(cells):
    """Returns a line of CSV, quoted where needed."""
    text = io.StringIO()
    # The writer quotes the characters of its line terminator: carriage returns in names, too.
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")  # on odd metadata, once per file
    if len(sys.argv) < 2:
        raise SystemExit("no image is given: python predict.py IMAGE...")
    rows = predict(sys.argv[1:])
    with open(1, "w", encoding="utf-8", newline="\n", closefd=False) as out:
        print(line(["image", "predicted", *(f"p_{label}" for label in ABOUT["classes"])]), file=out)
        for path, row in zip(sys.argv[1:], rows, strict=True):
            predicted = ABOUT["classes"][row.argmax()]
            print(line([name(path), predicted, *(f"{p:.9g}" for p in row)]), file=out)
