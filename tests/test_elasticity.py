"""Local elasticity against closed forms, single steps and automatic differentiation."""

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, jacrev

from ncutil.neurashed.elasticity import (
    elasticity_matrix,
    local_elasticity,
    tangent_kernel,
)
from ncutil.neurashed.model import Neurashed, add, figure_1

seeds = st.integers(0, 2**31)


def inputs(seed, n, d):
    return np.random.default_rng(seed).normal(size=(n, d))


def seeded(seed, *layers):
    """A net of these layers, with every parameter drawn anew from the seed."""
    net = nn.Sequential(*layers).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / p.shape[-1] ** 0.5)
    return net


def plain(seed, d=5, classes=3):
    return seeded(seed, nn.Linear(d, 7), nn.Tanh(), nn.Linear(7, 6, bias=False), nn.Softplus(), nn.Linear(6, classes))


def convolutional(seed, inplace=False):
    return seeded(
        seed,
        nn.Unflatten(1, (1, 6, 6)),
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(3, 4, 2, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(36, 3),
    )


def mixed(seed):
    """Layers of several kinds: grouped convolution, batch norm, a norm over features, dropout."""
    return seeded(
        seed,
        nn.Unflatten(1, (2, 3, 6)),
        nn.Conv2d(2, 4, 3, padding="same", groups=2),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.LayerNorm(72),
        nn.Linear(72, 3),
    )


class Loose(nn.Module):
    """Parameters outside of layers, and a layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Linear(5, 5)
        self.scale = nn.Parameter(torch.tensor([1.0, -0.5, 2.0]))
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.twice(torch.tanh(self.twice(x))))) * self.scale


class Tied(nn.Module):
    """Two layers with one weight, a layer used twice, nothing else."""

    def __init__(self, again):
        super().__init__()
        self.first, self.second, self.again = nn.Linear(5, 5), nn.Linear(5, 5), again
        if not again:
            self.second.weight = self.first.weight

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        return self.second(torch.tanh(self.first(hidden)) if self.again else hidden)[:, :3]


def by_jacobians(net, X):
    """The tangent kernel from full Jacobians: the definition."""
    net = copy.deepcopy(net).double().eval()
    weights = {name: p.detach() for name, p in net.named_parameters() if p.requires_grad}
    X = torch.as_tensor(X)
    slopes = jacrev(lambda w: functional_call(net, w, (X,)))(weights)
    flat = torch.cat([s.flatten(2) for s in slopes.values()], dim=2)
    return torch.einsum("aip,bjp->abij", flat, flat).numpy()


def by_steps(net, X, y, rate):
    """The matrix of real steps, one base and one test at a time."""
    return np.array([[local_elasticity(net, a, label, b, rate) for b in X] for a, label in zip(X, y, strict=True)])


NETS = {
    "plain": (plain, 5),
    "convolutional": (convolutional, 36),
    "in place": (lambda seed: convolutional(seed, inplace=True), 36),
    "mixed": (mixed, 36),
    "loose": (lambda seed: Loose(), 5),
    "tied": (lambda seed: Tied(again=False), 5),
    "used twice": (lambda seed: Tied(again=True), 5),
    "one layer": (lambda seed: seeded(seed, nn.Linear(5, 3)), 5),
}


# --- closed forms ---------------------------------------------------------------------------------------------------


@given(seeds, st.floats(1e-8, 1e3), st.booleans(), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_linear_layer_gives_leverage_at_any_rate(seed, rate, bias, label):
    x, x_test = inputs(seed, 2, 6)
    layer = seeded(seed, nn.Linear(6, 4, bias=bias))
    expected = abs(x @ x_test + bias) / (x @ x + bias)
    assert local_elasticity(layer, x, label, x_test, rate) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("loss", [nn.functional.mse_loss, nn.functional.l1_loss, nn.functional.cross_entropy])
def test_linear_layer_gives_leverage_for_any_loss_of_the_logits(loss):
    x, x_test = inputs(0, 2, 6)
    label = torch.tensor(2) if loss is nn.functional.cross_entropy else torch.tensor(0.3, dtype=torch.double)

    def scalar(z, y):
        return loss(z, y) if loss is nn.functional.cross_entropy else loss(z, y.expand_as(z))

    expected = abs(x @ x_test + 1) / (x @ x + 1)
    layer = seeded(1, nn.Linear(6, 4))
    assert local_elasticity(layer, x, label, x_test, 0.1, scalar) == pytest.approx(expected, rel=1e-9)


@given(seeds, st.booleans())
@settings(max_examples=25, deadline=None)
def test_matrix_of_a_linear_layer_is_the_leverage_matrix(seed, bias):
    X = inputs(seed, 8, 6)
    gram = X @ X.T + bias
    E = elasticity_matrix(seeded(seed, nn.Linear(6, 4, bias=bias)), X)
    np.testing.assert_allclose(E, abs(gram) / np.diag(gram)[:, None], rtol=1e-9, atol=1e-12)


def test_only_the_last_layer_learning_is_leverage_among_its_features():
    net, X = plain(3), inputs(3, 6, 5)
    for p in net[:-1].parameters():
        p.requires_grad_(False)
    with torch.no_grad():
        features = net[:-1](torch.as_tensor(X)).numpy()
    gram = features @ features.T + 1
    np.testing.assert_allclose(elasticity_matrix(net, X), abs(gram) / np.diag(gram)[:, None], rtol=1e-9)


@pytest.mark.parametrize("kind", NETS)
def test_le_of_an_input_with_itself_is_one(kind):
    make, d = NETS[kind]
    X = inputs(1, 4, d)
    np.testing.assert_allclose(np.diag(elasticity_matrix(make(1), X)), 1, rtol=1e-12)
    assert local_elasticity(make(1).eval(), X[0], 1, X[0], 0.05) == pytest.approx(1, rel=1e-12)


# --- one thing computed in several ways -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETS)
def test_kernel_by_layers_is_the_kernel_by_jacobians(kind):
    make, d = NETS[kind]
    for seed in (0, 1):
        net, X = make(seed), inputs(seed, 5, d)
        np.testing.assert_allclose(tangent_kernel(net, X), by_jacobians(net, X), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("freeze", ["0.weight", "0.bias", "2.weight", "4.weight", "4.bias"])
def test_frozen_parameters_take_no_part(freeze):
    net, X = plain(5), inputs(5, 5, 5)
    whole = tangent_kernel(net, X)
    net.get_parameter(freeze).requires_grad_(False)
    kernel = tangent_kernel(net, X)
    np.testing.assert_allclose(kernel, by_jacobians(net, X), rtol=1e-10, atol=1e-12)
    assert abs(whole - kernel).max() > 1e-3


@pytest.mark.parametrize("kind", NETS)
def test_small_steps_tend_to_the_matrix_of_the_tangent_kernel(kind):
    make, d = NETS[kind]
    net, X, y = make(2).eval(), inputs(2, 4, d), [0, 1, 2, 1]
    limit = elasticity_matrix(net, X, y)
    pair = slice(2)
    np.testing.assert_allclose(by_steps(net, X[pair], y[pair], 1e-8), limit[pair, pair], atol=1e-6)
    for rate in (1e-14, 1e-30):  # a Jacobian-vector product
        np.testing.assert_allclose(by_steps(net, X[pair], y[pair], rate), limit[pair, pair], rtol=1e-9)
    kernel, z = tangent_kernel(net, X), net.double()(torch.as_tensor(X)).detach()
    slope = torch.softmax(z, 1).numpy() - np.eye(3)[y]
    change = np.linalg.norm(np.einsum("abij,ai->abj", kernel, slope), axis=2)
    np.testing.assert_allclose(limit, change / np.diag(change)[:, None], rtol=1e-9)


def test_gap_to_the_limit_falls_with_the_rate():
    net, X, y = plain(4), inputs(4, 5, 5), [0, 1, 2, 1, 0]
    limit = elasticity_matrix(net, X, y)
    gaps = [abs(by_steps(net, X, y, rate) - limit).max() for rate in (1e-2, 1e-3, 1e-4, 1e-5)]
    ratios = np.array(gaps[:-1]) / gaps[1:]
    np.testing.assert_allclose(ratios, 10, rtol=0.2)


def test_single_precision_models_are_treated_in_double():
    net, X, y = plain(6), inputs(6, 4, 5), [0, 1, 2, 1]
    single = copy.deepcopy(net).float()
    limit = elasticity_matrix(single, X, y)
    np.testing.assert_allclose(by_steps(single, X, y, 1e-6), limit, atol=1e-5)
    np.testing.assert_allclose(limit, elasticity_matrix(net, X, y), rtol=1e-4)


@pytest.mark.parametrize("rate", [0.01, 1.0])
def test_one_step_is_a_step_of_gradient_descent(rate):
    net, X = plain(2), torch.as_tensor(inputs(2, 2, 5))
    before = net(X).detach()
    moved = copy.deepcopy(net)
    nn.functional.cross_entropy(moved(X[:1]), torch.tensor([1])).backward()
    torch.optim.SGD(moved.parameters(), lr=rate).step()
    change = (moved(X) - before).norm(dim=1).tolist()
    assert local_elasticity(net, X[0], 1, X[1], rate) == pytest.approx(change[1] / change[0], rel=1e-9)


def test_slopes_may_be_tiny():
    X = inputs(0, 3, 5)
    layer = seeded(0, nn.Linear(5, 3))
    with torch.no_grad():
        layer[0].bias[0] += 500.0
    E = elasticity_matrix(layer, X, [0, 0, 0])
    gram = X @ X.T + 1
    np.testing.assert_allclose(E, abs(gram) / np.diag(gram)[:, None], rtol=1e-9)
    assert local_elasticity(layer, X[0], 0, X[1], 0.1) == pytest.approx(E[0, 1], rel=1e-9)


def test_confident_models_keep_their_digits():
    net, X = plain(7), inputs(7, 4, 5)
    with torch.no_grad():
        net[-1].weight *= 60
    y = net(torch.as_tensor(X)).argmax(1)
    E = elasticity_matrix(net, X, y)
    assert (net(torch.as_tensor(X)).softmax(1).amax(1) > 1 - 1e-6).any()
    np.testing.assert_allclose(by_steps(net, X, y, 1e-7), E, rtol=1e-4, atol=1e-6)


# --- symmetries -----------------------------------------------------------------------------------------------------


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_reordering_inputs_reorders_the_matrix(seed):
    net, X, y = plain(seed), inputs(seed, 6, 5), np.array([0, 1, 2, 0, 1, 2])
    order = np.random.default_rng(seed).permutation(6)
    E = elasticity_matrix(net, X, y)
    np.testing.assert_allclose(elasticity_matrix(net, X[order], y[order]), E[np.ix_(order, order)], rtol=1e-9)


def test_many_bases_are_the_same_as_few():
    net, X = plain(8), inputs(8, 300, 5)
    y = np.arange(300) % 3
    E = elasticity_matrix(net, X, y)
    np.testing.assert_allclose(E[250:, 250:], elasticity_matrix(net, X[250:], y[250:]), rtol=1e-9)


def test_labels_default_to_the_predicted_classes():
    net, X = plain(9), inputs(9, 6, 5)
    predicted = net(torch.as_tensor(X)).argmax(1)
    np.testing.assert_array_equal(elasticity_matrix(net, X), elasticity_matrix(net, X, predicted))
    assert abs(elasticity_matrix(net, X) - elasticity_matrix(net, X, (predicted + 1) % 3)).max() > 1e-3


def test_model_is_left_as_it_was():
    net = mixed(0).float().train()
    before = copy.deepcopy(net.state_dict())
    X = inputs(0, 3, 36)
    elasticity_matrix(net, X)
    tangent_kernel(net, X)
    local_elasticity(net, X[0], 0, X[1], 0.1)
    assert net.training
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert all(p.dtype == torch.float32 and p.grad is None for p in net.parameters())


def test_works_under_no_grad():
    net, X = plain(1), inputs(1, 3, 5)
    with torch.no_grad():
        inside = elasticity_matrix(net, X), local_elasticity(net, X[0], 0, X[1], 0.1)
    np.testing.assert_array_equal(inside[0], elasticity_matrix(net, X))
    assert inside[1] == local_elasticity(net, X[0], 0, X[1], 0.1)


def test_kernel_is_symmetric_and_positive():
    net, X = convolutional(3), inputs(3, 6, 36)
    kernel = tangent_kernel(net, X)
    np.testing.assert_allclose(kernel, kernel.transpose(1, 0, 3, 2), rtol=1e-12)
    assert np.linalg.eigvalsh(kernel.transpose(0, 2, 1, 3).reshape(18, 18)).min() > -1e-9


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": np.zeros(4)}, r"one shape; got \(5,\) and \(4,\)"),
        ({"x": np.full(5, np.nan)}, "x has 5 values that are not finite"),
        ({"rate": 0.0}, "rate must be positive; got 0"),
        ({"rate": np.inf}, "rate must be positive; got inf"),
        ({"y": 3}, r"from 0 to 2; got \[3\]"),
        ({"y": -1}, r"from 0 to 2; got \[-1\]"),
        ({"y": 0.5}, "whole numbers"),
        ({"y": [0]}, r"label of one input; got shape \(1,\)"),
        ({"loss": lambda z, y: (0 * z).sum()}, "does not move the base's own logits"),
    ],
)
def test_bad_steps_are_refused(change, message):
    arguments = {"x": np.ones(5), "y": 0, "x_test": np.zeros(5), "rate": 0.1} | change
    with pytest.raises(ValueError, match=message):
        local_elasticity(plain(0), **arguments)


def test_bad_batches_are_refused():
    net, X = plain(0), inputs(0, 3, 5)
    for call in (elasticity_matrix, tangent_kernel):
        with pytest.raises(ValueError, match=r"X must be a batch of inputs.*got shape \(5,\)"):
            call(net, X[0])
        with pytest.raises(ValueError, match=r"got shape \(0, 5\)"):
            call(net, X[:0])
        with pytest.raises(ValueError, match="X has 1 values that are not finite"):
            call(net, np.where(np.eye(3, 5) * [1, 0, 0, 0, 0] > 0, np.inf, X))
        with pytest.raises(ValueError, match="no trainable parameters"):
            call(copy.deepcopy(net).requires_grad_(False), X)
        with pytest.raises(ValueError, match=r"shape \(3, classes\) for 3 inputs; got \(9,\)"):
            call(nn.Sequential(net, nn.Flatten(0)), X)
    with pytest.raises(ValueError, match=r"one label for each of the 3 inputs; got shape \(2,\)"):
        elasticity_matrix(net, X, [0, 1])
    with pytest.raises(ValueError, match=r"from 0 to 2; got \[0, 1, 3\]"):
        elasticity_matrix(net, X, [0, 1, 3])
    with pytest.raises(ValueError, match=r"not defined, in rows \[0, 1, 2\]"):
        elasticity_matrix(nn.Linear(5, 3, bias=False), np.zeros((3, 5)))


# --- neurashed ------------------------------------------------------------------------------------------------------


def test_graph_of_figure_1_has_what_the_text_says():
    model, inputs = figure_1(1.0)
    paths = model.pathway(np.array([*inputs.values()]))
    assert [len(level) for level in model.levels][-1] == 3
    assert len(model.levels) == 4
    shared = (paths @ paths.astype(int).T)[0] / paths.sum(1)  # share of a kind's pathway that lies on that of 1a
    assert 1 == shared[0] > shared[1] > 0.8 > shared[2] > shared[3] == 0
    trained = model.train(np.tile(np.arange(4), 20)[:, None], add(1), add(0), inputs=np.array([*inputs.values()]))
    updated = trained.update(paths[0], add(1), add(0))
    x = np.array([*inputs.values()])
    moved = np.linalg.norm(updated.logits(x) - trained.logits(x), axis=1)
    assert moved[1] > moved[2] > moved[3] == 0


def layered(levels, classes, shared, own):
    """The graph of theorems 1 and 2 without collisions, and an input of each class."""
    drawn = [
        [
            frozenset([*(f"{k}s{i}" for i in range(shared)), *(f"{k}c{j}.{i}" for i in range(own))])
            for j in range(classes)
        ]
        for k in range(levels)
    ]
    drawn.append([frozenset([f"class {j}"]) for j in range(classes)])
    edges, rules = set(), {}
    for low, high in pairwise(drawn):
        for node in frozenset().union(*high):
            paths = [path for path, above in zip(low, high, strict=True) if node in above]
            edges |= {(name, node) for path in paths for name in path}
            # Shared nodes fire if any dependent does, a class's nodes on their own class's pathway only.
            rules[node] = "any" if len(paths) == classes > 1 else frozenset(paths)
    model = Neurashed([sorted(frozenset().union(*names)) for names in drawn], edges, rules)
    return model, np.array([model.input(*names) for names in drawn[0]])


def one_more(model, x, t, c, edge_rules=None):
    """Change of the first and of the second class's logit after t samples a class and one more of the first."""
    order = np.tile(np.arange(len(x)), t)[:, None]
    trained = model.train(order, add(c), add(0), inputs=x, edge_rules=edge_rules)
    updated = trained.update(model.pathway(x[0]), add(c), add(0), edge_rules=edge_rules)
    return np.diag(updated.logits(x) - trained.logits(x))[:2]


@given(
    st.integers(1, 5), st.integers(2, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.floats(0.01, 3)
)
@settings(max_examples=40, deadline=None)
def test_changes_of_theorem_1_before_the_limit(levels, classes, shared, own, t, c):
    model, x = layered(levels, classes, shared, own)
    u = t * (own + classes * shared)
    expected = (u + shared + own) ** levels - u**levels, (u + shared) ** levels - u**levels
    np.testing.assert_allclose(one_more(model, x, t, c), c**levels * np.array(expected), rtol=1e-9)


@pytest.mark.parametrize(("edges", "limit"), [(None, 2.5), ((add(2), add(0)), 4.75)])
def test_limits_of_theorem_1_with_fixed_and_with_trained_edges(edges, limit):
    model, x = layered(2, 3, 2, 3)
    if edges:
        model = replace(model, weights=0.0)
    own, other = one_more(model, x, 2000, 2.0, edges)
    assert own / other == pytest.approx(limit, rel=1e-3)


def test_depth_of_theorem_2_takes_the_ratio_past_the_limit():
    ratios = []
    for t in (2, 4, 8):
        model, x = layered(t**2, 3, 2, 3)
        own, other = one_more(model, x, t, 1 / (9 * t))
        ratios.append(own / other / 2.5)
    u = 72
    exact = ((u + 5) ** 64 - u**64) / ((u + 2) ** 64 - u**64) / 2.5
    assert ratios[-1] == pytest.approx(exact, rel=1e-9)
    assert ratios[2] > 2 * ratios[1] > 2 * ratios[0]


@given(st.tuples(*[st.integers(1, 30)] * 3), st.floats(0.1, 3), seeds)
@settings(max_examples=25, deadline=None)
def test_three_class_example(counts, a, seed):
    below = {"1": range(7), "2": range(2, 9), "3": (2, 3, 9)}  # 9 is F
    edges = [(f"n{low}", f"m{j}") for j, part in below.items() for low in part] + [
        (f"m{j}", f"class {j}") for j in below
    ]
    levels = [[f"n{k}" for k in range(10)], [f"m{j}" for j in below], [f"class {j}" for j in below]]
    model = Neurashed(levels, edges, "all")
    x = np.array([model.input(*(f"n{k}" for k in part)) for part in below.values()])
    order = np.random.default_rng(seed).permutation(np.repeat(np.arange(3), counts))[:, None]
    before = model.train(order, add(a), add(0), inputs=x)
    after = before.train([[0]], add(a), add(0), inputs=x)

    n1, n2, n3 = counts
    logits = [
        a**2 * n1 * (7 * n1 + 5 * n2 + 2 * n3),
        a**2 * n2 * (5 * n1 + 7 * n2 + 2 * n3),
        2 * a**2 * n3 * (n1 + n2 + n3) + a * n3 * (a * n3),
    ]
    changes = [7 * a**2 * n1 + a**2 * (7 * n1 + 5 * n2 + 2 * n3 + 7), 5 * a**2 * n2, 2 * a**2 * n3]
    np.testing.assert_allclose(before.logits(x), np.diag(logits), rtol=1e-9)
    np.testing.assert_allclose(np.diag(after.logits(x) - before.logits(x)), changes, rtol=1e-7)
