"""Separation measures: SCIENCE's pins, invariances, and sharpness against a maximum known otherwise."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group
from torch import nn
from torch.nn.functional import cross_entropy

from ncutil.neurashed.separation import fuzziness, nc1, sharpness

relaxed = settings(deadline=None, max_examples=50)


def sample(seed, classes=4, dimensions=6, each=None):
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 9, classes) if each is None else np.full(classes, each)
    labels = np.repeat(np.arange(classes), counts)
    return 3 * rng.standard_normal((classes, dimensions))[labels] + rng.standard_normal(
        (len(labels), dimensions)
    ), labels


def by_definition(x, y, weighted):
    """Both measures from the matrices of their definitions."""
    classes, counts = np.unique(y, return_counts=True)
    weight = counts / len(y) if weighted else np.full(len(classes), 1 / len(classes))
    means = np.array([x[y == k].mean(0) for k in classes])
    centre = weight @ means
    within = sum(w * np.cov(x[y == k].T, bias=True) for w, k in zip(weight, classes, strict=True))
    between = sum(w * np.outer(m - centre, m - centre) for w, m in zip(weight, means, strict=True))
    return np.trace(within @ np.linalg.pinv(between, rcond=1e-10))


@relaxed
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 6), dimensions=st.integers(2, 8))
def test_equal_the_definitions_through_matrices(seed, classes, dimensions):
    x, y = sample(seed, classes, dimensions)
    assert fuzziness(x, y) == pytest.approx(by_definition(x, y, weighted=True), rel=1e-6)
    assert nc1(x, y) == pytest.approx(by_definition(x, y, weighted=False) / classes, rel=1e-6)


def test_spread_orthogonal_to_the_line_of_means_does_not_count():
    x = [[-1, 2], [-1, -2], [1, 3], [1, -3]]
    assert fuzziness(x, [0, 0, 1, 1]) == 0
    assert nc1(x, [0, 0, 1, 1]) == 0


def test_two_classes_on_a_line():
    x = np.array([[-1.5], [-0.5], [0.5], [1.5]])
    assert fuzziness(x, [0, 0, 1, 1]) == pytest.approx(0.25, abs=1e-14)
    padded = np.hstack([x, np.zeros((4, 3))])
    assert fuzziness(padded, [5, 5, 9, 9]) == pytest.approx(0.25, abs=1e-14)


@relaxed
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 5), each=st.integers(2, 9))
def test_agree_up_to_the_number_of_classes_when_balanced(seed, classes, each):
    x, y = sample(seed, classes, each=each)
    assert nc1(x, y) == pytest.approx(fuzziness(x, y) / classes, rel=1e-9)


def test_differ_when_unbalanced():
    # The tight class is large: He and Su's D sees it more often, Papyan's NC1 does not.
    x = np.concatenate([np.repeat([[-1.1], [-0.9]], 50, 0), [[0.0], [2.0]]])
    y = np.repeat([0, 1], [100, 2])
    assert 2 * nc1(x, y) == pytest.approx((0.01 + 1) / 2)
    means = (100 * 0.01 + 2) / 102, (100 * 2) / 102**2 * 4
    assert fuzziness(x, y) == pytest.approx(means[0] / means[1])


@relaxed
@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_unchanged_under_rotation_reflection_shift_and_scale(seed, scale, shift):
    x, y = sample(seed)
    turn = ortho_group.rvs(6, random_state=seed)
    for measure in (fuzziness, nc1):
        assert measure(scale * x @ turn + shift, y) == pytest.approx(measure(x, y), rel=1e-6)


def test_invertible_maps_keep_it_only_where_the_means_span_everything():
    rng = np.random.default_rng(0)
    x, y = sample(0, classes=7, dimensions=6)
    stretch = rng.standard_normal((6, 6))
    assert fuzziness(x @ stretch, y) == pytest.approx(fuzziness(x, y), rel=1e-6)
    x, y = sample(0, classes=3, dimensions=6)
    assert fuzziness(x @ stretch, y) != pytest.approx(fuzziness(x, y), rel=0.01)


@pytest.mark.parametrize("measure", [nc1, fuzziness])
@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        ([1.0, 2.0], [0, 1], "samples, dimensions"),
        ([[1.0], [2.0]], [0, 1, 1], "samples, dimensions"),
        ([[1.0], [np.nan]], [0, 1], "1 of 2 features are not finite"),
        ([[1.0], [2.0]], [1, 1], "at least two classes"),
        ([[1.0], [2.0]], [0.5, 1.5], "whole numbers"),
        ([[1.0], [3.0], [3.0], [1.0]], [0, 0, 1, 1], "coincide"),
        (np.zeros((4, 2)), [0, 0, 1, 1], "coincide"),
    ],
)
def test_refusals(measure, features, labels, message):
    with pytest.raises(ValueError, match=message):
        measure(features, labels)


def small_model(seed):
    torch.manual_seed(seed)
    return nn.Linear(2, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_sharpness_finds_the_corner_where_a_convex_loss_is_largest(seed):
    model, X, y = small_model(seed)
    base = float(cross_entropy(model(X), y).detach())
    parts = [p.detach().clone() for p in model.parameters()]
    largest = base
    for corner in itertools.product((-1.0, 1.0), repeat=6):
        signs = torch.tensor(corner, dtype=torch.float64)
        w = parts[0] + 0.01 * (parts[0].abs() + 1) * signs[:4].reshape(2, 2)
        b = parts[1] + 0.01 * (parts[1].abs() + 1) * signs[4:]
        largest = max(largest, float(cross_entropy(X @ w.T + b, y)))
    expected = 100 * (largest - base) / (1 + base)
    found = sharpness(model, X, y, epsilon=0.01)
    assert found <= expected + 1e-9
    assert found == pytest.approx(expected, rel=0.05)


def test_sharpness_grows_with_the_box_and_leaves_the_model_alone():
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).double().train()
    _, X, y = small_model(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small, large = (sharpness(model, X, y, epsilon=e) for e in (1e-3, 1e-2))
    assert 0 < small < large
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_sharpness_refuses():
    model, X, y = small_model(0)
    with pytest.raises(ValueError, match="epsilon must be above 0"):
        sharpness(model, X, y, epsilon=0.0)
    with pytest.raises(ValueError, match="as many labels"):
        sharpness(model, X, y[:3])
    with pytest.raises(ValueError, match="not finite"):
        sharpness(model, X * float("nan"), y)
