"""Tasks for two heads on one pretrained encoder: boolean functions of words, and a small encoder that knows the words.

A sentence says ten bits: a word for each bit that is on and another for each that is off, after a mark where the
encoder's answer is read. A *task* asks for a function of three of the bits, easy (their majority) or hard (their
parity). Everything is known here: the tasks, what they share, how hard they are. Explained in the chapter on the LoRA
study.
"""

import math
from collections.abc import Callable, Collection
from itertools import product
from typing import cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional

from ncutil.ground import checks
from ncutil.lora.tasks import Array, Split, Task, Tasks

BITS = 10
WIDTH, HEADS = 32, 2

FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "majority": lambda bits: 2 * bits.sum(-1) > bits.shape[-1],
    "parity": lambda bits: bits.sum(-1) % 2 == 1,
    "and": lambda bits: bits.min(-1) == 1,
    "or": lambda bits: bits.max(-1) == 1,
}
"""What a task may ask of its bits, by name."""

GROUPS = {
    "mixed": ("majority", "parity"),
    "hard": ("parity", "parity"),
    "easy": ("majority", "majority"),
}
"""The function of setting 1 and of setting 2, on either side, in each group of four tasks."""

Question = tuple[str, tuple[int, ...]]
"""What a task asks of a sentence: the name of a function, and the bits that it is a function of, in their order."""


def sentences(bits: ArrayLike) -> Array:
    """The sentences that say bits, (..., 10) of 0 and 1: word numbers (..., 11), first the mark, 0.

    >>> sentences([1, 0, 0, 0, 0, 0, 0, 0, 0, 0]).tolist()
    [0, 2, 3, 5, 7, 9, 11, 13, 15, 17, 19]
    """
    on = np.asarray(bits)
    if on.shape[-1:] != (BITS,) or not np.isin(on, (0, 1)).all():
        raise ValueError(f"a sentence says {BITS} bits, 0 or 1 each; got shape {on.shape}")
    return np.insert(1 + 2 * np.arange(BITS) + on, 0, 0, axis=-1)


def ncube() -> Array:
    """All 1024 settings of the bits, (1024, 10)."""
    return np.array(list(product((0, 1), repeat=BITS)))


def group(name: str, *, draw: int = 0, train: int = 256, test: int = 256) -> Tasks:
    """Four tasks, two by two, of one difficulty or of two. The hard tasks of setting 2 ask about disjoint bits.

    - name : "mixed" (each side has an easy and a hard task), "hard", or "easy"
    - draw : which bits the tasks ask about, and which sentences are drawn; the same bits in every group
    - train, test : sentences to train on, and others to test on
    """
    checks.known("group", name, GROUPS)
    checks.integer(0, draw=draw)
    checks.integer(1, train=train, test=test)
    if train + test > 2**BITS:
        raise ValueError(f"there are {2**BITS} sentences; cannot train on {train} and test on {test} others")
    order, triples = _draw(draw)
    bits, tasks = order[: train + test], list[Task]()
    words = sentences(bits)
    for which, function in zip(triples, 2 * GROUPS[name], strict=True):
        labels = FUNCTIONS[function](bits[:, which]).astype(int)
        title = f"{function} of {'-'.join(str(k + 1) for k in which)}"
        tasks.append(Task(title, Split(words[:train], labels[:train]), Split(words[train:], labels[train:])))
    return tasks[:2], tasks[2:]


def questions(draw: int) -> set[Question]:
    """Every function that some group of a draw asks for, with its bits: 8, majority and parity of four triples."""
    functions = {function for pair in GROUPS.values() for function in pair}
    return set(product(functions, _draw(draw)[1]))


def _draw(draw: int) -> tuple[Array, list[tuple[int, ...]]]:
    """Bits in the order in which a draw takes them, and four triples to ask about; the second and fourth are apart."""
    rng = np.random.default_rng([draw, BITS])
    order, triples = rng.permutation(ncube()), list[tuple[int, ...]]()
    while len(set(triples)) < 4:
        apart = rng.permutation(BITS)[:6]
        drawn = [rng.permutation(BITS)[:3], apart[:3], rng.permutation(BITS)[:3], apart[3:]]
        triples = [tuple(sorted(map(int, triple))) for triple in drawn]
    return order, triples


class Block(nn.Module):
    """One layer of BERT (Devlin et al. 2019), with ReLU: attention, two linear layers, each added and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.join = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, read: slice) -> Tensor:
        """States of the words that `read` picks, after they have looked at all words."""
        here = x[:, read]
        q, k = _by_head(self.query(here)), _by_head(self.key(x))
        if here.shape[1] > 1:
            seen = _weigh(q @ k.mT / math.sqrt(q.shape[-1])) @ _by_head(self.value(x))
        else:
            # A single word: for each head the value of what it looks at in all is needed, not the value of every word.
            mixed = _weigh((q * k).sum(-1) / math.sqrt(q.shape[-1])) @ x
            seen = _by_head(self.value(mixed)).diagonal(dim1=1, dim2=2).mT[:, :, None]
        here = self.norm1(here + self.join(seen.transpose(1, 2).flatten(2)))
        return cast(Tensor, self.norm2(here + self.down(torch.relu(self.up(here)))))


def _by_head(states: Tensor) -> Tensor:
    """(n, words, width) to (n, heads, words, size)."""
    return states.reshape(*states.shape[:-1], HEADS, -1).transpose(1, 2)


def _weigh(scores: Tensor) -> Tensor:
    """Softmax along the last axis; of a few words it is several times as quick along a first one."""
    return scores.movedim(-1, 0).softmax(0).movedim(0, -1)


class Encoder(nn.Module):
    """A BERT of two layers: sentences (n, words) to the state of their mark, (n, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(1 + 2 * BITS, WIDTH)
        self.place = nn.Parameter(0.1 * torch.randn(1 + BITS, WIDTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, sentences: Tensor) -> Tensor:
        x = self.blocks[0](self.norm(self.word(sentences) + self.place), slice(None))
        # Only the mark is read, so the last layer computes nothing else.
        return cast(Tensor, self.blocks[1](x, slice(1))[:, 0])


def curriculum(seed: int, functions: int = 40, avoid: Collection[Question] = ()) -> list[Question]:
    """Random functions of two or three random bits, majorities always of three, none of `avoid` among them."""
    rng = np.random.default_rng([seed, 7])
    drawn: list[Question] = []
    while len(drawn) < functions:
        name = str(rng.choice(list(FUNCTIONS)))
        size = 3 if name == "majority" else int(rng.integers(2, 4))
        bits = tuple(sorted(map(int, rng.permutation(BITS)[:size])))
        if (name, bits) not in avoid:
            drawn.append((name, bits))
    return drawn


def pretrain(
    seed: int = 0, *, functions: int = 40, steps: int = 600, avoid: Collection[Question] = ()
) -> tuple[Encoder, float]:
    """An encoder, frozen, that has learnt a `curriculum`, and its accuracy on it.

    All functions are asked at once of every sentence, each by a linear head that is thrown away. The parities of three
    bits among them are why the encoder can be adapted to others quickly. A task that it was pretrained on is easy,
    whatever its function: `avoid` those that are to be studied, `questions(draw)`.

    `seed` draws the functions, the weights and the order of the sentences; `steps` are updates of Adam.
    """
    checks.integer(0, seed=seed)
    checks.integer(1, functions=functions, steps=steps)
    rng = np.random.default_rng([seed, 8])
    bits = ncube()
    labels = [FUNCTIONS[name](bits[:, which]) for name, which in curriculum(seed, functions, avoid)]
    goals = torch.tensor(np.stack(labels, 1), dtype=torch.float32)
    inputs = torch.tensor(sentences(bits))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, heads = Encoder(), nn.Linear(WIDTH, functions)
    optimizer = torch.optim.Adam([*model.parameters(), *heads.parameters()], lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        sample = torch.tensor(rng.integers(len(bits), size=128))
        loss = functional.binary_cross_entropy_with_logits(heads(model(inputs[sample])), goals[sample])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        right = (heads(model(inputs)) > 0) == (goals > 0)
    return model.requires_grad_(False), float(right.float().mean())
