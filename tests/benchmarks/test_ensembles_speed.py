"""Networks per second against a plain loop of modules, in one run: `pytest tests/benchmarks --benchmark-only`."""

import time
from itertools import product

import numpy as np

from ncutil import ensembles

BITS = np.array(list(product([0, 1], repeat=4)))
TARGETS = np.stack([BITS[:, 0], BITS[:, 2] ^ BITS[:, 3]], 1)
WIDTH, STEPS, RATE, NETWORKS, LOOPED = 3, 2_000, 0.05, 2_000, 3


def one_module(seed: int, steps: int = STEPS) -> float:
    """What one would write first: a module, an optimiser, a loop. Returns the final loss."""
    import torch

    start = ensembles.train(BITS, TARGETS, WIDTH, [seed], steps=0, rate=1.0, dtype="float64")
    net = torch.nn.Sequential(torch.nn.Linear(4, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, 2)).double()
    with torch.no_grad():
        for layer, weights in ((net[0], start.hidden[0]), (net[2], start.head[0])):
            layer.weight.copy_(torch.tensor(weights[:, :-1]))
            layer.bias.copy_(torch.tensor(weights[:, -1]))
    x, t = torch.tensor(BITS, dtype=torch.double), torch.tensor(TARGETS, dtype=torch.double)
    loss_of = torch.nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        out = net(x)
        loss = loss_of(out[:, 0], t[:, 0]) + loss_of(out[:, 1], t[:, 1])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        out = net(x)
        return float(loss_of(out[:, 0], t[:, 0]) + loss_of(out[:, 1], t[:, 1]))


def test_networks_per_second(benchmark):
    import torch

    torch.set_num_threads(1)
    options = {"steps": 200, "rate": RATE}
    fast = ensembles.train(BITS, TARGETS, WIDTH, range(LOOPED), dtype="float64", **options).losses[-1].sum(-1)
    np.testing.assert_allclose([one_module(seed, 200) for seed in range(LOOPED)], fast, atol=1e-9)

    start = time.perf_counter()
    for seed in range(LOOPED):
        one_module(seed)
    loop = LOOPED / (time.perf_counter() - start)

    benchmark.pedantic(
        ensembles.train,
        (BITS, TARGETS, WIDTH, range(NETWORKS)),
        {"steps": STEPS, "rate": RATE},
        rounds=3,
        warmup_rounds=1,
    )
    kernel = NETWORKS / benchmark.stats.stats.median
    benchmark.extra_info |= {"loop per s": loop, "kernel per s": kernel, "ratio": kernel / loop}
    print(f"\nloop of modules {loop:.2f} networks/s, kernel {kernel:.0f} networks/s: {kernel / loop:.0f} times")
