import numpy as np
import pytest

from leukjax.metrics import confusion

# Real confusion matrices of C-NMC's 1,867 preliminary cells; class 0 HEM, class 1 ALL.
WINNER = np.array([[543, 105], [85, 1134]])
OTHER = np.array([[536, 112], [77, 1142]])


def test_rows_are_true_and_columns_predicted():
    matrix = confusion.confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    ("matrix", "weighted", "macro", "balanced"),
    [
        (WINNER, 0.8978489330, 0.8868992810, 0.8841168383),
        (OTHER, 0.8980795533, 0.8868467795, 0.8819969819),
    ],
)
def test_the_scores_of_real_confusion_matrices(matrix, weighted, macro, balanced):
    for name, expected in (
        ("weighted_f1", weighted),
        ("macro_f1", macro),
        ("balanced_accuracy", balanced),
    ):
        assert confusion.score(name, matrix, 1) == pytest.approx(expected, abs=5e-11), name


def test_f1_by_class():
    np.testing.assert_allclose(
        confusion.by_class(WINNER)["f1"], [0.8510971787, 0.9227013832], atol=5e-11
    )
    assert confusion.score("f1", WINNER, 1) == pytest.approx(0.9227013832, abs=5e-11)
    assert confusion.score("f1", WINNER, 0) == pytest.approx(0.8510971787, abs=5e-11)


def test_everything_called_one_class():
    all_hem = np.array([[648, 0], [1219, 0]])
    all_all = np.array([[0, 648], [0, 1219]])
    assert confusion.score("weighted_f1", all_hem, 1) == pytest.approx(0.1788536057, abs=5e-11)
    assert confusion.score("weighted_f1", all_all, 1) == pytest.approx(0.5158, abs=5e-5)
    assert np.isnan(confusion.score("precision", all_hem, 1))
    assert np.isnan(confusion.score("mcc", all_hem, 1))
    assert confusion.score("balanced_accuracy", all_hem, 1) == 0.5


def test_a_stack_gives_the_scores_of_its_matrices():
    stack = np.random.default_rng(0).integers(0, 4, (40, 5, 3, 3))
    for name in confusion.NAMES:
        stacked = confusion.score(name, stack, 0)
        assert stacked.shape == (40, 5)
        alone = [[confusion.score(name, matrix, 0) for matrix in row] for row in stack]
        np.testing.assert_array_equal(stacked, alone)
