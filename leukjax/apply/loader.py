"""Probabilities from the file that stands beside this one: python predict.py IMAGE…

Needs Pillow and what runs the file: jax and flatbuffers for .stablehlo, numpy and onnxruntime for
.onnx; and nothing of the program that trained the network. In Python:
`import predict; predict.predict(["a.png", "b.png"])` gives a row of probabilities for each image.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FOLDER = Path(__file__).resolve().parent
DESCRIPTION = FOLDER / "model.json"
ABOUT = json.loads(DESCRIPTION.read_text(encoding="utf-8")) if DESCRIPTION.exists() else {}


def predict(images):
    """Probabilities float32[n, classes] of image files, or of one array uint8[n, S, S, 3]."""
    blob = (FOLDER / ABOUT["file"]).read_bytes()
    if hashlib.sha256(blob).hexdigest() != ABOUT["sha256"]:
        raise SystemExit(f"{FOLDER / ABOUT['file']}: is damaged; copy it anew")
    if not isinstance(images, np.ndarray):
        images = np.stack([prepare(_open(path)) for path in images])
    if ABOUT["file"].endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(blob, providers=["CPUExecutionProvider"])
        return session.run(None, {ABOUT["input_name"]: images})[0]
    from jax import export

    return np.asarray(export.deserialize(bytearray(blob)).call(images))


def _open(path):
    try:
        image = Image.open(path)
        image.load()
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged, or no image"
        raise SystemExit(f"{path}: cannot be read ({reason}); leave it out or mend it") from error
    return image


def prepare(image):
    """uint8[S, S, 3] of an image of any size: crop, pad to a square, resize, as in training."""
    if ABOUT["denoise"] != "none":
        raise SystemExit(f"the images were denoised ({ABOUT['denoise']}); give prepared arrays")
    image = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    for when, side in ABOUT["windows"]:  # a window about the centre, for images of some size
        if when in (0, *image.shape[:2]) and (when == 0 or image.shape[0] == image.shape[1]):
            top, left = ((max(n - side, 0) // 2) for n in image.shape[:2])
            image = image[top : top + side, left : left + side]
    side = ABOUT["crop"] or max(image.shape[:2])
    down, right = side - image.shape[0], side - image.shape[1]
    edges = ((down // 2, down - down // 2), (right // 2, right - right // 2), (0, 0))
    image = np.pad(image, edges, mode="constant" if ABOUT["background"] == "black" else "edge")
    return resize(image, ABOUT["image_size"])


def resize(image, size):
    """By area when shrinking and Lanczos when growing: OpenCV's rounding, bit by bit."""
    side = len(image)
    if side == size:
        return image
    if side > size:
        mean = _apply(_area(side, size), image.astype(np.float32))
        return (np.floor(mean + 0.5) if side == 2 * size else np.rint(mean)).astype(np.uint8)
    grown = np.floor((_apply(_taps(side, size, 4), image.astype(float)) + 2**21) / 2**22)
    if ABOUT["background"] == "black":  # no halo of Lanczos around the cell
        mask = np.where(image.any(2, keepdims=True), 255.0, 0.0)
        linear = np.floor((_apply(_taps(side, size, 1), mask) + 2**21) / 2**22)
        grown = np.where(linear > 0, grown, 0)
    return np.clip(grown, 0, 255).astype(np.uint8)


def _apply(weights, image):
    # One source row after the other, because the order of a float32 sum decides its last bit.
    for axis in (1, 0):
        image = np.moveaxis(image, axis, 0)
        result = np.zeros((weights.shape[0], *image.shape[1:]), weights.dtype)
        for i, row in enumerate(image):
            hit = np.flatnonzero(weights[:, i])
            result[hit] += weights[hit, i][:, None, None] * row
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
    place = (np.arange(size) + 0.5) * (side / size) - 0.5
    offsets = np.arange(1 - radius, radius + 1)
    d = (place - np.floor(place))[:, None] - offsets
    taps = np.sinc(d) * np.sinc(d / radius) if radius > 1 else 1 - np.abs(d)
    taps = np.rint(taps / taps.sum(1, keepdims=True) * 2**11)
    weights = np.zeros((size, side))
    for j, offset in enumerate(offsets):
        source = np.clip(np.floor(place) + offset, 0, side - 1).astype(int)
        np.add.at(weights, (np.arange(size), source), taps[:, j])
    return weights


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit("no image is given: python predict.py IMAGE...")
    rows = predict(sys.argv[1:])
    print("image,predicted," + ",".join(f"p_{name}" for name in ABOUT["classes"]))
    for path, row in zip(sys.argv[1:], rows, strict=True):
        print(f"{path},{ABOUT['classes'][row.argmax()]}," + ",".join(f"{p:.9g}" for p in row))
