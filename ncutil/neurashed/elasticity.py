"""Local elasticity: how far one update at an input moves the logits at another input.

`local_elasticity` makes one real step and compares the logits (equation 3.1 of Su's paper). For many inputs at once
`elasticity_matrix` computes the limit of small steps from the tangent kernel. It builds the kernel layer by layer, from
Gram matrices of the layer's inputs and of the slopes of the logits in the layer's outputs, without a pass per base
point. All functions work on a copy of the model, in float64 and in evaluation mode: differences of float32 logits lose
all digits at small rates. Explained in the chapter on local elasticity.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import functional_call, jvp, vjp, vmap
from torch.nn.functional import cross_entropy, unfold

Array = NDArray[np.float64]
Loss = Callable[[Tensor, Tensor], Tensor]

BLOCK = 128
"""Base points of the matrix at a time, so that memory grows with n and not with its square."""


class _Part(NamedTuple):
    """One layer's share of the tangent kernel: `gram[a, b] * (pulls[i, a] @ pulls[j, b])`, gram None for all ones."""

    gram: Tensor | None  # (n, n)
    pulls: Tensor  # (logits, n, d)


def local_elasticity(
    model: nn.Module,
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    x_test: ArrayLike | Tensor,
    rate: float,
    loss: Loss = cross_entropy,
) -> float:
    """LE(x, x'): change of the logits at x' over their change at x, after one gradient step at (x, y).

    The result is not negative, and 1 where x' = x. A step that does not change the base's own logits raises a
    ValueError, as do inputs, labels, rates and models that do not fit.

    Su (2024), equation 3.1; He and Su (2020). A step too small for differences in float64 is replaced by its
    first-order term, a Jacobian-vector product, which is then the more exact of the two.

    A linear layer gives the leverage ratio ``|<x, x'> + 1| / (|x|^2 + 1)``, whatever its weights, label and rate:

    >>> layer = nn.Linear(2, 3)
    >>> round(local_elasticity(layer, [1.0, 2.0], 0, [1.0, 0.0], rate=0.1), 9)
    0.333333333

    - model : module that maps a batch (n, ...) to logits (n, classes); left as it is
    - x, x_test : base and test input, of one shape, without a batch axis
    - y : label of the base, a single number
    - rate : size of the step, above 0; all trainable parameters take part
    - loss : maps logits (1, classes) and labels (1,) to a number
    """
    net, base, test = _double(model), _tensor(x, model, "x"), _tensor(x_test, model, "x_test")
    if base.shape != test.shape:
        raise ValueError(f"x and x_test must have one shape; got {tuple(base.shape)} and {tuple(test.shape)}")
    if not (np.isfinite(rate) and rate > 0):
        raise ValueError(f"the rate must be positive; got {rate}")
    both = torch.stack([base, test])
    label = torch.as_tensor(y, device=base.device)
    if label.ndim:
        raise ValueError(f"y is the label of one input; got shape {tuple(label.shape)}")
    weights: dict[str, Tensor] = {name: p for name, p in net.named_parameters() if p.requires_grad}

    def logits(w: dict[str, Tensor]) -> Tensor:
        return cast(Tensor, functional_call(net, w, (both,)))

    with torch.enable_grad():
        before = _check_logits(logits(weights), 2)
        _check_labels(label[None], before[:1], loss)
        slopes = grad(loss(before[:1], label[None]), list(weights.values()), materialize_grads=True)
    step = {name: -rate * slope for name, slope in zip(weights, slopes, strict=True)}
    with torch.no_grad():
        change = logits({name: p + step[name] for name, p in weights.items()}) - before
        # Below this size a difference in float64 keeps less than half of its digits.
        if change[0].norm() <= 2.0**-26 * before[0].norm():
            change = jvp(logits, (weights,), (step,))[1]
    scale = change[0].abs().max()
    if not scale > 0:
        raise ValueError("the step does not move the base's own logits, so LE is not defined there")
    own, other = (change / scale).norm(dim=1).tolist()  # squares of tiny changes would underflow
    return float(other / own)


def elasticity_matrix(model: nn.Module, X: ArrayLike | Tensor, y: ArrayLike | Tensor | None = None) -> Array:
    """LE between all pairs of inputs in the limit of small steps of the cross-entropy; row = base, column = test.

    The matrix (n, n) is not negative, 1 on the diagonal, in general not symmetric. Errors are as in
    `local_elasticity`; a step that does not move the base's own logits is reported with its row.

    With the tangent kernel Theta and the slope g of the loss in the logits at x, LE(x, x') is
    ``|Theta(x', x) g| / |Theta(x, x) g|``. Only trainable parameters count, so a frozen layer contributes nothing.

    >>> elasticity_matrix(nn.Linear(2, 3), [[1.0, 2.0], [1.0, 0.0]], [0, 1]).round(6)
    array([[1.      , 0.333333],
           [1.      , 1.      ]])

    - model : module that maps a batch (n, ...) to logits (n, classes), each input by itself; left as it is
    - X : (n, ...) inputs
    - y : (n,) labels of the inputs as bases; by default the classes that the model predicts
    """
    net, inputs = _double(model), _tensor(X, model, "X", batch=True)
    logits, parts = _parts(net, inputs)
    n = len(inputs)
    labels = logits.argmax(dim=1) if y is None else torch.as_tensor(y, device=inputs.device)
    if labels.shape[:1] != (n,):
        raise ValueError(f"y must have one label for each of the {n} inputs; got shape {tuple(labels.shape)}")
    _check_labels(labels, logits, cross_entropy)
    with torch.enable_grad():
        leaf = logits.clone().requires_grad_()
        (slope,) = grad(cross_entropy(leaf, labels), leaf)
    # The ratio does not depend on the scale of a base's slope, and tiny slopes would underflow when squared.
    slope = slope / slope.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
    pushes = [torch.einsum("nk,knd->nd", slope, part.pulls) for part in parts]
    moved = torch.cat([_moved(parts, pushes, slice(at, at + BLOCK)) for at in range(0, n, BLOCK)])
    own = moved.diagonal()
    if still := torch.nonzero(~(own > 0)).flatten().tolist():
        raise ValueError(f"a step does not move the base's own logits, so LE is not defined, in rows {still[:10]}")
    return cast(Array, (moved / own[:, None]).cpu().numpy())


def tangent_kernel(model: nn.Module, X: ArrayLike | Tensor) -> Array:
    """Inner products of the gradients of the logits, in all trainable parameters, between all pairs of inputs.

    `model` and X as in `elasticity_matrix`. The result, shape (n, n, classes, classes), takes 8 (n classes)^2 bytes:
    [a, b, i, j] = <grad z_i(x_a), grad z_j(x_b)>. The sum over i = j is the kernel that is often meant by the name
    (Jacot, Gabriel and Hongler 2018).

    >>> tangent_kernel(nn.Linear(2, 2, bias=False), [[1.0, 2.0], [3.0, 0.0]])[0, 1]
    array([[3., 0.],
           [0., 3.]])
    """
    _, parts = _parts(_double(model), _tensor(X, model, "X", batch=True))
    kernel = torch.zeros(())
    for gram, pulls in parts:
        k, n, _ = pulls.shape
        flat = pulls.flatten(0, 1)
        share = (flat @ flat.T).reshape(k, n, k, n).permute(1, 3, 0, 2)
        kernel = kernel + (share if gram is None else share * gram[:, :, None, None])
    return cast(Array, kernel.contiguous().cpu().numpy())


def _moved(parts: list[_Part], pushes: list[Tensor], rows: slice) -> Tensor:
    """Size of the change of logits at every input, for a block of bases; (rows, n)."""
    change = torch.zeros(())
    for (gram, pulls), push in zip(parts, pushes, strict=True):
        k, n, _ = pulls.shape
        share = (push[rows] @ pulls.flatten(0, 1).T).reshape(-1, k, n)  # (rows, classes, n)
        if gram is not None:
            share *= gram[rows, None]
        change = share.add_(change)
    return change.square_().sum(dim=1).sqrt_()


def _parts(net: nn.Module, inputs: Tensor) -> tuple[Tensor, list[_Part]]:
    """Logits and the layers' shares of the tangent kernel, from one forward pass and one backward pass per logit."""
    layers = _owners(net)
    calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}

    def keep(layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        calls[layer].append((args[0].detach(), out))
        return out.clone()  # what follows may work in place

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.enable_grad():
            logits = _check_logits(net(inputs), len(inputs))
            plain = all(len(made) == 1 and len(made[0][1]) == len(inputs) for made in calls.values())
            outputs = [calls[layer][0][1] for layer in layers] if plain and layers != [net] else []
            pulls = [grad(z.sum(), outputs, retain_graph=True, materialize_grads=True) for z in logits.T if outputs]
    finally:
        for hook in hooks:
            hook.remove()
    logits = logits.detach()
    if not pulls:
        # A layer used twice, or parameters outside of layers: the model as one single layer is always right.
        n, k = logits.shape
        eye = torch.eye(k, dtype=logits.dtype, device=logits.device)[:, None].expand(k, n, k)
        return logits, [_part(net, inputs, eye)]
    each = zip(layers, zip(*pulls, strict=True), strict=True)  # slopes of every logit in a layer's output
    return logits, [_part(layer, calls[layer][0][0], torch.stack(slopes)) for layer, slopes in each]


def _owners(net: nn.Module) -> list[nn.Module]:
    """The layers: modules with trainable parameters of their own, or the net itself where two share a parameter."""
    owners: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in net.modules():
        if module not in inside and any(p.requires_grad for p in module.parameters(recurse=False)):
            owners.append(module)
            inside.update(module.modules())
    held = [id(p) for layer in owners for p in layer.parameters()]
    return owners if len(set(held)) == len(held) else [net]


def _part(layer: nn.Module, inputs: Tensor, pulls: Tensor) -> _Part:
    """Share of one layer: Gram matrices for a linear one, patches times slopes for a convolution, else by autograd."""
    if type(layer) is nn.Linear and inputs.ndim == 2:
        gram = inputs @ inputs.T if layer.weight.requires_grad else torch.zeros(())
        if layer.bias is not None and layer.bias.requires_grad:
            gram = gram + 1
        return _Part(gram.expand(len(inputs), len(inputs)), pulls)
    if (
        type(layer) is nn.Conv2d
        and (layer.groups, layer.padding_mode) == (1, "zeros")
        and not isinstance(layer.padding, str)
    ):
        patches = unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # (n, d, places)
        slopes = pulls.flatten(3)  # (classes, n, channels, places)
        shares = [(slopes @ patches.transpose(1, 2)).flatten(2)] if layer.weight.requires_grad else []
        if layer.bias is not None and layer.bias.requires_grad:
            shares.append(slopes.sum(dim=3))
        return _Part(None, torch.cat(shares, dim=2))
    weights = {name: p.detach() for name, p in layer.named_parameters() if p.requires_grad}

    def gradients(x: Tensor, pull: Tensor) -> Tensor:
        (slopes,) = vmap(vjp(lambda w: functional_call(layer, w, (x[None],))[0], weights)[1])(pull)
        return torch.cat([slope.flatten(1) for slope in slopes.values()], dim=1)

    each = vmap(gradients, in_dims=(0, 1), out_dims=1, chunk_size=64)(inputs, pulls)
    return _Part(None, each.detach())


def _double(model: nn.Module) -> nn.Module:
    """A copy in float64 and evaluation mode: batch norm and dropout then treat each input by itself."""
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("the model has no trainable parameters, so no step can move it")
    return copy.deepcopy(model).double().eval()


def _tensor(values: ArrayLike | Tensor, model: nn.Module, name: str, batch: bool = False) -> Tensor:
    """Inputs as float64 on the model's device; a batch needs an axis for its inputs and one for what they hold."""
    device = next(model.parameters()).device
    given = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values, float))
    tensor = given.detach().to(device, torch.float64)
    if batch and (tensor.ndim < 2 or len(tensor) == 0):
        raise ValueError(f"{name} must be a batch of inputs, (n, ...) with n >= 1; got shape {tuple(tensor.shape)}")
    if not tensor.isfinite().all():
        raise ValueError(f"{name} has {int((~tensor.isfinite()).sum())} values that are not finite")
    return tensor


def _check_logits(logits: object, n: int) -> Tensor:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != n:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model must give logits of shape ({n}, classes) for {n} inputs; got {got}")
    return logits


def _check_labels(labels: Tensor, logits: Tensor, loss: Loss) -> None:
    if loss is not cross_entropy:
        return
    classes = logits.shape[1]
    whole = labels.ndim == 1 and not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not whole or not ((labels >= 0) & (labels < classes)).all():
        raise ValueError(f"labels must be whole numbers from 0 to {classes - 1}; got {labels.tolist()[:10]}")
