"""How well a layer separates its classes, and how sharp the minimum is at which training ended.

Two measures of variability within classes relative to that between them, which agree up to a factor for classes of
equal size, and the box sharpness of Keskar et al. Explained in the chapter on implicit regularization.
"""

import copy

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Floats = NDArray[np.float64]


def nc1(features: ArrayLike, labels: ArrayLike) -> float:
    """Within-class variability NC1 = trace(Sw pinv(Sb)) / K of neural collapse (Papyan, Han and Donoho 2020).

    Sw and Sb are means over classes, each class counting the same: Sw of the classes' covariances, Sb of
    (class mean - mean of class means) squared. 0 where every class has collapsed to its mean; `fuzziness` / K if all
    classes have one size.

    Features have shape (samples, dimensions), labels are whole numbers, shape (samples,). Shapes that don't fit, values
    that are not finite, fewer than two classes, or class means that coincide raise a ValueError.
    """
    x, index, counts, means = _by_class(features, labels)
    share = 1 / len(counts)
    within = (x - means[index]) * np.sqrt(share / counts)[index, None]
    between = (means - means.mean(0)) * np.sqrt(share)
    return _trace_ratio(within, between, x) / len(counts)


def fuzziness(features: ArrayLike, labels: ArrayLike) -> float:
    """Separation fuzziness D = trace(SSw pinv(SSb)) of a layer; parameters, errors and range as in `nc1`.

    SSw and SSb are the within- and between-class covariances of all samples: a class weighs as much as it has samples.
    Unchanged under rotation, reflection, shift and scale, and under any invertible map if SSb has full rank. He and Su
    (2023), the law of data separation: log D falls linearly over the layers of a trained network.

    >>> round(fuzziness([[-1.5], [-0.5], [0.5], [1.5]], [0, 0, 1, 1]), 12)  # means +-1, spread +-0.5
    0.25
    """
    x, index, counts, means = _by_class(features, labels)
    within = (x - means[index]) / np.sqrt(len(x))
    between = (means - x.mean(0)) * np.sqrt(counts / len(x))[:, None]
    return _trace_ratio(within, between, x)


def _by_class(features: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.intp], NDArray[np.intp], Floats]:
    """Centred features, each sample's class by number, samples a class, class means (classes, dimensions)."""
    x, y = np.asarray(features, float), np.asarray(labels)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(f"expected features (samples, dimensions) with a label each; got {x.shape} and {y.shape}")
    if y.dtype.kind not in "iub":
        raise ValueError(f"labels must be whole numbers; got {y.dtype}")
    if not np.isfinite(x).all():
        raise ValueError(f"{int((~np.isfinite(x)).sum())} of {x.size} features are not finite")
    _, index, counts = np.unique(y, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise ValueError(f"separation needs at least two classes; got {len(counts)}")
    x = x - x.mean(0)
    sums = np.zeros((len(counts), x.shape[1]))
    np.add.at(sums, index, x)
    return x, index, counts, sums / counts[:, None]


def _trace_ratio(within: Floats, between: Floats, x: Floats) -> float:
    """trace(W^T W pinv(B^T B)), without forming a matrix of dimensions x dimensions."""
    _, size, axes = np.linalg.svd(between, full_matrices=False)
    # K class means about their mean span at most K - 1 directions; what is left over is rounding.
    kept = size[: len(between) - 1] > 1e-10 * np.abs(x).max()
    if not kept.any():
        raise ValueError("all class means coincide: there is nothing to separate")
    size, axes = size[: len(kept)][kept], axes[: len(kept)][kept]
    return float((((within @ axes.T) / size) ** 2).sum())


def sharpness(model: nn.Module, X: Tensor, y: Tensor, epsilon: float = 1e-3) -> float:
    """Sharpness of a minimum: how much the loss can rise in a small box around the weights, in per cent of 1 + loss.

    The box lets weight w move by epsilon * (abs(w) + 1). The maximum is sought from the weights themselves by 20
    ascent steps along the sign of the gradient, kept inside the box; what is found is a lower bound of it.

    `model` maps X (samples, ...) to logits for labels y (samples,); it is evaluated in evaluation mode, on a copy.
    The result is 100 * (largest loss found - loss) / (1 + loss), at least 0; the loss is the mean cross-entropy.
    An epsilon not above 0, labels that are not one a sample, or a loss that is not finite raise a ValueError.

    Keskar et al. (2017), metric 2.1 with A the identity; they search with L-BFGS-B, we with signs.
    """
    if not (np.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon must be above 0; got {epsilon}")
    if len(X) != len(y) or len(y) == 0:
        raise ValueError(f"expected as many labels as samples, at least one; got {len(y)} and {len(X)}")
    probe = copy.deepcopy(model).eval()
    weights = [p for p in probe.parameters() if p.requires_grad]
    centres = [p.detach().clone() for p in weights]
    radii = [epsilon * (c.abs() + 1) for c in centres]
    losses = []
    for _ in range(20 + 1):
        loss = cross_entropy(probe(X), y)
        losses.append(float(loss.detach()))
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for p, g, c, r in zip(weights, gradients, centres, radii, strict=True):
                # Steps of a quarter of the box cross it from side to side in eight.
                p.copy_((p + r / 4 * g.sign()).clamp(c - r, c + r))
    if not np.isfinite(losses).all():
        raise ValueError(f"the loss is not finite: {losses[0]}, then up to {max(losses)}")
    return 100 * (max(losses) - losses[0]) / (1 + losses[0])
