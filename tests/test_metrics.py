"""Figures of accuracy and calibration, held against scikit-learn and against what must be true of them."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from clipzs import metrics
from clipzs.metrics import Outcomes

CLASSES = 9


def drawn(n: int, classes: int = CLASSES, *, sharpness: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A truth [n] and probabilities [n, classes] that are right more often than not; the last class has no image."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, classes - 1, n)
    logits = draw.normal(size=(n, classes))
    logits[np.arange(n), truth] += 2
    odds = np.exp(sharpness * logits)
    return truth, odds / odds.sum(axis=1, keepdims=True)


@pytest.fixture
def both() -> tuple[np.ndarray, np.ndarray]:
    return drawn(400)


def test_accuracy_among_the_k_best_is_scikit_learns(both):
    truth, table = both
    outcomes = Outcomes.of(truth, table)
    for k in (1, 2, 5):
        theirs = top_k_accuracy_score(truth, table, k=k, labels=range(CLASSES))
        assert metrics.top(outcomes, k) == pytest.approx(theirs, abs=1e-12)


def test_precision_recall_f1_and_support_are_scikit_learns(both):
    truth, table = both
    truth = np.where(truth == 3, 4, truth)  # one more class without an image, which some images are taken for
    ours = metrics.per_class(Outcomes.of(truth, table))
    theirs = precision_recall_fscore_support(truth, table.argmax(1), labels=range(CLASSES), zero_division=np.nan)
    np.testing.assert_allclose((ours.precision, ours.recall, ours.f1), theirs[:3], atol=1e-12)
    np.testing.assert_array_equal(ours.support, theirs[3])
    assert np.isnan(ours.recall[[3, 8]]).all()


def test_a_class_that_is_never_the_answer_has_no_precision_and_an_f1_of_0():
    ours = metrics.per_class(Outcomes.of(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]])))
    assert np.isnan(ours.precision[1])
    assert ours.recall[1] == ours.f1[1] == 0


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_mean_recall_per_class_is_scikit_learns_balanced_accuracy(both):
    truth, table = both
    theirs = balanced_accuracy_score(truth, table.argmax(1))
    assert metrics.mean_class_recall(Outcomes.of(truth, table)) == pytest.approx(theirs, abs=1e-12)


def test_the_confusion_matrix_is_scikit_learns_and_its_largest_cells_are_the_most_confused(both):
    truth, table = both
    outcomes = Outcomes.of(truth, table)
    theirs = confusion_matrix(truth, table.argmax(1), labels=range(CLASSES))
    np.testing.assert_array_equal(metrics.confusion(outcomes), theirs)
    pairs = metrics.most_confused(outcomes, 7)
    counts = [theirs[pair] for pair in pairs]
    assert counts == sorted(theirs[~np.eye(CLASSES, dtype=bool)], reverse=True)[:7]
    assert all(true != answer for true, answer in pairs)


def test_no_mistake_no_confused_pair():
    assert metrics.most_confused(Outcomes.of(np.array([0, 1]), np.eye(2)), 5) == []


def test_negative_log_likelihood_is_scikit_learns(both):
    truth, table = both
    theirs = log_loss(truth, table, labels=range(CLASSES))
    assert metrics.negative_log_likelihood(Outcomes.of(truth, table)) == pytest.approx(theirs, abs=1e-9)


def test_a_probability_of_0_costs_much_but_not_infinity():
    loss = metrics.negative_log_likelihood(Outcomes.of(np.array([1]), np.array([[1.0, 0.0]], np.float32)))
    assert 80 < loss < 90


@pytest.mark.parametrize("sharpness", [0.5, 2.0, 9.0])
def test_the_reliability_bins_are_scikit_learns(sharpness):
    truth, table = drawn(500, sharpness=sharpness)
    ours = metrics.reliability(Outcomes.of(truth, table))
    right, confidence = table.argmax(1) == truth, table.max(1)
    accuracy, mean = calibration_curve(right, confidence, n_bins=metrics.BINS)
    some = ours.images > 0
    np.testing.assert_allclose(ours.accuracy[some], accuracy, atol=1e-12)
    np.testing.assert_allclose(ours.confidence[some], mean, atol=1e-12)
    assert ours.images.sum() == 500
    expected = sum(
        abs(accuracy - mean) * share
        for accuracy, mean, share in zip(accuracy, mean, ours.images[some] / 500, strict=True)
    )
    assert metrics.calibration_error(Outcomes.of(truth, table)) == pytest.approx(expected, abs=1e-12)


def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_lower_one():
    found = metrics.reliability(Outcomes.of(np.array([0, 0, 0]), np.array([[0.5, 0.5], [1.0, 0.0], [0.6, 0.4]])), 2)
    assert found.images.tolist() == [1, 2]


def test_calibration_error_of_known_cases():
    sure = np.tile([0.9, 0.1], (10, 1))
    assert metrics.calibration_error(Outcomes.of(np.array([0] * 9 + [1]), sure)) == pytest.approx(0, abs=1e-12)
    assert metrics.calibration_error(Outcomes.of(np.array([1] * 10), sure)) == pytest.approx(0.9)


def test_of_equal_scores_the_first_is_the_answer_as_in_the_results():
    outcomes = Outcomes.of(np.array([0, 1, 2]), np.full((3, 3), 1 / 3))
    assert outcomes.answer.tolist() == [0, 0, 0]
    assert outcomes.rank.tolist() == [0, 1, 2]
    assert metrics.top(outcomes, 1) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "table", [[[0.5, np.nan]], [[0.5, 1.5]], [[-0.1, 1.0]], [[0.5, 0.5], [0.5, 0.5]], [0.5], np.empty((1, 0))]
)
def test_what_is_no_table_of_probabilities_is_refused(table):
    with pytest.raises(ValueError, match="probabilities"):
        Outcomes.of(np.array([0]), np.array(table))


def test_the_same_seed_draws_the_same_images_whatever_is_measured():
    one, same = (metrics.bootstrap(lambda chosen: chosen * 1.0, 50, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert (one != metrics.bootstrap(lambda chosen: chosen * 1.0, 50, seed=4)).any()
    half = metrics.bootstrap(lambda chosen: chosen[:1] / 2, 50, seed=3)
    np.testing.assert_array_equal(half[:, 0], one[:, 0] / 2)


def test_the_interval_of_an_accuracy_is_as_wide_as_theory_says():
    right = np.arange(400) < 300
    samples = metrics.bootstrap(lambda chosen: np.array([right[chosen].mean()]), 400, seed=0)
    ((low, high),) = metrics.intervals(samples)
    width = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - width, abs=0.006)
    assert high == pytest.approx(0.75 + width, abs=0.006)


def test_samples_that_are_not_defined_are_left_out_of_their_interval_alone():
    samples = np.array([[0.0, np.nan, np.nan], [1.0, 1.0, np.nan], [0.5, 1.0, np.nan]])
    found = metrics.intervals(samples, level=1.0)
    np.testing.assert_array_equal(found, [[0, 1], [1, 1], [np.nan, np.nan]])


def calibration(truth: np.ndarray, table: np.ndarray) -> tuple[float, float, float, np.ndarray]:
    """Error, its interval, and the errors by chance."""
    outcomes = Outcomes.of(truth, table)
    error = metrics.calibration_error(outcomes)
    samples = metrics.bootstrap(
        lambda chosen: np.array([metrics.calibration_error(outcomes.at(chosen))]), len(truth), seed=0, resamples=200
    )
    chance = metrics.errors_by_chance(outcomes, seed=0, resamples=200)
    return (error, *metrics.calibration_interval(error, samples[:, 0], chance), chance)


def test_perfect_probabilities_show_an_error_that_is_called_chance():
    draw = np.random.default_rng(5)
    sure = draw.uniform(0.5, 1, 100)
    error, low, high, chance = calibration((draw.random(100) >= sure).astype(int), np.stack([sure, 1 - sure], axis=1))
    assert low == 0 < error < high
    assert error == pytest.approx(chance.mean(), rel=0.6)


def test_overconfident_probabilities_have_an_error_above_chance():
    truth, table = drawn(400, sharpness=6)
    error, low, high, chance = calibration(truth, table)
    assert chance.mean() < low < error < high
