"""One file that runs anywhere gives the probabilities of the run that it came from."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import leukjax
from leukjax.apply import loader, stablehlo
from leukjax.data import preprocess

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
def test_the_loader_elsewhere_gives_the_same_probabilities(model, folder, tmp_path):
    size = model.image_size
    images = cells(9, (size, size // 2 + 3, 2 * size, 3 * size + 5))
    paths = [tmp_path / f"{i}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    command = [sys.executable, "-I", "-c", ELSEWHERE, folder / stablehlo.LOADER, *paths]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    header, *rows = answer.stdout.splitlines()
    assert header == "image,predicted," + ",".join(f"p_{name}" for name in model.classes)
    expected = model.predict(paths)
    found = np.array([row.split(",")[2:] for row in rows], np.float32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert [row.split(",")[1] for row in rows] == [model.classes[i] for i in expected.argmax(1)]
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
    monkeypatch.setattr(loader, "ABOUT", about)
    for image in cells(12, (17, 31, 32, 33, 48, 64, 90, 96, 128, 201)):
        expected = preprocess.process(image, 32, crop, "none", background)
        np.testing.assert_array_equal(loader.prepare(Image.fromarray(image)), expected)


def test_a_window_is_cut_from_images_of_its_size_alone(monkeypatch):
    about = {"denoise": "none", "background": "black", "crop": 0, "image_size": 45}
    monkeypatch.setattr(loader, "ABOUT", about | {"windows": [[60, 45]]})
    (image,) = cells(1, (60,))
    expected = preprocess.window(image, 45)
    np.testing.assert_array_equal(loader.prepare(Image.fromarray(image)), expected)


def test_a_damaged_program_and_denoised_images_are_refused(folder, monkeypatch, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (stablehlo.PROGRAM, stablehlo.ABOUT, stablehlo.LOADER):
        copy.joinpath(name).write_bytes(folder.joinpath(name).read_bytes())
    blob = bytearray(copy.joinpath(stablehlo.PROGRAM).read_bytes())
    blob[len(blob) // 2] ^= 1
    copy.joinpath(stablehlo.PROGRAM).write_bytes(blob)
    about = json.loads(copy.joinpath(stablehlo.ABOUT).read_text())
    monkeypatch.setattr(loader, "ABOUT", about)
    monkeypatch.setattr(loader, "FOLDER", copy)
    side = about["image_size"]
    with pytest.raises(SystemExit, match="is damaged; copy it anew"):
        loader.predict(np.zeros((1, side, side, 3), np.uint8))
    monkeypatch.setattr(loader, "ABOUT", about | {"denoise": "nlm"})
    with pytest.raises(SystemExit, match="denoised"):
        loader.prepare(Image.fromarray(np.zeros((9, 9, 3), np.uint8)))


def test_what_is_no_image_is_one_line_and_no_row(folder, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    for arguments, says in (
        ([], "no image is given: python predict.py IMAGE..."),
        ([tmp_path], "cannot be read (Is a directory)"),
        ([tmp_path / "text.png"], "text.png: cannot be read (it is damaged, or no image)"),
    ):
        command = [sys.executable, "-I", "-c", ELSEWHERE, folder / stablehlo.LOADER, *arguments]
        answer = subprocess.run(command, capture_output=True, text=True)
        assert (answer.returncode, answer.stdout) == (1, "")
        assert answer.stderr.strip().endswith(says) or says in answer.stderr
        assert answer.stderr.count("\n") == 1
