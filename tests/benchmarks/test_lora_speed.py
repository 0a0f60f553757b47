"""Batched replicas against a loop over peft models, in one run: `pytest tests/benchmarks --benchmark-only`."""

import time

import numpy as np
import pytest
import torch

from ncutil import lora, tasks

RANKS, SEED, EPOCHS, LOOPED = [1, 2, 4, 8, 16, 32], 0, 4, 6


def test_replicas_per_second(benchmark):
    """The mixed group of the book profile, one seed: 24 replicas at once, and a few of the same one by one."""
    pytest.importorskip("peft", reason="peft is in the extra 'lora'")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = tasks.Encoder().requires_grad_(False)
    four = tasks.group("mixed")
    lora.losses_peft(encoder, four, 1, 0, SEED, epochs=1)

    # Every rank once, contexts in turn: what a replica costs in the loop.
    chosen = [(k, k % 4) for k in range(LOOPED)]
    start = time.perf_counter()
    theirs = [lora.losses_peft(encoder, four, RANKS[k], context, SEED, epochs=EPOCHS) for k, context in chosen]
    loop = LOOPED / (time.perf_counter() - start)

    ours = benchmark.pedantic(lora.losses, (encoder, four, RANKS, SEED), {"epochs": EPOCHS}, rounds=3, warmup_rounds=1)
    np.testing.assert_allclose([ours[:, k, context] for k, context in chosen], theirs, rtol=0, atol=1e-4)
    batched = 4 * len(RANKS) / benchmark.stats.stats.median
    benchmark.extra_info |= {"loop per s": loop, "batched per s": batched, "ratio": batched / loop}
    print(f"\nloop over peft {loop:.2f} replicas/s, batched {batched:.1f} replicas/s: {batched / loop:.1f} times")
