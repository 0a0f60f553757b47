"""The last layer on kept states against peft on the encoder, in one run: `pytest tests/benchmarks --benchmark-only`."""

import time

import numpy as np
import torch
import transformers

from ncutil.lora import adapters, encoders
from ncutil.lora.tasks import Split, Task

RANK, BATCH, LENGTH, STEPS = 8, 16, 40, 5
EXAMPLES = BATCH * STEPS
SIZE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
"""MiniLM's; what the weights are does not change the time."""

CLOCK = time.process_time
"""Of this process alone: a machine that does other things beside it shows the same ratio."""


class Last(torch.nn.Module):
    """The encoder as transformers computes it, with only its last layer in sight of peft."""

    def __init__(self, encoder):
        super().__init__()
        self.below, self.layer = [encoder], encoder.encoder.layer[-1]

    def forward(self, tokens):
        ids, types, mask = tokens.unbind(-1)
        given = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
        with torch.no_grad():
            hidden = self.below[0](**given, output_hidden_states=True).hidden_states[-2]
        return self.layer(hidden)[:, 0]


def four(inputs):
    """Tasks on texts of their own, as those of a study."""
    each = [Split(inputs + 0, np.arange(EXAMPLES) % 2) for _ in range(4)]
    tasks = [Task(str(k), Split(np.roll(part.inputs, k, 0), part.labels), part) for k, part in enumerate(each)]
    return [tasks[:2], tasks[2:]]


def seconds(work):
    start = CLOCK()
    found = work()
    return CLOCK() - start, found


def compare(rounds=3):
    """Seconds of a sequence and replica of either, on one thread, and how many times as fast the kept states are."""
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=1000, **SIZE)
    encoder = transformers.BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)
    ids = np.random.default_rng(0).integers(1000, size=(EXAMPLES, LENGTH))
    tokens = np.stack([ids, np.zeros_like(ids), np.ones_like(ids)], -1)
    with adapters.one_thread():
        once, states = seconds(lambda: encoders.below(encoder, tokens))
        ours, theirs = four(states), four(tokens)
        last, whole = encoders.LastLayer(encoder), encoders.Bert(encoder)
        options = {"epochs": 1, "batch": BATCH}
        kept = min(seconds(lambda: adapters.losses(last, ours, [RANK], 0, **options))[0] for _ in range(rounds))
        every, top = (
            min(
                seconds(lambda model=model: adapters.losses_peft(model, theirs, RANK, 0, 0, **options))[0] for _ in "12"
            )
            for model in (whole, Last(encoder))
        )
    each = kept / (2 * EXAMPLES * len(adapters.CONTEXTS))
    peft_all, peft_top = every / (2 * EXAMPLES), top / (2 * EXAMPLES)
    costs = {
        "cached": each,
        "peft, all layers": peft_all,
        "peft, last layer": peft_top,
        "states, once": once / EXAMPLES,
    }
    costs = {f"seconds a sequence and replica, {name}": cost for name, cost in costs.items()}
    return costs | {"to all layers": peft_all / each, "to the last layer": peft_top / each}


def told(found):
    shown = ", ".join(f"{name.split(', ', 1)[1]} {1e3 * found[name]:.2f} ms" for name in found if "seconds" in name)
    ratios = f"{found['to the last layer']:.0f} times peft on it, {found['to all layers']:.0f} times peft on all layers"
    return f"the last layer on kept states is {ratios} (a sequence and replica: {shown})"


def test_last_layer_on_kept_states(benchmark):
    found = benchmark.pedantic(compare, rounds=1)
    benchmark.extra_info |= found
    print("\n" + told(found))
