"""Names and files are UTF-8 whatever the locale of the process."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from trees import cell, data_config, encode, write, zip_folder

from leukjax.data.datasets import image_folder
from leukjax.data.manifest import Manifest
from leukjax.data.manifest_builder import scan

PROGRAM = """
    import dataclasses, json, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    import numpy as np
    from trees import data_config
    from leukjax import storage
    from leukjax.data import datasets, image_stream
    from leukjax.data.manifest_builder import scan
    from leukjax.metrics import predictions

    root, out = Path(sys.argv[2]), Path(sys.argv[3])
    data = data_config(
        root, name="image_folder", subject_csv="fälle.csv", cache_dir=str(out / "cache"), threads=1,
        bad_images="error", image_size=8, crop=0, denoise="none",
    )
    prepared = datasets.prepare(data)
    manifest = prepared.manifest
    manifest.save(out / "manifest.csv")
    table = predictions.Predictions(
        prepared.classes, manifest.id, manifest.subject, manifest.group, manifest.label,
        np.full((len(manifest), 2), 0.5, np.float32),
    )
    table.write(out / "predictions.csv")
    again = predictions.read(out / "predictions.csv")
    items = [(item.path, len(item.read())) for item in image_stream.items([str(root)])]
    found = {
        "encoding": sys.getfilesystemencoding(),
        "checksum": manifest.checksum(),
        "records": prepared.checksum,
        "ids": again.id.tolist(),
        "classes": again.classes,
        "items": items,
    }
    print(json.dumps(found))
"""


def run(program: str, out: Path, *arguments: Path) -> subprocess.CompletedProcess:
    file = write(out / "program.py", textwrap.dedent(program))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    kept["PYTHONPATH"] = os.pathsep.join(sys.path)
    return subprocess.run(
        [sys.executable, file, Path(__file__).parent, *arguments],
        env={**kept, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("zell_ö") / "Zellen_日本"
    rows = ["path,subject"]
    for number in range(8):
        kind = ("blast_ß", "gesund")[number % 2]
        place = f"{kind}/Zelle_ä{number}.png"
        write(root / place, encode(cell(number), "PNG"))
        rows.append(f"{place},Fräulein {number // 4}")
    write(root / "fälle.csv", "\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def expected(root, tmp_path_factory):
    source = image_folder.make(data_config(root, subject_csv="fälle.csv"))
    return scan(source, tmp_path_factory.mktemp("cache"), 1, "error")[0]


def test_a_folder_reads_the_same_under_an_ascii_locale(root, expected, tmp_path):
    done = run(PROGRAM, tmp_path, root, tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["encoding"] == "ascii"
    assert found["checksum"] == expected.checksum()
    assert found["ids"] == expected.id.tolist()
    assert "blast_ß/Zelle_ä0.png" in found["ids"]
    assert found["classes"] == ["blast_ß", "gesund"]
    assert [path for path, _ in found["items"]] == [f"{root}/{name}" for name in found["ids"]]
    written = Manifest.load(tmp_path / "manifest.csv")  # what one locale writes another reads
    assert written.checksum() == expected.checksum()
    assert set(written.subject.tolist()) == {"Fräulein 0", "Fräulein 1"}


ZIPPED = """
    import json, sys
    sys.path.insert(0, sys.argv[1])
    from trees import data_config
    from leukjax.data import image_stream
    from leukjax.data.datasets import image_folder
    from leukjax.data.manifest_builder import scan
    manifest, _ = scan(image_folder.make(data_config(sys.argv[2])), sys.argv[3], 1, "error")
    items = [(item.path, len(item.read())) for item in image_stream.items([sys.argv[2]])]
    print(json.dumps({"ids": manifest.id.tolist(), "items": items}))
"""


def test_a_zip_reads_the_same_under_an_ascii_locale(root, expected, tmp_path):
    path = zip_folder(root, tmp_path / "Zellen_ö.zip")
    done = run(ZIPPED, tmp_path, path, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ids"] == expected.id.tolist()
    assert [name for name, _ in found["items"]] == [f"{path}!{name}" for name in found["ids"]]


UNUSABLE = """
    import sys
    from pathlib import Path
    from leukjax.data import cache
    from leukjax.errors import UserError
    from leukjax.rundir import RunDir
    hold = lambda name: RunDir(name).lock().__enter__()
    for use in (cache.root, hold):
        try:
            use(sys.argv[2])
        except UserError as error:
            print(ascii(str(error)))
"""


def test_folders_that_libraries_cannot_open_are_lines(tmp_path):
    done = run(UNUSABLE, tmp_path, tmp_path / "läufe")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "data.cache_dir: " in first
    assert "ufe: cannot be written" in second
    for line in (first, second):
        assert "the name is not UTF-8, as names are ascii here; set PYTHONUTF8=1" in line
    assert not (tmp_path / "läufe").exists()
