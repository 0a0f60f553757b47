"""The LE matrix by layers against a pass per base point, in one run: `pytest tests/benchmarks --benchmark-only`."""

import copy
import time

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from ncutil.neurashed.elasticity import elasticity_matrix

RATE = 1e-8
"""Small enough for the limit to 1e-6, large enough for differences in float64."""


def point_by_point(model, X, y):
    """What one would write first: for each base one backward pass, one step, and one forward pass of all inputs."""
    net, X, y = copy.deepcopy(model).double(), torch.as_tensor(X), torch.as_tensor(y)
    weights, rows = list(net.parameters()), []
    with torch.no_grad():
        before = net(X)
    for i in range(len(X)):
        slopes = torch.autograd.grad(nn.functional.cross_entropy(net(X[i : i + 1]), y[i : i + 1]), weights)
        with torch.no_grad():
            kept = [p.clone() for p in weights]
            for p, slope in zip(weights, slopes, strict=True):
                p.sub_(slope, alpha=RATE)
            change = (net(X) - before).norm(dim=1)
            for p, old in zip(weights, kept, strict=True):
                p.copy_(old)
        rows.append(change / change[i])
    return torch.stack(rows).numpy()


def plain():
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def convolutional():
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


@pytest.mark.parametrize(("make", "n"), [(plain, 500), (convolutional, 200)])
def test_matrix_by_layers(benchmark, make, n):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    digits, labels = load_digits(return_X_y=True)
    X, y = digits[:n] / 16, labels[:n]
    torch.manual_seed(0)
    net = make()
    np.testing.assert_allclose(elasticity_matrix(net, X, y), point_by_point(net, X, y), atol=1e-6)

    times = []
    for _ in range(3):
        start = time.perf_counter()
        point_by_point(net, X, y)
        times.append(time.perf_counter() - start)
    benchmark.pedantic(elasticity_matrix, (net, X, y), rounds=15, warmup_rounds=2)
    torch.set_num_threads(threads)
    passes, layers = min(times), benchmark.stats.stats.min  # the least disturbed of each
    benchmark.extra_info |= {"point by point s": passes, "by layers s": layers, "ratio": passes / layers}
    print(
        f"\n{make.__name__}, {n} x {n}: by point {passes:.3f} s, by layer {layers:.3f} s: {passes / layers:.1f} times"
    )
