"""What of S two heads share: the word that both are asked about, its category, or the adapters of one training.

E[AB] of a run pairs Alice's answer about a word with Bob's about the same word. Other pairings leave something out: a
word of the same category, another training on the same words, other training words. Explained in the chapter on the
LoRA study.
"""

import numpy as np
from numpy.typing import ArrayLike

from ncutil.lora.tasks import Array


def paired(a: ArrayLike, b: ArrayLike) -> Array:
    """E[AB] of answers +1 or -1, (..., words): word by word."""
    return np.asarray((np.asarray(a, float) * np.asarray(b)).mean(-1))


def across(a: ArrayLike, b: ArrayLike, group: ArrayLike, family: ArrayLike) -> Array:
    """E[AB] over all pairs of words of one group that are not of one family.

    - a, b : answers +1 or -1, (..., words)
    - group, family : of each word, (words,); a family may have members in several groups

    >>> float(across([1, 1, -1, -1], [1, 1, -1, -1], group=[0, 0, 1, 1], family=[0, 1, 2, 3]))
    1.0
    """
    both = np.unique(np.stack([group, family]), axis=1, return_inverse=True)[1].ravel()
    sums, pairs = np.zeros(np.shape(a)[:-1]), 0.0
    for sign, labels in ((1, group), (-1, both)):
        member = np.equal.outer(np.asarray(labels), np.unique(labels)).astype(float)
        sums += sign * ((a @ member) * (b @ member)).sum(-1)
        pairs += sign * (member.sum(0) ** 2).sum()
    return np.asarray(sums / pairs)


def hidden_difficulty(a: Array, b: Array) -> Array:
    """E[AB] of a local model whose hidden variable is the word: each head is right with the word's own probability.

    The probabilities are those over other runs, Alice's and Bob's from different ones, so that the luck of one run
    does not count twice.

    - a, b : answers +1 or -1 of several runs, (runs, ..., words), NaN for a word that a run was not asked; or their
      means over the partner's settings

    Returns (..., ), the mean over words that two runs or more were asked. Without a partner's setting in them, the
    probabilities obey Bell's bound in every form.
    """
    known = np.isfinite(a)
    runs, own = known.sum(0), np.nansum(a * b, 0)
    enough = runs > 1
    product = np.nansum(a, 0) * np.nansum(b, 0) - own
    each = np.divide(product, runs * (runs - 1), out=np.zeros(product.shape), where=enough)
    return np.asarray(each.sum(-1) / enough.sum(-1))
