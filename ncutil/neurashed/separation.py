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
    """Within-class variability NC1 = trace(Sw pinv(Sb)) / K of neural collapse.

    Sw and Sb are means over classes, each class counting the same: Sw of the classes' covariances, Sb of
    (class mean - mean of class means) squared.

    Parameters
    ----------
    features : array_like, shape (samples, dimensions)
    labels : array_like of whole numbers, shape (samples,)

    Returns
    -------
    float
        At least 0; 0 where every class has collapsed to its mean. `fuzziness` / K if all classes have one size.

    Raises
    ------
    ValueError
        Shapes that don't fit, values that are not finite, fewer than two classes, or class means that coincide.

    Notes
    -----
    Papyan, Han and Donoho (2020).

    Examples
    --------
    >>> round(nc1([[-1.5], [-0.5], [0.5], [1.5]], [0, 0, 1, 1]), 12)
    0.125
    """
    x, index, counts = _check(features, labels)
    means = _class_means(x, index, counts)
    share = 1 / len(counts)
    within = (x - means[index]) * np.sqrt(share / counts)[index, None]
    between = (means - means.mean(0)) * np.sqrt(share)
    return _trace_ratio(within, between, x) / len(counts)


def fuzziness(features: ArrayLike, labels: ArrayLike) -> float:
    """Separation fuzziness D = trace(SSw pinv(SSb)) of a layer.

    SSw and SSb are the within- and between-class covariances of all samples: a class weighs as much as it has samples.
    Unchanged under rotation, reflection, shift and scale, and under any invertible map if SSb has full rank.

    Parameters, errors and range as in `nc1`.

    Notes
    -----
    He and Su (2023), the law of data separation: log D falls linearly over the layers of a trained network.

    Examples
    --------
    >>> round(fuzziness([[-1.5], [-0.5], [0.5], [1.5]], [0, 0, 1, 1]), 12)  # means +-1, spread +-0.5
    0.25
    """
    x, index, counts = _check(features, labels)
    means = _class_means(x, index, counts)
    within = (x - means[index]) / np.sqrt(len(x))
    between = (means - x.mean(0)) * np.sqrt(counts / len(x))[:, None]
    return _trace_ratio(within, between, x)


def _check(features: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.intp], NDArray[np.intp]]:
    x, y = np.asarray(features, float), np.asarray(labels)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(
            f"expected features (samples, dimensions) with a label each; got shapes {x.shape} and {y.shape}"
        )
    if y.dtype.kind not in "iub":
        raise ValueError(f"labels must be whole numbers; got {y.dtype}")
    if not np.isfinite(x).all():
        raise ValueError(f"{int((~np.isfinite(x)).sum())} of {x.size} features are not finite")
    classes, index, counts = np.unique(y, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"separation needs at least two classes; got {len(classes)}")
    return x - x.mean(0), index, counts


def _class_means(x: Floats, index: NDArray[np.intp], counts: NDArray[np.intp]) -> Floats:
    sums = np.zeros((len(counts), x.shape[1]))
    np.add.at(sums, index, x)
    return sums / counts[:, None]


def _trace_ratio(within: Floats, between: Floats, x: Floats) -> float:
    """trace(W^T W pinv(B^T B)), without forming a matrix of dimensions x dimensions."""
    _, size, axes = np.linalg.svd(between, full_matrices=False)
    # K class means about their mean span at most K - 1 directions; what is left over is rounding.
    kept = size[: len(between) - 1] > 1e-10 * np.abs(x).max()
    if not kept.any():
        raise ValueError("all class means coincide: there is nothing to separate")
    size, axes = size[: len(kept)][kept], axes[: len(kept)][kept]
    return float((((within @ axes.T) / size) ** 2).sum())


def sharpness(model: nn.Module, X: Tensor, y: Tensor, epsilon: float = 1e-3, steps: int = 20) -> float:
    """Sharpness of a minimum: how much the loss can rise in a small box around the weights, in per cent of 1 + loss.

    The box lets weight w move by epsilon * (abs(w) + 1). The maximum is sought from the weights themselves by `steps`
    ascent steps along the sign of the gradient, kept inside the box; what is found is a lower bound of it.

    Parameters
    ----------
    model : torch module
        Maps X to logits; it is evaluated in evaluation mode, on a copy, and left as it was.
    X, y : tensors, shape (samples, ...) and (samples,)
        Inputs and labels.
    epsilon : float
        Size of the box, above 0.

    Returns
    -------
    float
        100 * (largest loss found - loss) / (1 + loss), at least 0; the loss is the mean cross-entropy.

    Raises
    ------
    ValueError
        epsilon or steps not above 0, as many labels as samples not given, or a loss that is not finite.

    Notes
    -----
    Keskar et al. (2017), metric 2.1 with A the identity; they search with L-BFGS-B, we with signs.
    """
    if not (np.isfinite(epsilon) and epsilon > 0) or steps < 1:
        raise ValueError(f"epsilon and steps must be above 0; got {epsilon} and {steps}")
    if len(X) != len(y) or len(y) == 0:
        raise ValueError(f"expected as many labels as samples, at least one; got {len(y)} and {len(X)}")
    probe = copy.deepcopy(model).eval()
    weights = [p for p in probe.parameters() if p.requires_grad]
    centres = [p.detach().clone() for p in weights]
    radii = [epsilon * (c.abs() + 1) for c in centres]
    losses = []
    for _ in range(steps + 1):
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
