"""The arithmetic of scores, against torch computing the same on its own."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clipzs import score

EXTREME = [0.01, 1.0, 100.0, 1e4]


def unit(*shape: int, seed: int = 0) -> score.Array:
    """Random rows of length 1."""
    rows = np.random.default_rng(seed).normal(size=shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def test_normalised_rows_have_length_1():
    rows = np.array([[3.0, 4.0], [0.0, -1e-3], [1e4, 1e4]], np.float32)
    found = score.normalise(rows)
    assert (found.shape, found.dtype) == ((3, 2), np.float32)
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, -1], [0.5**0.5, 0.5**0.5]], rtol=1e-6)


@pytest.mark.parametrize("t", [1, 7, 80])
def test_a_label_is_the_normalised_average_of_its_normalised_prompts(t):
    import torch
    from torch.nn.functional import normalize

    prompts = np.random.default_rng(t).normal(size=(t, 32)).astype(np.float32) * np.arange(1, t + 1)[:, None]
    found = score.average(prompts.astype(np.float32))
    theirs = normalize(normalize(torch.from_numpy(prompts.astype(np.float64)), dim=-1).mean(dim=0), dim=0)
    assert (found.shape, found.dtype) == ((32,), np.float32)
    np.testing.assert_allclose(found, theirs.numpy(), atol=1e-6)


def test_a_long_prompt_embedding_does_not_outvote_the_others():
    found = score.average(np.array([[1000, 0], [0, 1]], np.float32))
    np.testing.assert_allclose(found, [0.5**0.5, 0.5**0.5], rtol=1e-6)


@pytest.mark.parametrize("scale", EXTREME)
@pytest.mark.parametrize("bias", [None, 0.0, -10.0, 25.0])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "cosine"])
def test_scores_are_those_of_torch(kind, bias, scale):
    import torch

    images, labels = unit(5, 16, seed=1), unit(4, 16, seed=2)
    labels[0] = images[0]  # a perfect fit and its opposite
    labels[1] = -images[0]
    found = score.scores(images, labels, kind=kind, scale=scale, bias=bias)
    cosine = torch.from_numpy(images).double() @ torch.from_numpy(labels).double().T
    logits = cosine * scale + (bias or 0.0)
    theirs = {"softmax": torch.softmax(logits, dim=1), "sigmoid": torch.sigmoid(logits), "cosine": cosine}[kind]
    assert (found.shape, found.dtype) == ((5, 4), np.float32)
    # one float32 rounding of the cosine, 1e-7, is multiplied by the scale
    np.testing.assert_allclose(found, theirs.numpy(), atol=1e-6 + 1e-7 * scale)


@settings(deadline=None)
@given(
    cosines=arrays.arrays(np.float32, (3, 4), elements=st.floats(-1, 1, width=32)),
    scale=st.floats(0, 1e6),
    bias=st.none() | st.floats(-1e3, 1e3),
)
def test_probabilities_are_finite_and_keep_the_order_of_the_similarities(cosines, scale, bias):
    labels = np.eye(4, dtype=np.float32)  # so that the product is the similarities themselves
    shares = score.scores(cosines, labels, kind="softmax", scale=scale, bias=bias)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    alone = score.scores(cosines, labels, kind="sigmoid", scale=scale, bias=bias)
    for table in (shares, alone):
        assert ((table >= 0) & (table <= 1)).all()
        ordered = np.take_along_axis(table, np.argsort(cosines, axis=1), axis=1)
        assert (np.diff(ordered, axis=1) >= 0).all()


def test_softmax_does_not_depend_on_the_bias():
    images, labels = unit(3, 8), unit(5, 8, seed=1)
    with_bias, without = (score.scores(images, labels, kind="softmax", scale=50, bias=b) for b in (-10.0, None))
    np.testing.assert_allclose(with_bias, without, atol=1e-7)


def test_a_tiny_sigmoid_keeps_its_digits():
    found = score.scores(unit(1, 4), -unit(1, 4), kind="sigmoid", scale=50.0, bias=-10.0)
    np.testing.assert_allclose(found, np.exp([[-60.0]]), rtol=1e-4)


def test_probabilities_add_up_per_group_in_order_of_appearance():
    table = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]], np.float32)
    sums, names = score.sum_groups(table, ["pet", "tree", "pet", "car"])
    assert names == ("pet", "tree", "car")
    assert (sums.shape, sums.dtype) == ((2, 3), np.float32)
    np.testing.assert_allclose(sums, [[0.4, 0.2, 0.4], [0.8, 0.1, 0.1]], rtol=1e-6)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_groups_keep_the_whole(groups):
    table = score.scores(unit(2, 8), unit(len(groups), 8, seed=3), kind="softmax", scale=10, bias=None)
    sums, names = score.sum_groups(table, groups)
    assert sums.shape == (2, len(set(groups)))
    np.testing.assert_allclose(sums.sum(axis=1), 1, atol=1e-6)
    for column, name in enumerate(names):
        members = [c for c, group in enumerate(groups) if group == name]
        np.testing.assert_allclose(sums[:, column], table[:, members].sum(axis=1), rtol=1e-5)


@settings(max_examples=200, deadline=None)
@given(
    table=arrays.arrays(
        np.float32, st.tuples(st.integers(1, 6), st.integers(1, 12)), elements=st.sampled_from([0, -0.0, 0.25, 0.5, 1])
    ),
    top_k=st.none() | st.integers(1, 14),
)
def test_the_best_are_those_of_a_full_stable_sort(table, top_k):
    found = score.ranked(table, top_k)
    np.testing.assert_array_equal(found, np.argsort(-table, axis=1, kind="stable")[:, :top_k])


@settings(deadline=None, max_examples=20)
@given(
    rows=st.lists(st.integers(1, 40), min_size=1, max_size=6), kind=st.sampled_from(["softmax", "sigmoid", "cosine"])
)
def test_the_scores_of_an_image_do_not_depend_on_its_company(rows, kind):
    images, labels = unit(sum(rows), 64, seed=sum(rows)), unit(37, 64, seed=1)
    together = score.scores(images, labels, kind=kind, scale=100.0, bias=-10.0)
    starts = np.cumsum([0, *rows])
    apart = [score.scores(images[a:b], labels, kind=kind, scale=100.0, bias=-10.0) for a, b in pairwise(starts)]
    np.testing.assert_array_equal(np.concatenate(apart), together)
