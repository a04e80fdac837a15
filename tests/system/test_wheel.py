"""The wheel: configs inside, the console command, and a run from any folder."""

import os
import subprocess
import sys
import zipfile

import pytest


@pytest.fixture(scope="module")
def unpacked(repository, tmp_path_factory):
    """The wheel's content in a folder of its own: nothing of the checkout is seen from there."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run([*build, str(repository)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_what_the_wheel_holds(unpacked):
    names = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert {"leukjax/main.py", "leukjax/configs/default.py", "leukjax/configs/resnet50.py"} <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"leukjax"}
    (entry,) = unpacked.glob("*.dist-info/entry_points.txt")
    assert "leukjax = leukjax.__main__:main" in entry.read_text()


@pytest.mark.parametrize("config", ["cnn", "configs/cnn.py"])
def test_training_from_any_folder(unpacked, tmp_path, config):
    tiny = ["smears_subjects=18", "smears_cells=6", "image_size=16"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "leukjax",
            "train",
            f"--config={config}",
            *(f"--config.data.{field}" for field in tiny),
            "--config.train.epochs=1",
            "--config.train.batch_size=8",
            "--config.model.width=4",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(unpacked), "LEUKJAX_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "cnn-smears" / "summary.json").is_file()
