"""Neurashed: closed forms on any batch sequence, random graphs against a plain reading of the definitions, refusals."""

import math
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ncutil.evidence import figures
from ncutil.neurashed.model import (
    FIGURE_1,
    Neurashed,
    add,
    figure_1,
    from_text,
    multiply,
)

seeds = st.integers(0, 2**31)
relaxed = settings(deadline=None, max_examples=50)


def random_model(seed, runs=()):
    """A random graph of three or four levels with rules of every form, and two classes told apart by an input node."""
    rng = np.random.default_rng(seed)
    sizes = [int(n) for n in rng.integers(2, 6, size=rng.integers(2, 4))]
    levels = [[f"{'abc'[i]}{j}" for j in range(n)] for i, n in enumerate(sizes)]
    edges, rules = [], {}
    for low, high in pairwise(levels):
        for node in high:
            below = [name for name in low if rng.random() < 0.6]
            edges += [(name, node) for name in below]
            n = len(below)
            if n:
                table = tuple(int(v) for v in rng.integers(2, size=2**n))
                sets = frozenset(
                    frozenset(name for name in below if rng.random() < 0.5) for _ in range(rng.integers(1, 4))
                )
                rules[node] = [("any"), ("all"), int(rng.integers(1, n + 1)), table, sets][rng.integers(5)]
    # "off" is "on" turned round, carried up the levels: exactly one class fires at any input.
    for i, level in enumerate(levels):
        level.append(f"on{i}")
        if i:
            edges.append((f"on{i - 1}", f"on{i}"))
            rules[f"on{i}"] = "any"
    top = len(levels) - 1
    levels.append(["yes", "no"])
    edges += [(f"on{top}", "yes"), (f"on{top}", "no")]
    rules |= {"yes": (0, 1), "no": (1, 0)}
    hidden = sum(map(len, levels[:-1]))
    factors = rng.uniform(0.1, 2, size=(*runs, hidden))
    return Neurashed(levels, edges, rules, factors, rng.uniform(0.1, 2, (len(levels[-2]), 2))), rng


def dependents(model, name):
    """The nodes that a node depends on, in the order of their level."""
    return tuple(lower for lower in model.names if (lower, name) in model.edges)


def fires(rule, below, on):
    """A rule as its definition says, for the set of nodes that are on."""
    firing = [name for name in below if name in on]
    if not below:
        return False
    if rule == "any":
        return len(firing) > 0
    if rule == "all":
        return len(firing) == len(below)
    if isinstance(rule, int):
        return len(firing) >= rule
    if isinstance(rule, frozenset):
        return frozenset(firing) in rule
    return bool(rule[[*product((0, 1), repeat=len(below))].index(tuple(int(name in on) for name in below))])


@relaxed
@given(seed=seeds)
def test_pathway_is_what_the_rules_say(seed):
    model, rng = random_model(seed)
    x = rng.integers(2, size=(5, len(model.levels[0])))
    for row, path in zip(x, model.pathway(x), strict=True):
        on = {name for name, value in zip(model.levels[0], row, strict=True) if value}
        for level in model.levels[1:]:
            on |= {n for n in level if fires(model.rules.get(n, "any"), dependents(model, n), on)}
        assert {name for name, value in zip(model.names, path, strict=True) if value} == on


@relaxed
@given(seed=seeds)
def test_scores_and_logits_are_what_the_definition_says(seed):
    model, rng = random_model(seed)
    x = rng.integers(2, size=len(model.levels[0]))
    path = dict(zip(model.names, model.pathway(x), strict=True))
    factor = dict(zip(model.names, model.factors, strict=False))
    score = {}
    for i, level in enumerate(model.levels[:-1]):
        for name in level:
            received = 1.0 if i == 0 else sum(score[low] for low in dependents(model, name))
            score[name] = factor[name] * received if path[name] else 0.0
    assert model.scores(x) == pytest.approx([score[name] for name in model.names[: model.hidden]])
    assert not model.scores(x)[~model.pathway(x)[: model.hidden]].any()
    z = [
        sum(model.weights[model.levels[-2].index(low), j] * score[low] for low in dependents(model, name))
        for j, name in enumerate(model.levels[-1])
    ]
    assert model.logits(x) == pytest.approx(z)
    assert model.probabilities(x) == pytest.approx(np.exp(z - np.max(z)) / np.exp(z - np.max(z)).sum())


@relaxed
@given(seed=seeds)
def test_permuting_nodes_permutes_everything(seed):
    model, rng = random_model(seed)
    x = rng.integers(2, size=(4, len(model.levels[0])))
    batches = rng.integers(4, size=(6, 2))
    orders = [rng.permutation(len(level)) for level in model.levels]
    levels = [[level[i] for i in order] for level, order in zip(model.levels, orders, strict=True)]
    # A table is written in the order of the dependent nodes: carry it over as the sets that fire the node.
    rules = {
        name: frozenset(
            frozenset(n for n, v in zip(dependents(model, name), pattern, strict=True) if v)
            for pattern, value in zip(product((0, 1), repeat=len(dependents(model, name))), rule, strict=True)
            if value
        )
        if isinstance(rule, tuple)
        else rule
        for name, rule in model.rules.items()
    }
    factor = dict(zip(model.names, model.factors, strict=False))
    factors = [factor[name] for level in levels[:-1] for name in level]
    weights = model.weights[np.ix_(orders[-2], orders[-1])]
    other = Neurashed(levels, rng.permutation(np.array(model.edges)).tolist(), rules, factors, weights)
    y = x[:, orders[0]]
    where = [model.names.index(name) for name in other.names]
    hidden = where[: other.hidden]
    assert (other.pathway(y) == model.pathway(x)[:, where]).all()
    assert other.scores(y) == pytest.approx(model.scores(x)[:, hidden])
    assert other.logits(y) == pytest.approx(model.logits(x)[:, orders[-1]])
    rules = multiply(1.3), multiply(0.8)
    trained = other.train(batches, *rules, inputs=y, edge_rules=rules)
    expected = model.train(batches, *rules, inputs=x, edge_rules=rules)
    assert trained.factors == pytest.approx(expected.factors[hidden])
    assert trained.weights == pytest.approx(expected.weights[np.ix_(orders[-2], orders[-1])])


@relaxed
@given(
    seed=seeds,
    steps=st.integers(0, 40),
    size=st.integers(1, 5),
    a=st.floats(1.001, 3),
    b=st.floats(0.01, 1),
)
def test_log_factors_are_a_count_on_any_batch_sequence(seed, steps, size, a, b):
    model, rng = random_model(seed, runs=(3,))
    inputs = rng.integers(2, size=(4, len(model.levels[0])))
    batches = rng.integers(4, size=(steps, 3, size))
    trained = model.train(batches, multiply(a), multiply(b), inputs=inputs)
    n = np.zeros((3, model.hidden))
    for batch, run in product(range(steps), range(3)):
        n[run] += model.pathway(inputs[batches[batch, run]]).any(0)[: model.hidden]
    expected = np.log(model.factors) + n * math.log(a) + (steps - n) * math.log(b)
    assert np.log(trained.factors) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert trained.weights == pytest.approx(model.weights)


@relaxed
@given(seed=seeds, steps=st.integers(1, 20), c=st.floats(0.01, 2), b=st.floats(0, 1))
def test_factors_stay_nonnegative_and_additive_growth_counts(seed, steps, c, b):
    model, rng = random_model(seed)
    model = replace(model, factors=0.0, weights=0.0)
    inputs = rng.integers(2, size=(3, len(model.levels[0])))
    batches = rng.integers(3, size=(steps, 1))
    n = model.pathway(inputs)[batches[:, 0]].sum(0)[: model.hidden]
    kept = model.train(batches, add(c), add(0), inputs=inputs)
    assert kept.factors == pytest.approx(c * n)
    fading = model.train(batches, add(c), multiply(b), inputs=inputs, edge_rules=(add(c), multiply(b)))
    assert (fading.factors >= 0).all()
    assert (fading.factors <= kept.factors + 1e-12).all()
    assert (fading.weights >= 0).all()


def test_last_edges_grow_where_both_ends_are_in_the_batch():
    model, inputs = figure_1(1.0)
    trained = model.train([[0]], multiply(2), multiply(0.5), inputs=[inputs["2"]], edge_rules=(add(1), multiply(0.5)))
    table = {(low, high): trained.weights[int(low[1]) - 1, int(high[1]) - 1] for low, high in model.edges[-6:]}
    assert table == {
        ("c1", "y1"): 0.5,
        ("c2", "y1"): 0.5,
        ("c2", "y2"): 2,
        ("c3", "y2"): 2,
        ("c4", "y3"): 0.5,
        ("c5", "y3"): 0.5,
    }
    assert np.count_nonzero(trained.weights) == 6


def test_union_of_a_batch_fires():
    model, inputs = figure_1(1.0)
    x = np.array([*inputs.values()])
    both = model.train([[0, 3]], multiply(2), multiply(0.5), inputs=x).factors
    union = model.pathway(x[[0, 3]]).any(0)[: model.hidden]
    assert both.tolist() == np.where(union, 2, 0.5).tolist()
    # The inputs themselves, without a table of kinds, and step by step.
    assert (model.train([x[[0, 3]]], multiply(2), multiply(0.5)).factors == both).all()
    fired = model.pathway(x[[0, 3]]).any(0)
    assert (model.update(fired, multiply(2), multiply(0.5)).factors == both).all()


@settings(deadline=None, max_examples=20)
@given(q=st.floats(0.05, 0.95), size=st.sampled_from([1, 2, 4, 8]))
def test_growth_rate_is_the_formula_of_frequency_and_batch(q, size):
    model = from_text("y1 any a1 a2", factors=1.0)
    inputs = [model.input("a1"), model.input("a1", "a2")]
    rng = np.random.default_rng([int(q * 1000), size])
    batches = (rng.random((400, 50, size)) < q).astype(int)
    a, b = 1.05, 0.97
    rate = np.log(model.train(batches, multiply(a), multiply(b), inputs=inputs).factors[:, 1]) / 400
    expected = math.log(a) - (1 - q) ** size * math.log(a / b)
    spread = math.log(a / b) * math.sqrt((1 - q) ** size * (1 - (1 - q) ** size) / (400 * 50))
    assert abs(rate.mean() - expected) < 5 * (spread + math.log(a / b) / (400 * 50))


def test_runs_are_independent_of_each_other():
    model, inputs = figure_1(1.0)
    x = np.array([*inputs.values()])
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 0.01, (5, model.hidden))
    batches = rng.integers(4, size=(30, 5, 2))
    rates = model.per_node(1.1, {"b3": 1.02})
    together = replace(model, factors=start).train(batches, multiply(rates), multiply(0.9), inputs=x)
    for run in range(5):
        alone = replace(model, factors=start[run]).train(batches[:, run], multiply(rates), multiply(0.9), inputs=x)
        assert (alone.factors == together.factors[run]).all()


def test_record_keeps_the_states_asked_for():
    model, inputs = figure_1(1.0)
    x = np.array([*inputs.values()])
    batches = np.random.default_rng(0).integers(4, size=(20, 3, 1))
    rules = multiply(1.1), multiply(0.9)
    states = model.train(batches, *rules, inputs=x, record=[0, 7, 20], edge_rules=rules)
    assert states.factors.shape == (3, 3, model.hidden)
    assert states.weights.shape[:2] == (3, 3)
    for i, steps in enumerate((0, 7, 20)):
        upto = model.train(batches[:steps], *rules, inputs=x, edge_rules=rules)
        assert np.broadcast_to(upto.factors, states.factors[i].shape) == pytest.approx(states.factors[i])
        assert np.broadcast_to(upto.weights, states.weights[i].shape) == pytest.approx(states.weights[i])
    assert states.logits(x[:, None, None]).shape == (4, 3, 3, 3)


def test_rules_may_be_random_and_depend_on_the_step():
    model, inputs = figure_1(1.0)
    rng = np.random.default_rng(0)
    seen = []

    def grow(x, step):
        seen.append(step)
        return x * rng.uniform(1.01, 1.2, x.shape)

    trained = model.train([[0], [0]], grow, multiply(1), inputs=[inputs["3"]])
    on = model.pathway(inputs["3"])[: model.hidden]
    assert len(set(trained.factors[on])) == on.sum()
    assert (trained.factors[~on] == 1).all()
    assert seen[-2:] == [0, 1]


def test_graph_of_figure_1_is_as_the_text_says():
    model, inputs = figure_1()
    paths = {kind: set(np.array(model.names)[model.pathway(x)]) for kind, x in inputs.items()}
    assert len(model.levels) == 4
    assert len(model.levels[-1]) == 3
    assert dependents(model, "b1") == ("a1", "a2", "a3")  # the leftmost of the second level, of the three leftmost
    assert [max(path) for path in paths.values()] == ["y1", "y1", "y2", "y3"]
    shared = [len(paths["1a"] & paths[kind]) for kind in ("1b", "2", "3")]
    assert shared[0] > shared[1] > shared[2] == 0
    assert from_text(FIGURE_1).edges == model.edges


ONE = {"levels": [["a", "b"], ["c"], ["y", "z"]], "edges": [("a", "c"), ("b", "c"), ("c", "y"), ("c", "z")]}
GOOD = {"c": "all", "y": (0, 1), "z": (1, 0)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edges": [("a", "y")]}, "'a', 'y'.*level 1 to level 3"),
        ({"edges": [("c", "a")]}, "'c', 'a'.*level 2 to level 1"),
        ({"edges": [("a", "q")]}, "unknown node 'q'"),
        ({"levels": [["a", "b"], ["a"], ["y"]]}, "node 'a' stands twice"),
        ({"levels": [["a"]]}, "at least two levels"),
        ({"levels": [["a"], []]}, "at least two levels"),
        ({"rules": {"c": "all", "y": "any"}}, "node 'z' has dependent nodes but no rule"),
        ({"rules": GOOD | {"a": "any"}}, "'a', which is no node above"),
        ({"rules": GOOD | {"c": 3}}, "node 'c': 'at least 3' of its 2"),
        ({"rules": GOOD | {"c": 0}}, "node 'c': 'at least 0'"),
        ({"rules": GOOD | {"c": (0, 1)}}, "node 'c' has 2 dependent nodes.*4 entries"),
        ({"rules": GOOD | {"c": (0, 1, 1, 2)}}, "node 'c' has 2 dependent nodes"),
        ({"rules": GOOD | {"c": "most"}}, "node 'c': unknown rule 'most'"),
        ({"rules": GOOD | {"c": 1.5}}, "node 'c': unknown rule"),
        ({"rules": GOOD | {"c": frozenset({frozenset("q")})}}, "rule of node 'c' names 'q'"),
        ({"edges": ONE["edges"][2:], "rules": GOOD}, "node 'c' has no dependent nodes"),
        ({"factors": [1, -1, 1]}, "factor of node 'b' is -1"),
        ({"factors": [[1, 1, 1], [1, 1, float("nan")]]}, "factor of node 'c' is nan"),
        ({"factors": [1, 1]}, r"shape \(\.\.\., 3\)"),
        ({"weights": [1, 2]}, "weights"),
        ({"weights": -1.0}, "weights"),
    ],
)
def test_malformed_models_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        Neurashed(**(ONE | {"rules": GOOD} | changes))


def test_inputs_are_refused():
    model = Neurashed(**ONE, rules=GOOD)
    for x in ([1], [[1, 0, 1]], [0.5, 1], 1, [float("nan"), 1]):
        with pytest.raises(ValueError, match="0 or 1 for each of 2"):
            model.pathway(x)
    none = replace(model, rules=GOOD | {"z": (0, 1), "y": (0, 1)})
    with pytest.raises(ValueError, match=r"input .* fires none of y, z"):
        none.pathway([[1, 1], [0, 1]][1:])
    with pytest.raises(ValueError, match=r"input \(a, b\) fires y and z"):
        none.pathway([1, 1])
    with pytest.raises(ValueError, match="'q' is no node of the first level"):
        model.input("q")
    with pytest.raises(ValueError, match="'y' is no node below"):
        model.per_node(1, {"y": 1})


@pytest.mark.parametrize(
    ("grow", "decay", "factors", "message"),
    [
        (multiply(1.0), multiply(0.5), 1.0, "node 'a': the growth rule"),
        (lambda x, step: np.where(x < 3, x + 1, x), multiply(0.5), 1.0, r"growth rule takes 10 to 10"),
        (multiply(1.1), multiply(1.2), 1.0, "node 'a': the decay rule"),
        (multiply(1.1), multiply(-0.1), 1.0, "decay rule"),
        (multiply(1.1), add(-0.01), 1.0, "decay rule"),
        (multiply(1.1), multiply(0.5), [1, 0, 1], "node 'b': the growth rule takes 0 to 0"),
        (multiply([1.1, 1.1, 0.9]), multiply(0.5), 1.0, "node 'c': the growth rule"),
        (lambda x, step: x * (1.1 if step < 2 else 0.9), multiply(0.5), 1.0, r"growth.*step 2"),
        (lambda x, step: x + np.nan, multiply(0.5), 1.0, "growth rule takes .* to nan"),
    ],
)
def test_update_rules_that_break_their_promise_are_refused_by_name(grow, decay, factors, message):
    model = Neurashed(**ONE, rules=GOOD, factors=factors)
    with pytest.raises(ValueError, match=message):
        model.train(np.zeros((4, 1), int), grow, decay, inputs=[[1, 1]])


def test_factors_that_overflow_or_vanish_are_refused():
    model = Neurashed(**ONE, rules=GOOD, factors=1.0)
    with pytest.raises(ValueError, match="growth rule takes inf to inf"), np.errstate(over="ignore"):
        model.train(np.zeros((9, 1), int), multiply(1e60), multiply(0.5), inputs=[[1, 1]])
    with pytest.raises(ValueError, match="growth rule takes 0 to 0"):
        model.train(np.array([[0]] * 9 + [[1]]), multiply(2), multiply(1e-60), inputs=[[0, 0], [1, 1]])


@pytest.mark.parametrize(
    ("batches", "extra", "message"),
    [
        ([[2]], {}, "names input 2"),
        ([[-1]], {}, "names input"),
        ([[0.0]], {}, "whole numbers"),
        ([0], {}, "whole numbers"),
        ([np.zeros(0, int)], {}, "at least one input"),
        ([[0]], {"record": [2]}, "record asks for step 2"),
        ([[0]], {"record": [1, 1]}, "increasing"),
        ([[0]], {"record": []}, "increasing"),
    ],
)
def test_bad_batches_are_refused(batches, extra, message):
    model = Neurashed(**ONE, rules=GOOD, factors=1.0)
    with pytest.raises(ValueError, match=message):
        model.train(batches, multiply(1.1), multiply(0.9), inputs=[[1, 1], [0, 1]], **extra)


@pytest.mark.parametrize("text", ["b1 any", "b any a1", "b1 any a1\ny1 some b1", "b1 any a-1"])
def test_text_of_another_form_is_refused(text):
    with pytest.raises(ValueError, match=r"expected a node|unknown rule"):
        from_text(text)


@given(seed=seeds)
@settings(deadline=None, max_examples=5)
def test_drawing_shows_levels_firing_nodes_and_sizes(seed):
    import matplotlib.pyplot as plt

    model, rng = random_model(seed)
    x = rng.integers(2, size=len(model.levels[0]))
    path = model.pathway(x)
    _, ax = plt.subplots()
    figures.graph(model.levels, model.edges, firing=path, sizes=model.factors, labels=True, title="t", ax=ax)
    assert len(ax.collections) == len(model.names)
    assert len(ax.lines) == len(model.edges)
    heights = [c.get_offsets()[0][1] for c in ax.collections]
    assert heights == [float(i) for i, level in enumerate(model.levels) for _ in level]
    # Firing nodes differ in shape (four corners) and in colour.
    corners = [len(c.get_paths()[0].vertices) for c in ax.collections]
    assert [n < 8 for n in corners] == path.tolist()
    area = np.array([c.get_sizes()[0] for c in ax.collections[: model.hidden]])
    assume(model.factors.min() > 0.05 * model.factors.max())
    assert area / area.max() == pytest.approx(model.factors / model.factors.max())
    assert [t.get_text() for t in ax.texts] == list(model.names)
    with pytest.raises(ValueError, match="one per node below"):
        figures.graph(model.levels, model.edges, sizes=[1.0], ax=ax)
    plt.close("all")
