"""Bins and bounds on 4096 inputs, against the usual loop, in one run: `pytest tests/benchmarks --benchmark-only`."""

import time

import numpy as np

from ncutil.neurashed.information import binned, kde_bounds

EDGES = np.linspace(-1, 1, 31)
LAYER = np.tanh(np.random.default_rng(0).normal(size=(4096, 10)))


def entropy(cells):
    """Entropy of the rows, in bits; a row is compared as one piece of memory, the quickest of the usual ways."""
    rows = np.ascontiguousarray(cells).view(np.dtype((np.void, cells.dtype.itemsize * cells.shape[1])))
    p = np.unique(rows, return_counts=True)[1] / len(rows)
    return -(p * np.log2(p)).sum()


def usual_loop(layer, edges):
    """H(T) - H(T|X) as it is usually written: a conditional entropy for each input, though each is zero."""
    cells = np.digitize(layer, edges[1:-1])
    conditional = sum(entropy(cells[i : i + 1]) / len(cells) for i in range(len(cells)))
    return entropy(cells) - conditional


def test_binned_against_a_loop_over_inputs(benchmark):
    coarse = np.linspace(-1, 1, 5)  # so that cells are shared
    np.testing.assert_allclose(binned(LAYER[:, :4], coarse), usual_loop(LAYER[:, :4], coarse), atol=1e-9)
    np.testing.assert_allclose(binned(LAYER, EDGES), usual_loop(LAYER, EDGES), atol=1e-9)

    start = time.perf_counter()
    usual_loop(LAYER, EDGES)
    loop = time.perf_counter() - start

    benchmark.pedantic(binned, (LAYER, EDGES), rounds=50, warmup_rounds=5)
    ours = benchmark.stats.stats.median
    benchmark.extra_info |= {"loop s": loop, "binned s": ours, "ratio": loop / ours}
    print(f"\nloop {1e3 * loop:.0f} ms, packed keys and one sort {1e3 * ours:.2f} ms: {loop / ours:.0f} times")


def all_pairs(layer, variance):
    """Both bounds from the whole matrix of squared distances."""
    d = ((layer[:, None] - layer) ** 2).sum(-1)
    return tuple(-np.log2(np.exp(-d / (c * variance)).mean(1)).mean() for c in (8, 2))


def test_kde_bounds(benchmark):
    np.testing.assert_allclose(kde_bounds(LAYER, 0.1), all_pairs(LAYER, 0.1), atol=1e-9)

    start = time.perf_counter()
    all_pairs(LAYER, 0.1)
    plain = time.perf_counter() - start

    benchmark.pedantic(kde_bounds, (LAYER, 0.1), rounds=10, warmup_rounds=1)
    ours = benchmark.stats.stats.median
    benchmark.extra_info |= {"all pairs s": plain, "kde_bounds s": ours, "ratio": plain / ours}
    print(
        f"\nall pairs {plain:.2f} s, in blocks {1e3 * ours:.0f} ms: {plain / ours:.0f} times; asked for: below 500 ms"
    )
