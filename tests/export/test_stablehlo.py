"""The exported StableHLO file returns the probabilities of its run, without leukjax."""

import csv
import io
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import cv2
import every_kind
import numpy as np
import pytest
from PIL import Image

import leukjax
from leukjax.data import archive, preprocess
from leukjax.data.decode import BadImage, decode
from leukjax.export import predict_template, stablehlo

# As on a machine where leukjax and what else it needs were never installed.
ELSEWHERE = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("leukjax", "cv2", "flax", "optax", "orbax", "grain"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nothing())
sys.argv = sys.argv[1:]
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def cells(count: int, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Noisy discs on exact black, of several sizes, some not square."""
    draw = np.random.default_rng(7)
    images = []
    for i in range(count):
        side = sizes[i % len(sizes)]
        y, x = np.mgrid[:side, : side - 3 * (i % 2)] - side / 2
        disc = np.hypot(x, y) < side / 3
        images.append(np.where(disc[..., None], draw.integers(1, 256, (*disc.shape, 3)), 0))
    return [image.astype(np.uint8) for image in images]


@pytest.fixture(scope="module")
def model(trained_run):
    return leukjax.load(trained_run)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    stablehlo.write(model, folder)
    return folder


@pytest.mark.smoke("export")
def test_the_loader_without_leukjax_returns_the_same_probabilities(model, folder, tmp_path):
    size = model.image_size
    images = cells(9, (size, size // 2 + 3, 2 * size, 3 * size + 5))
    paths = [tmp_path / f'{i}, "cell".png' for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    command = [sys.executable, "-I", "-c", ELSEWHERE, folder / stablehlo.LOADER, *paths]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    header, *rows = csv.reader(io.StringIO(answer.stdout, newline=""))
    assert header == ["image", "predicted", *(f"p_{name}" for name in model.classes)]
    assert [row[0] for row in rows] == [str(path) for path in paths]
    expected = model.predict(paths)
    found = np.array([row[2:] for row in rows], np.float32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert [row[1] for row in rows] == [model.classes[i] for i in expected.argmax(1)]
    assert np.ptp(expected[:, 0]) > 1e-3


def test_any_number_of_images_and_a_free_batch(model, folder):
    from jax import export

    program = export.deserialize(bytearray((folder / stablehlo.PROGRAM).read_bytes()))
    assert program.platforms == stablehlo.PLATFORMS
    size = model.image_size
    images = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), np.uint8)
    whole = np.asarray(program.call(images))
    np.testing.assert_allclose(whole, model.predict(images), rtol=0, atol=1e-5)
    one = np.concatenate([program.call(images[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(one, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("background", ["black", "bright"])
@pytest.mark.parametrize("crop", [0, 40])
def test_the_loader_prepares_to_the_same_pixels(monkeypatch, background, crop):
    about = {"denoise": "none", "background": background, "crop": crop, "image_size": 32}
    about["windows"] = [[60, 45], [0, crop]] if crop else [[60, 45]]
    monkeypatch.setattr(predict_template, "ABOUT", about)
    for image in cells(12, (17, 31, 32, 33, 48, 64, 90, 96, 128, 201)):
        expected = preprocess.process(image, 32, crop, "none", background)
        np.testing.assert_array_equal(predict_template.prepare(image), expected)


@pytest.mark.parametrize("shape", [(8, 10_000), (33, 7101), (7072, 8)])
def test_the_loader_shrinks_what_would_be_padded_to_a_huge_square(monkeypatch, shape):
    about = {"denoise": "none", "background": "bright", "crop": 0, "image_size": 32, "windows": []}
    monkeypatch.setattr(predict_template, "ABOUT", about)
    for module, side in ((predict_template, "SHRUNK_SIDE"), (preprocess, "_SHRUNK_SIDE")):
        monkeypatch.setattr(module, side, 512)
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    expected = preprocess.process(image, 32, background="bright")
    np.testing.assert_array_equal(predict_template.prepare(image), expected)


@pytest.mark.parametrize("size", [(400, 12), (300, 8), (399, 11)])
def test_the_loader_shrinks_by_area_to_the_same_pixels(size):
    image = np.random.default_rng(0).integers(0, 256, (800, 24, 3)).astype(np.uint8)
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(predict_template.shrink(image, *size), expected)


def test_both_shrink_the_same_images_to_the_same_side():
    assert predict_template.SHRUNK_SIDE == preprocess._SHRUNK_SIDE
    assert predict_template.MAX_PADDED_PIXELS == preprocess.MAX_PADDED_PIXELS
    assert archive.MAX_MEMBER_BYTES == predict_template.MAX_BYTES


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The exported loader, imported where leukjax cannot be found."""
    source = stablehlo.loader()
    assert "\nfrom leukjax" not in source
    assert "\nimport leukjax" not in source
    path = tmp_path_factory.mktemp("shipped") / "exported_predict.py"
    path.write_text(source, encoding="utf-8")
    module = types.ModuleType("exported_predict")
    module.__file__ = str(path)
    exec(compile(source, str(path), "exec"), vars(module))
    return module


@pytest.mark.parametrize("side", [16, 45])
@pytest.mark.parametrize("name", sorted(every_kind.FILES))
def test_the_loader_reads_every_kind_of_file_as_leukjax_does(shipped, tmp_path, name, side):
    path = tmp_path / "image"
    path.write_bytes(every_kind.FILES[name](side))
    expected, _ = decode(path.read_bytes(), "x")
    np.testing.assert_array_equal(shipped.read(path), expected)
    assert expected.shape[2] == 3
    assert np.ptp(expected) > 50


@pytest.mark.parametrize("name", sorted(every_kind.BAD))
def test_the_loader_refuses_what_leukjax_refuses(shipped, tmp_path, name):
    path = tmp_path / "image"
    path.write_bytes(every_kind.BAD[name]())
    with pytest.raises(BadImage) as caught:
        decode(path.read_bytes(), str(path))
    with pytest.raises(SystemExit) as refused:
        shipped.read(path)
    assert str(refused.value) == str(caught.value)


def test_the_loader_does_not_wait_for_a_pipe(shipped, tmp_path):
    os.mkfifo(tmp_path / "image.png")
    with pytest.raises(SystemExit, match="is not a regular file"):
        shipped.read(tmp_path / "image.png")


def test_a_line_is_quoted(shipped):
    cells = ['a,"b".png', "c\rd", "e\nf", "é"]
    assert next(csv.reader(io.StringIO(shipped.line(cells), newline=""))) == cells


def test_only_images_of_one_size_are_cropped_to_the_window(monkeypatch):
    about = {"denoise": "none", "background": "black", "crop": 0, "image_size": 45}
    monkeypatch.setattr(predict_template, "ABOUT", about | {"windows": [[60, 45]]})
    (image,) = cells(1, (60,))
    expected = preprocess.window(image, 45)
    np.testing.assert_array_equal(predict_template.prepare(image), expected)


def test_a_damaged_file_and_denoised_images_are_refused(folder, monkeypatch, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (stablehlo.PROGRAM, stablehlo.DESCRIPTION, stablehlo.LOADER):
        copy.joinpath(name).write_bytes(folder.joinpath(name).read_bytes())
    blob = bytearray(copy.joinpath(stablehlo.PROGRAM).read_bytes())
    blob[len(blob) // 2] ^= 1
    copy.joinpath(stablehlo.PROGRAM).write_bytes(blob)
    about = json.loads(copy.joinpath(stablehlo.DESCRIPTION).read_text())
    monkeypatch.setattr(predict_template, "ABOUT", about)
    monkeypatch.setattr(predict_template, "FOLDER", copy)
    side = about["image_size"]
    with pytest.raises(SystemExit, match="is damaged; copy it again"):
        predict_template.predict(np.zeros((1, side, side, 3), np.uint8))
    monkeypatch.setattr(predict_template, "ABOUT", about | {"denoise": "nlm"})
    with pytest.raises(SystemExit, match="denoised"):
        predict_template.prepare(np.zeros((9, 9, 3), np.uint8))


def test_a_file_that_is_no_image_ends_in_one_line(folder, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    for arguments, says in (
        ([], "no image is given: python predict.py IMAGE..."),
        ([tmp_path], "cannot be read (Is a directory)"),
        (
            [tmp_path / "text.png"],
            "text.png: is not a PNG, JPEG",
        ),
    ):
        command = [sys.executable, "-I", "-c", ELSEWHERE, folder / stablehlo.LOADER, *arguments]
        answer = subprocess.run(command, capture_output=True, text=True)
        assert (answer.returncode, answer.stdout) == (1, "")
        assert answer.stderr.strip().endswith(says) or says in answer.stderr
        assert answer.stderr.count("\n") == 1
