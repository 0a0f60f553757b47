"""CHSH theory: the exact results of chapter 1, and properties that hold for every behaviour."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import ConvexHull

from ncutil.bell.chsh import (
    ESTIMATORS,
    FORMS,
    SIGNS,
    chsh,
    chsh_forms,
    classical_bound,
    contextual_fraction,
    contextuality,
    correlations,
    correlators,
    deterministic_strategies,
    from_moments,
    from_outcomes,
    from_strategies,
    horodecki,
    independent_heads,
    is_local,
    local_fraction,
    means,
    pr_box,
    quantum_bound,
    singlet,
)

ROOT2 = np.sqrt(2)
TSIRELSON_ANGLES = ([0, np.pi / 2], [5 * np.pi / 4, 3 * np.pi / 4])
BELL_TABLE = np.array([[4, 0, 0, 4], [3, 1, 1, 3], [3, 1, 1, 3], [1, 3, 3, 1]]).reshape(2, 2, 2, 2) / 8
SWITCH = from_moments(SIGNS, 1, SIGNS)  # everything fixed, and B2 flips with Alice's task
COVARIANCE_OPTIMUM = {(1, 1, 1, 1): 3 / 7, (-1, -1, -1, 1): 2 / 7, (-1, 1, -1, -1): 2 / 7}
PEARSON_OPTIMUM = {(-1, -1, -1, -1): 1 / 3, (1, -1, -1, 1): 1 / 3, (1, 1, 1, -1): 1 / 3}


def play(weights):
    """Local behaviour that plays the named strategies (A1, A2, B1, B2) with the given weights."""
    names = [tuple(row) for row in deterministic_strategies()]
    return from_strategies([weights.get(name, 0.0) for name in names])


def simplex(size):
    """Points of a probability simplex, with corners and edges among them."""
    raw = arrays(float, size, elements=st.floats(0, 1, allow_subnormal=False))
    return raw.filter(lambda w: w.sum() > 0.1).map(lambda w: w / w.sum())


local_weights = simplex(16)
nosignalling = simplex(24).map(lambda w: np.einsum("k,k...->...", w, NS_VERTICES))
contexts_apart = st.tuples(*[simplex(4)] * 4).map(lambda rows: np.array(rows).reshape(2, 2, 2, 2))
finite = st.floats(-10, 10, allow_subnormal=False)


def coordinates(p):
    """The 8 numbers of a no-signalling behaviour: mean of A1, A2, B1, B2, then the four correlators."""
    a, b = means(p)
    return np.concatenate([a[..., :, 0], b[..., 0, :], correlators(p).reshape(*p.shape[:-4], 4)], axis=-1)


def positivity():
    """The 16 rows f of 1 + f.v >= 0: each probability of a no-signalling behaviour, times 4."""
    rows = []
    for i, j, x, y in np.ndindex(2, 2, 2, 2):
        row = np.zeros(8)
        row[i], row[2 + j], row[4 + 2 * i + j] = (-1) ** x, (-1) ** y, (-1) ** (x + y)
        rows.append(row)
    return np.array(rows)


def nosignalling_vertices():
    """Every point where 8 independent positivity constraints are tight and the others hold, in whole halves."""
    rows = positivity()
    bases = rows[list(combinations(range(16), 8))]
    bases = bases[np.abs(np.linalg.det(bases)) > 0.5]  # determinants of matrices of 0, +-1 are whole numbers
    points = np.linalg.solve(bases, -np.ones((len(bases), 8, 1)))[..., 0]
    feasible = 2 * points[(points @ rows.T >= -1 - 1e-9).all(1)]
    assert feasible == pytest.approx(np.rint(feasible), abs=1e-9)
    return np.unique(np.rint(feasible), axis=0) / 2 + 0.0


def behaviours(points):
    return from_moments(points[:, 4:].reshape(-1, 2, 2), points[:, :2, None], points[:, None, 2:4])


NS_VERTICES = behaviours(nosignalling_vertices())


# --- the classical bound and its strategies -------------------------------------------------------------------------


def test_sixteen_strategies_each_at_two():
    table = deterministic_strategies()
    assert table.shape == (16, 4)
    assert len(np.unique(table, axis=0)) == 16
    assert set(np.unique(table)) == {-1.0, 1.0}
    S = chsh(table[:, :2, None] * table[:, None, 2:])
    assert np.bincount((S > 0).astype(int)).tolist() == [8, 8]
    assert (np.abs(chsh_forms(table[:, :2, None] * table[:, None, 2:])) == 2).all()


def test_eight_forms():
    assert FORMS.shape == (8, 2, 2)
    assert len(np.unique(FORMS.reshape(8, 4), axis=0)) == 8
    assert ((FORMS < 0).sum((1, 2)) % 2 == 1).all()
    assert (FORMS[0] == SIGNS).all()
    assert chsh(SIGNS) == 4


@given(local_weights)
def test_local_models_stay_within_every_bound(weights):
    p = from_strategies(weights)
    for estimator in ESTIMATORS:
        S = chsh_forms(correlators(p, estimator))
        assert np.isnan(S).any() or S.max() <= classical_bound(estimator) + 1e-9


@pytest.mark.parametrize(
    ("estimator", "weights", "C"),
    [
        ("product", {(1, 1, 1, 1): 1.0}, [[1, 1], [1, 1]]),
        ("covariance", COVARIANCE_OPTIMUM, np.array([[48, 24], [24, -16]]) / 49),
        ("pearson", PEARSON_OPTIMUM, [[0.5, 0.5], [1, -0.5]]),
    ],
)
def test_each_bound_is_attained(estimator, weights, C):
    found = correlators(play(weights), estimator)
    assert chsh(found) == pytest.approx(classical_bound(estimator), abs=1e-12)
    assert found == pytest.approx(np.array(C), abs=1e-12)


def test_bounds_are_the_exact_ones():
    assert [classical_bound(e) for e in ESTIMATORS] == [2, 16 / 7, 5 / 2]
    assert classical_bound("pearson", "real") == pytest.approx(2 * ROOT2, abs=1e-15)
    assert chsh(correlators(play(PEARSON_OPTIMUM))) == pytest.approx(2, abs=1e-12)


@given(local_weights)
def test_pearson_of_centred_signs_is_the_product(weights):
    flip = from_strategies((weights + weights[::-1]) / 2)  # strategy k and 15 - k differ in all four signs
    assert np.concatenate(means(flip)) == pytest.approx(0, abs=1e-12)
    assert correlators(flip, "pearson") == pytest.approx(correlators(flip), abs=1e-12)
    assert chsh_forms(correlators(flip, "pearson")).max() <= 2 + 1e-9


@given(arrays(float, (4, 6), elements=finite))
def test_pearson_of_any_real_outcomes_stays_within_two_root_two(joint):
    a, b = np.repeat(joint[:2, None], 2, axis=1), np.repeat(joint[None, 2:], 2, axis=0)
    S = chsh_forms(correlations(a, b, "pearson"))
    assert np.isnan(S).any() or S.max() <= 2 * ROOT2 + 1e-9


def test_gaussians_before_and_after_taking_signs():
    C = np.array([[1, 1], [1, -1]]) / ROOT2  # A1, A2 independent normals, B = (A1 +- A2) / sqrt 2
    assert chsh(C) == pytest.approx(2 * ROOT2)
    assert chsh(2 / np.pi * np.arcsin(C)) == pytest.approx(2, abs=1e-12)
    x = np.random.default_rng(0).standard_normal((2, 200_000))
    a, b = np.stack([x, x], axis=1), np.stack([[x[0] + x[1], x[0] - x[1]]] * 2) / ROOT2
    assert chsh(correlations(a, b, "pearson")) == pytest.approx(2 * ROOT2, abs=0.01)
    assert chsh(correlations(np.sign(a), np.sign(b))) == pytest.approx(2, abs=0.02)


# --- correlators ----------------------------------------------------------------------------------------------------


@given(arrays(float, (2, 2, 2, 7), elements=st.sampled_from([-1.0, 1.0])))
def test_correlations_agree_with_the_behaviour_and_with_numpy(ab):
    a, b = ab[0], ab[1]
    p = from_outcomes(a, b)
    for estimator in ESTIMATORS:
        assert correlations(a, b, estimator) == pytest.approx(correlators(p, estimator), nan_ok=True, abs=1e-12)
    assert np.stack(means(p)) == pytest.approx(ab.mean(-1))
    for i, j in np.ndindex(2, 2):
        if np.ptp(a[i, j]) and np.ptp(b[i, j]):
            expected = np.corrcoef(a[i, j], b[i, j])[0, 1]
            assert correlations(a, b, "pearson")[i, j] == pytest.approx(expected, abs=1e-12)


def test_pearson_without_spread_is_nan_and_passes_on():
    a = np.ones((2, 2, 4))
    b = np.resize([1.0, -1.0], (2, 2, 4))
    assert np.isnan(correlations(a * 0.1, b, "pearson")).all()
    assert np.isnan(chsh(correlations(a, b, "pearson")))
    with np.errstate(divide="raise", invalid="raise"):
        assert np.isnan(correlations(b * 1e-200, b, "pearson")).all()
    assert np.isnan(chsh_forms([[np.nan, 1], [1, 1]])).all()
    assert np.isnan(correlators(from_moments(np.ones((2, 2)), 1, 1), "pearson")).all()


@given(arrays(float, (3, 2, 2, 4), elements=finite))
def test_stacks_equal_loops(a):
    b = np.sin(a[::-1])
    for estimator in ESTIMATORS:
        stacked = chsh(correlations(a, b, estimator))
        looped = [chsh(correlations(*pair, estimator)) for pair in zip(a, b, strict=True)]
        assert stacked == pytest.approx(looped, nan_ok=True)


def test_stacks_of_behaviours():
    stack = np.stack([pr_box(), BELL_TABLE, SWITCH])
    assert is_local(stack).tolist() == [False, False, False]
    assert contextual_fraction(stack[:2]) == pytest.approx([1, 0.25])
    assert contextuality(stack[None]).measure.tolist() == [[2, 0.5, 0]]
    assert local_fraction(stack[:, None]).shape == (3, 1)


# --- polytopes and Fine's theorem -----------------------------------------------------------------------------------


def test_local_polytope_has_eight_dimensions_and_24_facets():
    points = coordinates(from_strategies(np.eye(16)))
    assert np.linalg.matrix_rank(points - points[0]) == 8
    hull = ConvexHull(points)
    assert len(hull.vertices) == 16
    facets = np.unique(np.round(hull.equations / hull.equations[:, -1:], 9) + 0.0, axis=0)[:, :-1]
    chsh_facets = np.hstack([np.zeros((8, 4)), -FORMS.reshape(8, 4) / 2])
    expected = np.vstack([chsh_facets, positivity()])
    assert len(facets) == 24
    assert {tuple(f) for f in facets} == {tuple(f + 0.0) for f in expected}


def test_nosignalling_polytope_has_16_deterministic_vertices_and_8_boxes():
    assert len(NS_VERTICES) == 24
    deterministic = (np.isin(NS_VERTICES, [0, 1])).all((1, 2, 3, 4))
    assert deterministic.sum() == 16
    boxes = NS_VERTICES[~deterministic]
    forms = chsh_forms(correlators(boxes))
    assert ((forms == 4).sum(1) == 1).all()
    assert sorted(forms.argmax(1)) == list(range(8))
    assert np.stack(means(boxes)).tolist() == np.zeros((2, 8, 2, 2)).tolist()
    assert any((box == pr_box()).all() for box in boxes)


@settings(deadline=None)
@given(nosignalling)
def test_fine(p):
    largest = chsh_forms(correlators(p)).max()
    if abs(largest - 2) > 1e-5:
        assert is_local(p) == (largest < 2)
    assert 1 - local_fraction(p) == pytest.approx(contextual_fraction(p), abs=1e-6)


@settings(deadline=None)
@given(local_weights)
def test_every_mixture_of_strategies_is_local(weights):
    assert is_local(from_strategies(weights))


@settings(deadline=None)
@given(contexts_apart)
def test_signalling_is_never_local(p):
    if contextuality(p).delta > 1e-4:
        assert not is_local(p)


# --- quantum --------------------------------------------------------------------------------------------------------


def test_tsirelson_by_angles_operator_and_vectors():
    assert quantum_bound() == pytest.approx(2 * ROOT2, abs=1e-15)
    assert chsh(correlators(singlet(*TSIRELSON_ANGLES))) == pytest.approx(quantum_bound(), abs=1e-12)
    x, z = np.array([[0, 1], [1, 0]]), np.diag([1, -1])
    b = [(z + x) / ROOT2, (z - x) / ROOT2]
    operator = np.kron(z, b[0] + b[1]) + np.kron(x, b[0] - b[1])
    assert np.linalg.eigvalsh(operator)[-1] == pytest.approx(quantum_bound(), abs=1e-12)


directions = (
    arrays(float, (4, 3), elements=st.floats(-1, 1))
    .filter(lambda v: (np.linalg.norm(v, axis=1) > 0.1).all())
    .map(lambda v: v / np.linalg.norm(v, axis=1, keepdims=True))
)


@given(directions)
def test_unit_vectors_stay_within_the_quantum_bound(v):
    assert chsh_forms(v[:2] @ v[2:].T).max() <= quantum_bound() + 1e-12


@given(arrays(float, (2, 2), elements=st.floats(-7, 7)))
def test_singlet_does_not_signal_and_stays_within_the_quantum_bound(angles):
    result = contextuality(singlet(angles[0], angles[1]))
    assert result.delta == pytest.approx(0, abs=1e-12)
    assert result.s_odd <= quantum_bound() + 1e-12


def density(parts):
    m = parts[0] + 1j * parts[1]
    rho = m @ m.conj().T
    return rho / np.trace(rho).real


states = (
    arrays(float, (2, 4, 4), elements=st.floats(-1, 1, allow_subnormal=False))
    .filter(lambda m: (m**2).sum() > 0.1)
    .map(density)
)
PAULI = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])


@given(
    states, arrays(float, (4, 3), elements=st.floats(-1, 1)).filter(lambda v: (np.linalg.norm(v, axis=1) > 0.1).all())
)
def test_no_measurement_beats_horodecki(rho, directions):
    v = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    spin = np.einsum("nk,kxy->nxy", v, PAULI)
    C = [[np.trace(rho @ np.kron(spin[i], spin[2 + j])).real for j in range(2)] for i in range(2)]
    assert chsh(C) <= horodecki(rho) + 1e-9
    assert horodecki(rho) <= quantum_bound() + 1e-9


def test_horodecki_pins():
    singlet_state = np.outer([0, 1, -1, 0], [0, 1, -1, 0]) / 2
    assert horodecki(singlet_state) == pytest.approx(2 * ROOT2)
    assert horodecki(np.diag([1, 0, 0, 0])) == pytest.approx(2)
    assert horodecki(np.eye(4) / 4) == pytest.approx(0)
    visibility = np.array([0.5, 1 / ROOT2, 0.9])[:, None, None]
    werner = visibility * singlet_state + (1 - visibility) * np.eye(4) / 4
    assert horodecki(werner) == pytest.approx([ROOT2, 2, 1.8 * ROOT2])
    # A mixture of three Bell states, T = diag(0.6, -0.4, 0.8): the two largest count.
    phi, psi = np.array([[1, 0, 0, 1], [1, 0, 0, -1]]), np.array([0, 1, 1, 0])
    bell_states = [np.outer(v, v) / 2 for v in (*phi, psi)]
    assert horodecki(np.tensordot([0.7, 0.2, 0.1], bell_states, 1)) == pytest.approx(2)
    # a|00> + b|11>, Gisin's theorem: 2 sqrt(1 + 4 a^2 b^2)
    psi = np.array([0.8, 0, 0, 0.6])
    assert horodecki(np.outer(psi, psi)) == pytest.approx(2 * np.sqrt(1 + 4 * 0.64 * 0.36))


# --- game, contextual fraction, Contextuality-by-Default ------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "chance"),
    [
        (from_strategies(np.eye(16)[0]), 3 / 4),
        (singlet(*TSIRELSON_ANGLES), np.cos(np.pi / 8) ** 2),
        (pr_box(), 1),
    ],
)
def test_game(p, chance):
    equal = np.eye(2)
    won = np.where(SIGNS[:, :, None, None] > 0, equal, 1 - equal)  # equal answers win, but in context (2, 2)
    assert (p * won).sum() / 4 == pytest.approx(chance, abs=1e-12)
    assert (4 + chsh(correlators(p))) / 8 == pytest.approx(chance, abs=1e-12)


def test_contextual_fraction_pins():
    assert contextual_fraction(singlet(*TSIRELSON_ANGLES)) == pytest.approx(0.414214, abs=5e-7)
    assert contextual_fraction(pr_box()) == 1
    assert contextual_fraction(BELL_TABLE) == pytest.approx(0.25)
    assert contextual_fraction(from_moments(np.zeros((2, 2)))) == 0
    with pytest.raises(ValueError, match="no-signalling"):
        contextual_fraction(SWITCH)


@pytest.mark.parametrize(
    ("p", "golden"),
    [
        (pr_box(), (4, 4, 0, 2)),
        (BELL_TABLE, (2.5, 2.5, 0, 0.5)),
        (SWITCH, (4, 4, 2, 0)),
        ((pr_box() + SWITCH) / 2, (4, 4, 1, 1)),
    ],
)
def test_contextuality_goldens(p, golden):
    result = contextuality(p)
    assert (result.s, result.s_odd, result.delta, result.measure) == golden


@given(contexts_apart)
def test_symmetrising_removes_signalling_and_keeps_correlators(p):
    flipped = (p + p[..., ::-1, ::-1]) / 2
    assert contextuality(flipped).delta == pytest.approx(0, abs=1e-12)
    assert correlators(flipped) == pytest.approx(correlators(p), abs=1e-12)


@settings(deadline=None)
@given(nosignalling)
def test_without_signalling_contextual_means_not_local(p):
    result = contextuality(p)
    assert result.measure == pytest.approx(result.s_odd - 2, abs=1e-9)
    if abs(result.measure) > 1e-5:
        assert is_local(p) == (result.measure < 0)


@given(contexts_apart)
def test_s_odd_is_the_largest_odd_sum(p):
    E = correlators(p).ravel()
    signs = np.array(np.meshgrid(*[[1, -1]] * 4)).reshape(4, 16)
    odd = signs[:, signs.prod(0) < 0]
    assert odd.shape == (4, 8)
    assert contextuality(p).s_odd == pytest.approx((E @ odd).max(), abs=1e-12)


def test_round_off_is_not_contextual():
    good = chsh_forms(correlators(from_strategies(np.eye(16))))[:, 0] == 2
    weights = np.zeros((500, 16))
    weights[:, good] = np.random.default_rng(0).dirichlet(np.ones(8), size=500)
    result = contextuality(from_strategies(weights))
    assert (result.s_odd > 2).any()  # by a last digit
    assert (result.measure <= 0).all()


def test_more_signalling_than_needed():
    flips_a, flips_b = np.array([[1, -1], [1, 1]]), np.array([[1, 1], [-1, 1]])
    result = contextuality(from_moments(flips_a * flips_b, flips_a, flips_b))
    assert (result.s_odd, result.delta, result.measure) == (2, 4, -2)


def test_independent_heads():
    accuracy = np.array([0.5, 0.75, 0.9, 1])
    mean = (2 * accuracy - 1)[:, None, None] * np.ones((1, 2, 2))
    assert independent_heads(mean, mean) == pytest.approx([0, 0.5, 1.28, 2])


@given(contexts_apart)
def test_independent_heads_is_s_without_covariance(p):
    rest = chsh(correlators(p)) - chsh(correlators(p, "covariance"))
    assert independent_heads(*means(p)) == pytest.approx(rest, abs=1e-12)


@pytest.mark.parametrize(("samples", "sd"), [(50, 0.245), (200, 0.122), (1000, 0.055)])
def test_finite_samples(samples, sd):
    E = SIGNS / 2
    assert chsh(E) == 2
    assert np.sqrt(((1 - E**2) / samples).sum()) == pytest.approx(sd, abs=6e-4)
    counts = np.random.default_rng(samples).multinomial(samples, from_moments(E).reshape(4, 4), size=(4000, 4))
    S = chsh(correlators(counts.reshape(-1, 2, 2, 2, 2) / samples))
    assert S.std() == pytest.approx(sd, rel=0.05)
    assert 0.4 < (S > 2).mean() < 0.55


# --- bad input ------------------------------------------------------------------------------------------------------


ONES = np.ones((2, 2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: correlations(ONES, ONES, "spearman"), "spearman.*product, covariance, pearson"),
        (lambda: correlations(ONES, ONES[..., :2]), r"\(2, 2, 3\) and \(2, 2, 2\)"),
        (lambda: correlations(np.ones((2, 3)), np.ones((2, 3))), r"\(\.\.\., 2, 2, samples\)"),
        (lambda: correlations(ONES[..., :0], ONES[..., :0]), "samples"),
        (lambda: correlations(ONES * np.nan, ONES), "finite"),
        (lambda: chsh([1, 2]), r"\(2,\)"),
        (lambda: chsh_forms([[np.inf, 1], [1, 1]]), "infinite"),
        (lambda: classical_bound("cosine"), "cosine"),
        (lambda: classical_bound("product", "complex"), "complex.*sign, real"),
        (lambda: classical_bound("product", "real"), "no bound"),
        (lambda: from_outcomes(ONES * 0.5, ONES), r"\+1 and -1"),
        (lambda: from_moments(np.ones((2, 2)) * 1.1), "none below 0"),
        (lambda: from_strategies(np.ones(16)), "sum to 1"),
        (lambda: from_strategies(np.ones(4) / 4), r"\(4,\)"),
        (lambda: is_local(np.ones((2, 2, 2, 2))), "sum of 4"),
        (lambda: contextuality(np.ones((2, 2, 4)) / 4), r"\(2, 2, 4\)"),
        (lambda: contextual_fraction(pr_box() * np.nan), "finite"),
        (lambda: correlators(pr_box(), "cos"), "cos"),
        (lambda: singlet([0, 1, 2], [0, 1]), r"\(3,\)"),
        (lambda: horodecki(np.eye(3) / 3), r"\(3, 3\)"),
        (lambda: horodecki(np.eye(4)), "trace 1"),
        (lambda: horodecki(np.diag([1.5, -0.5, 0, 0])), "negative"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
