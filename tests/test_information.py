"""Bins, bounds and exact mixtures: pins, closed forms, and what has to hold for any layer."""

import ast
import functools
import json
import math
from itertools import product

import numpy as np
import pytest
from conftest import PROJECT, ROOT, cli, copy_project
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import quad
from scipy.io import loadmat, savemat

from ncutil.evidence import claims
from ncutil.neurashed import information
from ncutil.neurashed.information import (
    binned,
    kde_bounds,
    mixture_information,
)

BITS = np.array(list(product([0, 1], repeat=12)), float)
EDGES = np.linspace(-1, 1, 31)
LAYERS = arrays(float, st.tuples(st.integers(1, 30), st.integers(1, 5)), elements=st.floats(-3, 3, width=32))


def by_counting(layer, edges):
    """Cells as tuples, one number at a time."""
    cells = {}
    for row in layer:
        cell = tuple(min(max(sum(v >= e for e in edges) - 1, 0), len(edges) - 2) for v in row)
        cells[cell] = cells.get(cell, 0) + 1
    p = np.array(list(cells.values())) / len(layer)
    return -(p * np.log2(p)).sum()


# --- binned --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(LAYERS, st.integers(1, 40))
def test_binned_is_the_entropy_of_cells(layer, bins):
    edges = np.linspace(-1, 1, bins + 1)
    assert binned(layer, edges) == pytest.approx(by_counting(layer, edges), abs=1e-9)


@settings(deadline=None)
@given(LAYERS, st.lists(st.integers(-40, 40), min_size=2, max_size=8, unique=True))
def test_binned_with_uneven_edges(layer, tenths):
    edges = np.sort(tenths) / 10
    assert binned(layer, edges) == pytest.approx(by_counting(layer, edges), abs=1e-9)


@pytest.mark.parametrize("edges", [np.linspace(-1, 1, 31), np.linspace(0, 0.7, 8), np.array([0, 0.1, 0.5, 1.0])])
def test_a_bin_holds_its_lower_edge_and_the_last_bin_both(edges):
    just_below = np.nextafter(edges[1:-1], -np.inf)
    # Each edge shares its cell with the middle of the bin above it, not with what lies just below.
    for k, (edge, below) in enumerate(zip(edges[1:-1], just_below, strict=True), 1):
        middle = (edges[k] + edges[k + 1]) / 2
        assert binned([[edge], [middle]], edges) == 0
        assert binned([[edge], [below]], edges) == 1
    assert binned([[edges[-1]], [edges[-2]]], edges) == 0


def test_values_beyond_the_edges_fall_in_the_outermost_bins():
    assert binned([[1.0], [1e300]], EDGES) == binned([[-1.0], [-1e300]], EDGES) == 0
    assert binned([[5.0], [-5.0]], EDGES) == 1
    # A ReLU layer read with the edges of tanh loses all that it says above 1.
    relu = np.linspace(1, 9, 16)[:, None]
    assert binned(relu, EDGES) == 0
    assert binned(relu, np.linspace(0, 9, 31)) == 4


def test_binned_of_all_patterns_is_their_number_of_bits():
    assert binned(BITS, [0, 0.5, 1]) == 12
    assert binned(BITS, [0, 1]) == 0
    assert binned(BITS[:, :5], [0, 0.5, 1]) == 5


def test_binned_packs_more_units_than_an_integer_holds():
    rng = np.random.default_rng(0)
    wide = rng.uniform(-1, 1, (300, 200))
    assert binned(wide, EDGES) == pytest.approx(math.log2(300))
    assert binned(np.repeat(wide[:150], 2, axis=0), EDGES) == pytest.approx(math.log2(150))
    first_and_last = np.zeros((4, 200))
    first_and_last[[1, 3], 0] = first_and_last[[2, 3], -1] = 0.9
    assert binned(first_and_last, EDGES) == 2


@settings(deadline=None)
@given(LAYERS, st.randoms(use_true_random=False))
def test_binned_knows_no_order_and_finer_bins_know_more(layer, random):
    rows, columns = list(range(len(layer))), list(range(layer.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    coarse = binned(layer, np.linspace(-1, 1, 5))
    assert binned(layer[rows][:, columns], np.linspace(-1, 1, 5)) == pytest.approx(coarse, abs=1e-12)
    assert coarse <= binned(layer, np.linspace(-1, 1, 17)) + 1e-12
    assert 0 <= coarse <= math.log2(len(layer)) + 1e-12


# --- kde_bounds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", [0.01, 0.1, 1.0, 30.0])
def test_kde_bounds_of_the_bits_themselves(variance):
    lower, upper = kde_bounds(BITS, variance)
    assert lower == pytest.approx(-12 * math.log2((1 + math.exp(-1 / (8 * variance))) / 2), abs=1e-9)
    assert upper == pytest.approx(-12 * math.log2((1 + math.exp(-1 / (2 * variance))) / 2), abs=1e-9)


def test_kde_pins():
    assert kde_bounds(BITS, 0.1) == pytest.approx((7.638518, 11.883742), abs=1e-6)
    assert 12 * mixture_information([[0], [1]], math.sqrt(0.1)) == pytest.approx(9.514937, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(LAYERS, st.floats(0.01, 10))
def test_kde_bounds_are_their_definition_and_hold_the_truth(layer, variance):
    d = ((layer[:, None] - layer) ** 2).sum(-1)
    expected = [-np.log2(np.exp(-d / (c * variance)).mean(1)).mean() for c in (8, 2)]
    lower, upper = kde_bounds(layer, variance)
    assert (lower, upper) == pytest.approx(tuple(np.maximum(expected, 0)), abs=1e-9)
    if len(layer) <= 8:
        assert lower - 0.01 <= mixture_information(layer, math.sqrt(variance)) <= upper + 0.01


def test_kde_blocks_cover_every_pair_once(monkeypatch):
    layer = np.random.default_rng(1).normal(size=(257, 3))
    whole = kde_bounds(layer, 0.2)
    monkeypatch.setattr(information, "BLOCK", 257 * 7)
    assert kde_bounds(layer, 0.2) == pytest.approx(whole, abs=1e-12)


def test_kde_far_from_the_origin_and_far_apart():
    layer = np.random.default_rng(2).normal(size=(50, 2))
    assert kde_bounds(layer + 1e4, 0.1) == pytest.approx(kde_bounds(layer, 0.1), abs=1e-6)
    assert kde_bounds(1e6 * layer, 1e-6) == pytest.approx((math.log2(50), math.log2(50)))
    assert kde_bounds(np.repeat(1e6 * layer, 2, axis=0), 1e-6) == pytest.approx((math.log2(50), math.log2(50)))


# --- mixture_information -------------------------------------------------------------------------------------------


def binary_channel(distance):
    """I(T; X) of a fair bit that moves the mean of a unit normal by a distance, by scipy's quadrature."""

    def integrand(z):
        ratio = -distance * z - distance**2 / 2
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * np.logaddexp(0, ratio) / math.log(2)

    return 1 - quad(integrand, -12, 12, epsabs=1e-12, limit=400)[0]


@pytest.mark.parametrize("distance", [0.05, 0.7, 2.0, 6.0, 40.0])
def test_two_inputs_against_quadrature(distance):
    assert mixture_information([[0.0], [distance]], 1.0) == pytest.approx(binary_channel(distance), abs=1e-9)
    # The same two points anywhere in a space of any dimension.
    direction = np.array([2.0, -1.0, 2.0]) / 3
    far = np.array([5.0, 5.0, 5.0]) + np.outer([0, 0.1 * distance], direction)
    assert mixture_information(far, 0.1) == pytest.approx(binary_channel(distance), abs=1e-9)


@pytest.mark.parametrize("sigma", [0.2, 0.5, 1.0])
def test_independent_bits_add(sigma):
    cube = np.array(list(product([0, 1], repeat=3)), float)
    one = mixture_information([[0], [1]], sigma)
    assert mixture_information(cube, sigma) == pytest.approx(3 * one, abs=0.01)
    assert mixture_information(cube, sigma, tolerance=1e-4) == pytest.approx(3 * one, abs=6e-4)


@pytest.mark.parametrize("seed", range(5))
def test_within_a_hundredth_of_a_bit(seed):
    rng = np.random.default_rng(seed)
    problems = rng.normal(size=(6, 8, 6)) * rng.uniform(0.2, 3, (6, 1, 1))
    sharp = mixture_information(problems, 1.0, tolerance=5e-4, seed=99)
    np.testing.assert_allclose(mixture_information(problems, 1.0, seed=seed), sharp, atol=0.01)


@settings(deadline=None, max_examples=40)
@given(arrays(float, (4, 3), elements=st.floats(-3, 3, width=32)), st.integers(0, 2**32 - 1))
def test_what_moves_all_inputs_alike_changes_nothing(means, seed):
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    moved = 7 * (means @ turn + rng.normal(size=3))[rng.permutation(4)]
    assert mixture_information(moved, 7.0) == pytest.approx(mixture_information(means, 1.0), abs=0.012)


@settings(deadline=None, max_examples=40)
@given(arrays(float, (5, 2), elements=st.floats(-3, 3, width=32)))
def test_noise_and_projection_only_lose(means):
    bits = mixture_information(means, 0.5)
    assert 0 <= bits <= math.log2(5)
    assert mixture_information(means, 1.0) <= bits + 0.012
    assert mixture_information(means[:, :1], 0.5) <= bits + 0.012


def test_little_noise_counts_distinct_inputs():
    means = np.array([[0, 0], [0, 0], [1, 0], [0, 1]], float)
    assert mixture_information(means, 1e-3) == pytest.approx(1.5)
    assert mixture_information(means * 1e4, 1e-4) == pytest.approx(1.5)
    assert mixture_information([[0, 0], [5e6, 0], [6e6, 0], [6e6, 9.0]], 1.0) == pytest.approx(2, abs=1e-3)
    assert mixture_information(means, 1e6) == pytest.approx(0, abs=1e-3)
    assert mixture_information([[1.0, 2.0]] * 3, 1.0) == 0
    assert mixture_information([[4.0]], 1.0) == 0


def test_weights():
    means = [[0.0], [3.0], [50.0]]
    assert mixture_information(means, 1.0, [0.5, 0.5, 0]) == pytest.approx(binary_channel(3.0), abs=1e-9)
    # An input that is far from all others: the entropy of that choice, plus what is left of the rest.
    expected = -(0.2 * math.log2(0.2) + 0.8 * math.log2(0.8)) + 0.8 * binary_channel(3.0)
    assert mixture_information(means, 1.0, [0.4, 0.4, 0.2]) == pytest.approx(expected, abs=1e-9)


def test_the_label_knows_what_the_classes_do_not():
    """I(T; Y) = I(T; X) - sum_y p(y) I(T; X | y), against the mixture of two mixtures by quadrature."""
    a, b = [0.0, 1.0], [2.5, 4.0]

    def density(t, means):
        return sum(math.exp(-((t - m) ** 2) / 2) for m in means) / len(means) / math.sqrt(2 * math.pi)

    def integrand(t):
        pa, pb = density(t, a), density(t, b)
        mean = (pa + pb) / 2
        return sum(p / 2 * math.log2(p / mean) for p in (pa, pb) if p > 0)

    label = quad(integrand, -12, 16, epsabs=1e-11, limit=400)[0]
    all_four = mixture_information([[v] for v in a + b], 1.0)
    within = [mixture_information([[v] for v in part], 1.0) for part in (a, b)]
    assert all_four - np.mean(within) == pytest.approx(label, abs=1e-8)


def test_many_problems_at_once_are_the_same_problems():
    rng = np.random.default_rng(3)
    means, sigma = rng.normal(size=(2, 5, 4, 3)), rng.uniform(0.3, 2, (2, 5))
    together = mixture_information(means, sigma)
    assert together.shape == (2, 5)
    for i, j in product(range(2), range(5)):
        assert mixture_information(means[i, j], sigma[i, j]) == pytest.approx(together[i, j], abs=1e-9)


def test_same_call_same_bits_and_an_error_that_carries_the_estimate(monkeypatch):
    means = np.random.default_rng(4).normal(size=(6, 4))
    assert mixture_information(means, 1.0) == mixture_information(means, 1.0)
    assert mixture_information(means, 1.0) != mixture_information(means, 1.0, seed=1)
    monkeypatch.setattr(information, "MOST_POINTS", 128)
    with pytest.raises(RuntimeError, match=r"information \d\.\d+ bits has standard error .* asked for 1e-08"):
        mixture_information(means, 1.0, tolerance=1e-8)


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: binned([1.0, 2.0], EDGES), r"shape \(samples, units\).*\(2,\)"),
        (lambda: binned(np.zeros((0, 3)), EDGES), r"\(0, 3\)"),
        (lambda: binned([[np.nan]], EDGES), "1 of 1 activations are not finite"),
        (lambda: binned([[0.0]], [1, 0]), "increasing"),
        (lambda: binned([[0.0]], [0]), "at least two"),
        (lambda: binned([[0.0]], [0, np.inf]), "finite"),
        (lambda: kde_bounds([[np.inf]], 0.1), "not finite"),
        (lambda: kde_bounds([[0.0]], 0.0), "variance must be a positive number; got 0.0"),
        (lambda: kde_bounds([[0.0]], float("nan")), "variance"),
        (lambda: mixture_information([0.0, 1.0], 1.0), r"\(components, dimensions\).*\(2,\)"),
        (lambda: mixture_information([[np.nan]], 1.0), "finite"),
        (lambda: mixture_information([[0.0]], 0.0), "positive"),
        (lambda: mixture_information([[0.0]], [1.0, 2.0]), r"sigma .*shape \(\).*\(2,\)"),
        (lambda: mixture_information([[0.0], [1.0]], 1.0, [0.5, 0.4]), "2 probabilities that sum to 1"),
        (lambda: mixture_information([[0.0], [1.0]], 1.0, [1.5, -0.5]), "probabilities"),
        (lambda: mixture_information([[0.0], [1.0]], 1.0, [1.0]), "2 probabilities"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# --- the chapter with a user's data --------------------------------------------------------------------------------

CHAPTER = ROOT / "notebooks" / "05-information-bottleneck.md"
PATTERNS = np.array(list(product([0, 1], repeat=5)))


def chapter_function(name):
    """A function of the chapter, from its own cell."""
    (source,) = (cell.source for cell in PROJECT.chapters[CHAPTER.stem].code_cells if f"def {name}(" in cell.source)
    body = next(node for node in ast.parse(source).body if getattr(node, "name", "") == name)
    scope = {"np": np, "loadmat": loadmat, "cache": functools.cache, "math": math, "product": product}
    exec(compile(ast.Module([body], []), CHAPTER.name, "exec"), scope)
    return scope[name]


def test_own_rule_is_balanced_and_has_the_symmetries_of_an_icosahedron():
    scope = chapter_function("own_rule").__globals__
    scope["icosahedron"] = chapter_function("icosahedron")
    corners = scope["icosahedron"]()
    inner = np.unique((corners @ corners.T).round(9), return_counts=True)
    np.testing.assert_allclose(inner[0], [-1, -(5**-0.5), 5**-0.5, 1], atol=1e-9)
    assert inner[1].tolist() == [12, 60, 60, 12]
    x, y = scope["own_rule"]()
    assert len(np.unique(x, axis=0)) == 4096
    assert 0.45 < y.mean() < 0.55
    count = chapter_function("symmetries")
    assert count(y.reshape((2,) * 12)) == 120


@pytest.mark.parametrize(
    ("rule", "group"),
    [
        (lambda x: x.sum(-1) > 2, 120),  # majority: every permutation
        (lambda x: x.sum(-1) % 2, 120),
        (lambda x: x[..., 0], 24),  # one bit: those that fix it
        (lambda x: x[..., 0] & x[..., 1] | x[..., 2] & x[..., 3], 8),
        (lambda x: x[..., 0] & ~x[..., 1] | x[..., 2], 2),
        (lambda x: (x * np.roll(x, 1, -1)).any(-1), 10),  # neighbours on a ring: rotations and reflections
    ],
)
def test_symmetries_of_known_rules(rule, group):
    assert chapter_function("symmetries")(rule(PATTERNS == 1).reshape((2,) * 5).astype(int)) == group


def test_file_is_read_in_any_order_of_rows(tmp_path):
    shuffled = np.random.default_rng(5).permutation(32)
    y = (PATTERNS.sum(1) > 2).astype(float)
    savemat(tmp_path / "var_u.mat", {"F": PATTERNS[shuffled].astype(float), "y": y[shuffled][None]})
    x, labels = chapter_function("from_file")(tmp_path / "var_u.mat")
    np.testing.assert_array_equal(x, PATTERNS)
    np.testing.assert_array_equal(labels, y)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"G": PATTERNS}, r"expected F and y, found \['G'\]"),
        ({"F": PATTERNS, "y": np.ones(31)}, "y has 31"),
        ({"F": PATTERNS, "y": np.ones(32)}, "y both"),
        ({"F": 2 * PATTERNS, "y": PATTERNS[:, 0]}, "must be 0 and 1"),
        ({"F": np.repeat(PATTERNS[:16], 2, axis=0), "y": PATTERNS[:, 0]}, "each pattern once"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, content, says):
    savemat(tmp_path / "other.mat", content)
    with pytest.raises(ValueError, match=says):
        chapter_function("from_file")(tmp_path / "other.mat")


@pytest.mark.xdist_group("book")
def test_chapter_runs_on_a_users_file_with_every_check(tmp_path):
    clone = copy_project(tmp_path / "clone")
    y = (PATTERNS.sum(1) > 2).astype(float)
    savemat(tmp_path / "small.mat", {"F": PATTERNS[::-1].astype(float), "y": y[::-1][None]})
    done = cli(clone, "run", "05", "--profile", "smoke", "-p", "data=../small.mat")
    assert done.returncode == 0, done.stderr
    (path,) = (clone / "_build" / "runs").glob(f"*/{CHAPTER.stem}/run.json")
    run = json.loads(path.read_text())
    assert run["parameters"]["data"] == str(tmp_path / "small.mat")
    ours = {claim.id for claim in claims.load().values() if claim.chapter == CHAPTER.stem and claim.holds_if}
    assert {item["id"] for item in run["claims"]} == ours
    scalars = {item["name"]: item["value"] for item in run["scalars"]}
    assert scalars["symmetries"] == 120
    assert scalars["tanh-kept"] == 5
    assert scalars["ones"] == 50
