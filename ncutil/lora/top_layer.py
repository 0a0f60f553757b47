"""Adapters in the last layer of a BERT encoder, all ranks and pairs of tasks at once, on states computed once.

Below the adapted layer nothing learns, so `ncutil.lora.encoders.frozen_states` computes its output once for every text.
After the attention only the first position is read, so the rest of the layer is computed there alone. Both are exact:
the losses are those of peft on the whole encoder. Explained in the chapter on the LoRA study.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ncutil.lora.adapters import LAYERS
from ncutil.lora.encoders import States
from ncutil.lora.tasks import Numbers

Setting = tuple[int, int]

SETTINGS: tuple[Setting, ...] = tuple(product((0, 1), (0, 1)))
"""The four tasks as (side, setting): Alice's two, Bob's two. Also (Alice's setting, Bob's) of the four contexts."""


class TopLayer:
    """Adapters in the last layer of a BERT and heads on it, for all ranks and contexts of one seed at once.

    Factors have shape (ranks, 2, 2, ...), Alice's setting and Bob's on the middle axes, and are padded with zeros to
    the largest rank as in `ncutil.lora.adapters`. A head, and the adapters of any rank, start alike in every context.

    - layer : the frozen last layer, a BertLayer of transformers; outputs : classes of each task, by (side, setting)
    - ranks, alphas : of the adapters; an adapter's product is multiplied by alpha / rank
    - seed : draws the adapters and the heads; rate : learning rate of Adam, without decay
    """

    def __init__(
        self, layer: Any, outputs: dict[Setting, int], ranks: Numbers, alphas: list[float], seed: int, rate: float
    ) -> None:
        self.layer, self.ranks, at = layer, list(ranks), layer.attention.self
        self.heads, width, most = at.num_attention_heads, at.query.in_features, max(ranks)

        def draw(*shape: int, stream: Sequence[int]) -> Tensor:
            drawn = np.random.default_rng([seed, *stream]).uniform(-1, 1, shape) / math.sqrt(width)
            return torch.tensor(drawn, dtype=torch.float32)

        used = (torch.arange(most) < torch.tensor(self.ranks)[:, None]).float()[:, None, None, :, None]
        first = {name: draw(most, width, stream=[k]) for k, name in enumerate(LAYERS)}
        self.a = {name: (used * values).repeat(1, 2, 2, 1, 1) for name, values in first.items()}
        self.b = {name: torch.zeros(len(ranks), 2, 2, width, most) for name in first}
        scale = [alpha / rank for alpha, rank in zip(alphas, ranks, strict=True)]
        self.scale = torch.tensor(scale).repeat_interleave(2)[:, None, None]
        self.readouts = {
            task: (draw(n, width, stream=[2, *task]).repeat(len(ranks), 2, 1, 1), torch.zeros(len(ranks), 2, 1, n))
            for task, n in outputs.items()
        }
        trained = [*self.a.values(), *self.b.values(), *(x for pair in self.readouts.values() for x in pair)]
        self.optimizer = torch.optim.Adam([x.requires_grad_() for x in trained], lr=rate, fused=True)

    def logits(self, side: int, setting: int, batch: Sequence[Tensor]) -> Tensor:
        """Answers of Alice's (side 0) or Bob's head, (ranks, settings of the partner, examples, classes)."""
        hidden, keys, values, mask = batch[:4]
        at = (slice(None), setting) if side == 0 else (slice(None), slice(None), setting)
        own = {name: [x[name][at].flatten(0, 1) for x in (self.a, self.b)] for name in LAYERS}

        def split(x: Tensor) -> Tensor:
            return x.reshape(*x.shape[:-1], self.heads, -1)

        # Only the first position is read after the attention, so it alone asks.
        first, (a, b) = hidden[:, 0], own["query"]
        asked = self.layer.attention.self.query(first) + self.scale * torch.einsum("nd,rkd->rnk", first, a) @ b.mT
        scores = torch.einsum("rnhe,nthe->nhrt", split(asked), split(keys)) / math.sqrt(asked.shape[-1] // self.heads)
        attention = scores.masked_fill(~mask[:, None, None], -math.inf).softmax(-1)
        # Averaging and multiplying commute: B is applied to the average of what A gives at each position.
        a, b = own["value"]
        inner = torch.einsum("nhrt,ntrk->rhnk", attention, torch.einsum("ntd,rkd->ntrk", hidden, a))
        added = inner @ b.reshape(len(b), self.heads, -1, b.shape[-1]).mT
        seen = torch.einsum("nhrt,nthe->rnhe", attention, split(values)).flatten(-2)
        seen = seen + self.scale * added.transpose(1, 2).flatten(-2)
        out = self.layer.feed_forward_chunk(self.layer.attention.output(seen, first))
        weight, bias = self.readouts[side, setting]
        return cast(Tensor, out.reshape(-1, 2, *out.shape[1:]) @ weight.mT + bias)

    def step(self, batches: Mapping[Setting, Sequence[Tensor]]) -> Tensor:
        """One update from a batch of each task, by (side, setting); the losses before it, (ranks, 2, 2), in nats."""
        own = {at: cross_entropies(self.logits(*at, batch), batch[-1]).mean(-1) for at, batch in batches.items()}
        alice, bob = (torch.stack([own[side, i] for i in (0, 1)], 1 + side) for side in (0, 1))
        self.optimizer.zero_grad()
        # The sum, not the mean: each replica's gradient is that of its own run.
        (alice + bob).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return (alice + bob).detach()

    @torch.no_grad()
    def answers(self, side: int, setting: int, states: States) -> Tensor:
        """Logits on all examples of a split, (ranks, settings of the partner, examples, classes)."""
        rows = np.arange(len(states.labels))
        parts = [self.logits(side, setting, states.batch(rows[k : k + 64])) for k in range(0, len(rows), 64)]
        return torch.cat(parts, 2)


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each answer in nats, the shape of logits without its last axis."""
    every = labels.expand(logits.shape[:-1])
    return functional.cross_entropy(logits.flatten(0, -2), every.flatten(), reduction="none").reshape(every.shape)
