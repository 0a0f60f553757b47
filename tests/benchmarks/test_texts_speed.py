"""The cached top layer against peft on the same encoder, in one run: `pytest tests/benchmarks --benchmark-only`."""

import copy
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from ncutil.lora.encoders import frozen_states
from ncutil.lora.tasks import Split
from ncutil.lora.top_layer import SETTINGS, TopLayer

RANKS, ALPHAS, BATCH, LENGTH, STEPS, RATE = [1, 2, 4, 8, 16, 32], [2.0] * 6, 16, 40, 5, 1e-3
EXAMPLES = BATCH * STEPS
SIZE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
"""MiniLM's; what the weights are does not change the time."""

CLOCK = time.process_time
"""Of this process alone: a machine that does other things beside it shows the same ratio."""


def read_ids(texts, *_, **__):
    """In place of a tokenizer: texts are made of numbers already."""
    ids = np.array([[int(word) for word in text.split()] for text in texts])
    return {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "attention_mask": np.ones_like(ids)}


def steps_of_peft(encoder, top, rank, layers, batches):
    """Alice's first task with Bob's first, as one would train them; returns losses and seconds a step."""
    config = LoraConfig(r=rank, lora_alpha=2.0, target_modules=["query", "value"], layers_to_transform=layers)
    adapted = get_peft_model(copy.deepcopy(encoder), config).eval()
    number, at = RANKS.index(rank), adapted.base_model.model.encoder.layer[-1].attention.self
    heads = [torch.nn.Linear(384, 2) for _ in (0, 1)]
    with torch.no_grad():
        for name in ("query", "value"):
            getattr(at, name).lora_A["default"].weight.copy_(top.a[name][number, 0, 0, :rank])
        for side, head in enumerate(heads):
            head.weight.copy_(top.readouts[side, 0][0][number, 0])
            head.bias.zero_()
    trained = [p for module in (adapted, *heads) for p in module.parameters() if p.requires_grad]
    optimizer, losses, start = torch.optim.Adam(trained, lr=RATE), [], CLOCK()
    for ids, labels in batches:
        loss = sum(
            torch.nn.functional.cross_entropy(head(adapted(input_ids=ids).last_hidden_state[:, 0]), labels)
            for head in heads
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, (CLOCK() - start) / len(batches)


def compare(rounds=4):
    """Seconds of a sequence and replica of either, on one thread, and how many times as fast the cached layer is."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return measured(Path(folder), rounds)
    finally:
        torch.set_num_threads(threads)


def measured(folder, rounds):
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=1000, **SIZE)
    encoder = transformers.BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)
    ids = np.random.default_rng(0).integers(1000, size=(EXAMPLES, LENGTH))
    split = Split([[(" ".join(map(str, row)), None)] for row in ids], np.arange(EXAMPLES) % 2)
    start = CLOCK()
    states = frozen_states(encoder, read_ids, {"all": split}, LENGTH, folder)["all"]
    once = (CLOCK() - start) / EXAMPLES

    parts = np.arange(EXAMPLES).reshape(STEPS, BATCH)
    top = TopLayer(encoder.encoder.layer[-1], dict.fromkeys(SETTINGS, 2), RANKS, ALPHAS, 0, RATE)
    first = copy.deepcopy(top)
    ours = [top.step(dict.fromkeys(SETTINGS, states.batch(rows)))[:, 0, 0] for rows in parts]
    batches = [(torch.from_numpy(ids[rows]), torch.from_numpy(split.labels[rows])) for rows in parts]
    losses, last = min(steps_of_peft(encoder, first, 8, [5], batches) for _ in range(2))
    np.testing.assert_allclose(losses, [float(loss[RANKS.index(8)]) for loss in ours], atol=1e-5)
    every = min(steps_of_peft(encoder, first, 8, list(range(6)), batches)[1] for _ in range(2))

    def run():
        start = CLOCK()
        for rows in parts:
            top.step(dict.fromkeys(SETTINGS, states.batch(rows)))
        return CLOCK() - start

    run()
    each = min(run() for _ in range(rounds)) / (STEPS * 2 * BATCH * len(RANKS) * len(SETTINGS))
    peft_all, peft_top = every / (2 * BATCH), last / (2 * BATCH)
    costs = {"cached": each, "peft, all layers": peft_all, "peft, last layer": peft_top, "states, once": once}
    costs = {f"seconds a sequence and replica, {name}": cost for name, cost in costs.items()}
    return costs | {"to all layers": peft_all / each, "to the last layer": peft_top / each}


def told(found):
    shown = ", ".join(f"{name.split(', ', 1)[1]} {1e3 * found[name]:.2f} ms" for name in found if "seconds" in name)
    ratios = f"{found['to the last layer']:.0f} times peft on it, {found['to all layers']:.0f} times peft on all layers"
    return f"the cached last layer is {ratios} (a sequence and replica: {shown})"


@pytest.mark.benchmark(timer=CLOCK)
def test_cached_top_layer(benchmark):
    found = benchmark.pedantic(compare, rounds=1)
    benchmark.extra_info |= found
    print("\n" + told(found))
