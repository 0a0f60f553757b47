"""Batched replicas against a loop over peft models, in one run: `pytest tests/benchmarks --benchmark-only`."""

import time

import numpy as np
import pytest
import torch

from ncutil import lora, tasks

RANKS, SEED, EPOCHS, ROUNDS = [1, 2, 4, 8, 16, 32], 0, 3, 6


def test_replicas_per_second(benchmark):
    """The mixed group of the book profile: the 24 replicas of a seed at once, and one in the loop before each round."""
    pytest.importorskip("peft", reason="peft is in the extra 'lora'")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = tasks.Encoder().requires_grad_(False)
    four = tasks.group("mixed")
    lora.losses_peft(encoder, four, 1, 0, SEED, epochs=1)
    alone, waiting = [], [(k, k % 4) for k in range(ROUNDS)]
    theirs = {}

    def one_by_one():
        k, context = waiting[len(theirs)]
        start = time.perf_counter()
        theirs[k, context] = lora.losses_peft(encoder, four, RANKS[k], context, SEED, epochs=EPOCHS)
        alone.append(time.perf_counter() - start)
        return (encoder, four, RANKS, SEED), {"epochs": EPOCHS}

    ours = benchmark.pedantic(lora.losses, setup=one_by_one, rounds=ROUNDS)
    for (k, context), losses in theirs.items():
        np.testing.assert_allclose(ours[:, k, context], losses, rtol=0, atol=1e-4)
    one = np.median(alone)
    ratio = 4 * len(RANKS) * one / benchmark.stats.stats.median
    start = time.perf_counter()
    lora.train(encoder, four, RANKS, [SEED, SEED + 1], epochs=EPOCHS)
    group = 8 * len(RANKS) * one / (time.perf_counter() - start)
    benchmark.extra_info |= {"ratio, one core": ratio, "ratio, seeds side by side": group}
    print(
        f"\nbatched against a loop over peft: {ratio:.1f} times on one core, {group:.1f} times with seeds side by side"
    )
