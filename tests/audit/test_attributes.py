"""Whether an attribute predicts the class, and pixels tell the source."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from scipy.stats import contingency

from leukjax.audit import folder, folder_page
from leukjax.audit.attributes import associations, cramers_v
from leukjax.data.manifest import Manifest
from leukjax.data.source import WARNING


def manifest(labels, groups):
    count = len(labels)
    names = [f"{i:03}" for i in range(count)]
    texts = {name: [""] * count for name in ("path", "phase", "sha256", "pixels")}
    return Manifest(
        classes=("a", "b"), id=names, label=labels, subject=groups, group=groups,
        phash=[0] * count, area=[0.5] * count, **texts,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_cramers_v_is_scipys_without_its_bias(seed):
    table = np.random.default_rng(seed).integers(1, 30, (3, 4)).astype(float)
    n, (r, k) = table.sum(), table.shape
    phi2 = contingency.association(table.astype(int), method="cramer") ** 2 * min(r - 1, k - 1)
    phi2 = max(0, phi2 - (r - 1) * (k - 1) / (n - 1))
    sides = [r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)]
    expected = np.sqrt(phi2 / (min(sides) - 1))
    assert cramers_v(table) == pytest.approx(expected)


def test_cramers_v_at_its_ends():
    assert cramers_v(np.diag([20.0, 30.0])) == pytest.approx(1, abs=1e-12)
    assert cramers_v(np.full((2, 2), 10.0)) == 0
    with pytest.raises(ValueError, match="two rows"):
        cramers_v(np.ones((1, 3)))


def test_a_group_counts_once():
    groups = [f"g{i}" for i in range(12)]
    labels = np.arange(12) % 2
    site = ["x" if i < 7 else "y" for i in range(12)]
    of_site = {f"{i:03}": name for i, name in enumerate(site)}
    once = associations(manifest(labels, groups), {"site": of_site})
    # The same groups with 1 to 12 images each.
    each = np.repeat(np.arange(12), np.arange(1, 13))
    values = {f"{i:03}": site[g] for i, g in enumerate(each)}
    often = associations(manifest(labels[each], [groups[g] for g in each]), {"site": values})
    assert often[0].cramers_v == pytest.approx(once[0].cramers_v)
    assert (often[0].images, often[0].groups) == (78, 12)


def test_what_has_no_association_says_why():
    data = manifest(np.arange(40) % 2, [f"g{i}" for i in range(40)])
    ids = data.id.tolist()
    many, one, none = associations(
        data, {"many": {i: i for i in ids}, "one": dict.fromkeys(ids, "x"), "none": {}}
    )
    assert many.reason == "above 32 values"
    assert one.cramers_v is None
    assert "two values" in one.reason
    assert none.images == 0


def test_a_planted_source_is_found(tmp_path, monkeypatch, capsys):
    """Site "north" has the brighter images and most of class b; the sex is of neither."""
    monkeypatch.setenv("LEUKJAX_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :24] - 11.5
    root = tmp_path / "cells"
    root.mkdir()
    rows = [("file", "label", "patient", "site", "sex")]
    for patient in range(24):
        label = "ab"[patient % 2]
        north = (label == "b") != (patient % 6 == 0)
        for number in range(4):
            disc = y**2 + x**2 < rng.uniform(7, 10) ** 2
            picture = rng.integers(80, 140, (24, 24, 3)) + 70 * north
            picture = np.where(disc[..., None], picture, 0).astype(np.uint8)
            name = f"{patient}_{number}.png"
            Image.fromarray(picture).save(root / name)
            rows.append((name, label, patient, ("south", "north")[north], "fm"[patient // 2 % 2]))
    with (root / "cells.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    audit = folder.audit(str(root), "auto", [("data.table", str(root / "cells.csv"))])
    by_name = {found.attribute: found for found in audit.associations}
    assert by_name["source"].cramers_v > 0.5
    assert by_name["sex"].cramers_v < 0.3
    tells = {shortcut.name: shortcut.is_above_chance for shortcut in audit.source_shortcuts}
    assert tells["brightness"]
    assert not tells["area"]
    warnings = [note.text for note in audit.notes() if note.level == WARNING]
    assert any(text.startswith("source and the class: Cramér's V") for text in warnings)
    assert any("together tell the source" in text for text in warnings)
    assert not any(text.startswith("sex") for text in warnings)
    folder_page.write_and_print(audit, tmp_path / "out")
    assert "Attributes and the class" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert content["attributes"][0]["groups"] == 24
    assert "<h2>Attributes</h2>" in (tmp_path / "out" / "audit.html").read_text()
