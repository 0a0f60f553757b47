"""The CHSH experiment: correlators, the statistic S, and what local, quantum and signalling behaviours allow.

Two players, Alice and Bob, have two settings each. A *context* (i, j) is a choice of both; in it a pair of outcomes,
+1 or -1 each, is seen. Every function works on stacks (leading axes `...`) of three arrays::

    outcomes    a, b    (..., 2, 2, samples)   [i, j] = what is seen in context (i, j)
    correlators C       (..., 2, 2)            [i, j] = C(A_i, B_j)
    behaviour   p       (..., 2, 2, 2, 2)      [i, j, x, y] = probability; index 0 = outcome +1, index 1 = outcome -1

`from_outcomes` and `from_moments` make a behaviour, `correlators` and `means` take it apart again.
Explained in the chapter on CHSH theory.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog
from scipy.sparse import identity, kron

from ncutil.ground.checks import known

Floats = NDArray[np.float64]

ESTIMATORS = ("product", "covariance", "pearson")

SIGNS = np.array([[1.0, 1.0], [1.0, -1.0]])
"""Signs of the four correlators in S = C11 + C12 + C21 - C22."""

FORMS = np.array([s * np.where(np.arange(4).reshape(2, 2) == k, -1.0, 1.0) for s in (1, -1) for k in (3, 2, 1, 0)])
"""The 8 CHSH forms, shape (8, 2, 2), the sign patterns with an odd number of minus signs; FORMS[0] is SIGNS."""

_SIGN = np.array([1.0, -1.0])  # outcome of index 0 and index 1
_ROUNDING = 1e-9
_SOLVER = 1e-6  # ten times the feasibility tolerance of the linear programme


def correlations(a: ArrayLike, b: ArrayLike, estimator: str = "product") -> Floats:
    """Correlators C(A_i, B_j) of paired outcomes, one estimate per context.

    Outcomes, (..., 2, 2, samples) each, are +-1 or real; [..., i, j, :] were seen together in context (i, j). The
    result has shape (..., 2, 2). The estimator is "product" (E[AB], to which the bound 2 belongs), "covariance" or
    "pearson" (NaN where one side has no spread: always right is not correlated with anything). ValueError for
    another estimator, shapes that differ or do not end in (2, 2, samples), and values that are not finite.
    """
    known("estimator", estimator, ESTIMATORS)
    x, y = _outcomes(a, b)
    if estimator == "product":
        return _mean_product(x, y)
    constant = (np.ptp(x, axis=-1) == 0) | (np.ptp(y, axis=-1) == 0)
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    covariance = _mean_product(x, y)
    if estimator == "covariance":
        return covariance
    spread = np.sqrt(_mean_product(x, x)) * np.sqrt(_mean_product(y, y))
    return np.clip(covariance / np.where(constant | (spread == 0), np.nan, spread), -1, 1)


def chsh(C: ArrayLike) -> Floats:
    """S = C11 + C12 + C21 - C22 of correlators, shape (..., 2, 2) to (...); NaN where a correlator is NaN."""
    return _einsum("...ij,ij->...", _table("correlators", C), SIGNS)


def chsh_forms(C: ArrayLike) -> Floats:
    """All 8 CHSH forms of correlators, shape (..., 2, 2) to (..., 8), in the order of `FORMS`; the first is S."""
    return _einsum("...ij,fij->...f", _table("correlators", C), FORMS)


def classical_bound(estimator: str = "product", outcomes: str = "sign") -> float:
    """Largest S that one joint distribution of the four outcomes allows, by estimator ("product" and so on).

    Outcomes +-1 ("sign") have the bounds 2, 16/7 (Pozsgay et al. 2017) and 5/2 (Huang and Vontobel 2021); the first two
    hold in [-1, 1] as well. For any outcomes ("real") "pearson" allows 2 sqrt 2, and the other two have no bound.

    """
    bounds = {"sign": {"product": 2.0, "covariance": 16 / 7, "pearson": 5 / 2}, "real": {"pearson": quantum_bound()}}
    known("estimator", estimator, ESTIMATORS)
    known("outcomes", outcomes, bounds)
    if estimator not in bounds[outcomes]:
        raise ValueError(f"{estimator!r} of real outcomes grows with their scale: no bound; 'pearson' has one")
    return bounds[outcomes][estimator]


def independent_heads(mean_a: ArrayLike, mean_b: ArrayLike) -> Floats:
    """S of two sides independent within each context, from the means there, (..., 2, 2): what accuracy alone gives."""
    return chsh(_table("means of Alice", mean_a) * _table("means of Bob", mean_b))


def deterministic_strategies() -> Floats:
    """The 16 ways to fix all four outcomes in advance, shape (16, 4); columns A1, A2, B1, B2."""
    return np.array(np.meshgrid(*[_SIGN] * 4, indexing="ij")).reshape(4, 16).T


def from_outcomes(a: ArrayLike, b: ArrayLike) -> Floats:
    """Relative frequencies of +-1 outcomes, shape (..., 2, 2, samples) each, as a behaviour (..., 2, 2, 2, 2)."""
    a, b = _outcomes(a, b)
    if not np.isin([a, b], _SIGN).all():
        raise ValueError("a behaviour counts outcomes +1 and -1; got other values")
    seen_a, seen_b = (np.stack([x == 1, x == -1], axis=-2).astype(float) for x in (a, b))
    return np.asarray(seen_a @ seen_b.swapaxes(-1, -2) / a.shape[-1])


def from_moments(C: ArrayLike, mean_a: ArrayLike = 0.0, mean_b: ArrayLike = 0.0) -> Floats:
    """The behaviour with correlators E[AB], (..., 2, 2), and means per context, which broadcast to that shape.

    Alice's of shape (..., 2, 1) and Bob's of shape (..., 1, 2) depend on the own setting only; others may signal.
    """
    product, a, b = (_table("moments", m)[..., None, None] for m in np.broadcast_arrays(C, mean_a, mean_b))
    x, y = _SIGN[:, None], _SIGN
    return _behaviour((1 + x * a + y * b + x * y * product) / 4)


def from_strategies(weights: ArrayLike) -> Floats:
    """The local behaviour that plays the 16 deterministic strategies with these weights, (..., 16)."""
    w = np.asarray(weights, float)
    if w.shape[-1:] != (16,) or not np.isfinite(w).all():
        raise ValueError(f"expected 16 finite weights, one per deterministic strategy; got shape {w.shape}")
    if (w < -_ROUNDING).any() or not np.allclose(w.sum(-1), 1, rtol=0, atol=_ROUNDING):
        raise ValueError("weights of the strategies must be at least 0 and sum to 1")
    return _einsum("...k,kijxy->...ijxy", w, _VERTICES)


def correlators(p: ArrayLike, estimator: str = "product") -> Floats:
    """Correlators of a behaviour, (..., 2, 2, 2, 2) to (..., 2, 2): what `correlations` estimates."""
    known("estimator", estimator, ESTIMATORS)
    product = _einsum("...xy,x,y->...", _behaviour(p), _SIGN, _SIGN)
    if estimator == "product":
        return product
    a, b = means(p)
    covariance = product - a * b
    if estimator == "covariance":
        return covariance
    variance = (1 - a**2) * (1 - b**2)
    return np.clip(covariance / np.sqrt(np.where(variance < _ROUNDING**2, np.nan, variance)), -1, 1)


def means(p: ArrayLike) -> tuple[Floats, Floats]:
    """Mean outcomes (mean_a, mean_b) of a behaviour per context, (..., 2, 2) each."""
    p = _behaviour(p)
    return _einsum("...xy,x->...", p, _SIGN), _einsum("...xy,y->...", p, _SIGN)


def local_fraction(p: ArrayLike) -> Floats:
    """Largest weight that a local model can take out of a behaviour, in [0, 1]; (..., 2, 2, 2, 2) to (...).

    It is 1 exactly if `p` is local (Abramsky, Barbosa and Mansfield 2017). One sparse linear programme for the whole
    stack: maximise the sum of the weights of the 16 strategies while what they produce stays within `p`.
    """
    p = _behaviour(p)
    limits = np.clip(p, 0, None).reshape(-1)
    produced = kron(identity(limits.size // 16), _VERTICES.reshape(16, 16).T, format="csr")
    answer = linprog(-np.ones(limits.size), A_ub=produced, b_ub=limits, method="highs")
    if not answer.success:
        raise RuntimeError(f"the linear programme over local strategies failed: {answer.message}")
    share: Floats = answer.x.reshape(*p.shape[:-4], 16).sum(-1)
    return np.clip(share, 0, 1)


def is_local(p: ArrayLike) -> NDArray[np.bool_]:
    """Whether one joint distribution of A1, A2, B1, B2 reproduces the behaviour; False where it signals."""
    return np.greater_equal(local_fraction(p), 1 - _SOLVER)


def contextual_fraction(p: ArrayLike) -> Floats:
    """Share of a no-signalling behaviour that no local model explains: max(0, (largest form - 2) / 2).

    0 for a local behaviour, sqrt 2 - 1 at the Tsirelson bound, 1 for a PR box; equal to 1 - `local_fraction`.
    ValueError where the behaviour signals.
    """
    result = contextuality(p)
    if (result.delta > _ROUNDING).any():
        worst = f"its means differ by {float(np.max(result.delta)):.3g} between contexts"
        raise ValueError(f"the contextual fraction needs a no-signalling behaviour; {worst}: use contextuality(p)")
    return np.clip((result.s_odd - 2) / 2, 0, 1)


@dataclass(frozen=True)
class Contextuality:
    """Contextuality-by-Default of behaviours (Dzhafarov and Kujala 2016), shape (...).

    `s` is S, `s_odd` the largest of the 8 forms, `delta` how much the means of A1, A2, B1, B2 differ between their two
    contexts, summed. `measure` is s_odd - min(4, 2 + delta), contextual iff above 0; rounded to 12 digits.
    """

    s: Floats
    s_odd: Floats
    delta: Floats
    measure: Floats


def contextuality(p: ArrayLike) -> Contextuality:
    """S, signalling, and what S leaves once the signalling is paid for; (..., 2, 2, 2, 2) to fields of (...).

    >>> result = contextuality(pr_box())
    >>> float(result.s), float(result.delta), float(result.measure)
    (4.0, 0.0, 2.0)
    """
    C, (a, b) = correlators(p), means(p)
    s_odd = chsh_forms(C).max(-1)
    delta = np.abs(a[..., 0] - a[..., 1]).sum(-1) + np.abs(b[..., 0, :] - b[..., 1, :]).sum(-1)
    return Contextuality(chsh(C), s_odd, delta, np.round(s_odd - np.minimum(4, 2 + delta), 12))


def pr_box() -> Floats:
    """The box of Popescu and Rohrlich (1994): no signalling, fair coins on each side, and S = 4."""
    return from_moments(SIGNS)


def singlet(angles_a: ArrayLike, angles_b: ArrayLike) -> Floats:
    """Behaviour of a spin singlet, E = -cos(angle_a - angle_b); angles in one plane, (..., 2), in radians, per setting.

    >>> float(chsh(correlators(singlet([0, np.pi / 2], [5 * np.pi / 4, 3 * np.pi / 4]))).round(6))
    2.828427
    """
    a, b = np.asarray(angles_a, float), np.asarray(angles_b, float)
    if a.shape[-1:] != (2,) or b.shape[-1:] != (2,):
        raise ValueError(f"expected two angles per side; got shapes {a.shape} and {b.shape}")
    return from_moments(-np.cos(a[..., :, None] - b[..., None, :]))


def quantum_bound() -> float:
    """The largest S that quantum mechanics allows, 2 sqrt 2 (Tsirelson 1980)."""
    return float(2 * np.sqrt(2))


def horodecki(rho: ArrayLike) -> Floats:
    """Largest S of a two-qubit state over all spin measurements: 2 sqrt(m1 + m2), (..., 4, 4) to (...).

    m1, m2 are the largest eigenvalues of T^T T, T_kl = tr(rho sigma_k x sigma_l) (Horodecki et al. 1995). ValueError
    unless rho is a density matrix.
    """
    rho = np.asarray(rho, complex)
    if rho.shape[-2:] != (4, 4) or not np.isfinite(rho).all():
        raise ValueError(f"expected a finite 4 x 4 density matrix; got shape {rho.shape}")
    hermitian = np.allclose(rho, rho.conj().swapaxes(-1, -2), rtol=0, atol=_ROUNDING)
    unit = np.allclose(np.trace(rho, axis1=-2, axis2=-1), 1, rtol=0, atol=_ROUNDING)
    if not (hermitian and unit and np.linalg.eigvalsh(rho).min() > -_ROUNDING):
        raise ValueError("a density matrix is Hermitian, has trace 1 and no negative eigenvalue")
    spins = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
    pairs = _einsum("kab,lcd->klacbd", spins, spins).reshape(3, 3, 4, 4)
    T = _einsum("...xy,klyx->...kl", rho, pairs).real
    root = np.linalg.svd(T, compute_uv=False)  # roots of the eigenvalues of T^T T, largest first
    return np.asarray(2 * np.hypot(root[..., 0], root[..., 1]))[()]


def _einsum(subscripts: str, *arrays: NDArray[Any]) -> Floats:
    result: Floats = np.einsum(subscripts, *arrays)
    return result


def _mean_product(a: Floats, b: Floats) -> Floats:
    return np.asarray(_einsum("...n,...n->...", a, b) / a.shape[-1])


def _outcomes(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or a.shape[-3:-1] != (2, 2) or a.size == 0:
        raise ValueError(f"outcomes must both have shape (..., 2, 2, samples); got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("outcomes contain values that are not finite")
    return a, b


def _table(what: str, values: ArrayLike) -> Floats:
    table = np.asarray(values, float)
    if table.shape[-2:] != (2, 2) or np.isinf(table).any():
        raise ValueError(f"{what} must have shape (..., 2, 2) and no infinite entry; got shape {table.shape}")
    return table


def _behaviour(p: ArrayLike) -> Floats:
    p = np.asarray(p, float)
    if p.shape[-4:] != (2, 2, 2, 2):
        raise ValueError(f"a behaviour has shape (..., 2, 2, 2, 2); got {p.shape}")
    if not np.isfinite(p).all() or p.min(initial=0) < -_ROUNDING:
        raise ValueError("a behaviour holds finite probabilities, none below 0")
    if not np.allclose(sums := p.sum((-2, -1)), 1, rtol=0, atol=_ROUNDING):
        worst = float(sums.flat[np.abs(sums - 1).argmax()])
        raise ValueError(f"the four probabilities of each context must sum to 1; got a sum of {worst:.6g}")
    return p


_A, _B = deterministic_strategies()[:, :2, None], deterministic_strategies()[:, None, 2:]
_VERTICES = from_moments(_A * _B, _A, _B)  # the behaviours of the strategies, shape (16, 2, 2, 2, 2)
