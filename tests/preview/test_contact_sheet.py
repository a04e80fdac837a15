import numpy as np

from leukjax.preview.contact_sheet import sheet
from leukjax.report.style import save


def test_every_cell_and_every_view_is_shown(tmp_path):
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    views = rng.random((3, 4, 16, 16, 3)).astype(np.float32)
    figure = sheet(raw, views, ["hem H1", "all H2", "all H3"], "smears: flip")
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert len(shown) == 15
    np.testing.assert_array_equal(shown[0], raw[0])
    np.testing.assert_array_equal(shown[7], views[1, 1])
    assert [axes.get_ylabel() for axes in figure.axes[::5]] == ["hem H1", "all H2", "all H3"]
    first, second = (save(figure, tmp_path / run, "preview") for run in "ab")
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_without_views_the_raw_cells_remain():
    figure = sheet(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 0, 8, 8, 3)), ["a", "b"], "x")
    assert len(figure.axes) == 2
