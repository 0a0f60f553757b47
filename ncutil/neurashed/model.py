"""Neurashed: a graph of features whose amplification factors grow when training uses them, after Su (2024).

A graph has levels of nodes. A node of the first level fires if its input does; every other node fires by a Boolean rule
of the nodes it depends on, one level below; exactly one node of the last level fires, the label. What fires is the
input's feature pathway. Every node below the last level has an amplification factor. Training multiplies the
factors on the pathways of its inputs, or adds to them. Explained in the chapter on implicit regularization.

A model with two classes; the factors may have leading axes, one entry per run:

>>> model = Neurashed(
...     levels=[["ear", "tail", "wheel"], ["animal", "car"], ["cat", "bus"]],
...     edges=[("ear", "animal"), ("tail", "animal"), ("wheel", "car"), ("animal", "cat"), ("car", "bus")],
...     rules="any",
...     factors=np.full((4, 5), 0.5),  # 4 runs, 5 nodes below the last level
... )
>>> inputs = np.array([model.input("ear", "tail"), model.input("wheel")])
>>> batches = np.random.default_rng(0).integers(2, size=(100, 4, 1))  # steps, runs, batch
>>> trained = model.train(batches, multiply(1.1), multiply(0.9), inputs=inputs)
>>> trained.logits(inputs[:, None]).shape  # every input in every run
(2, 4, 2)
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby, pairwise, product
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
FiringRule = str | int | Sequence[int] | frozenset[frozenset[str]]
UpdateRule = Callable[[Floats, int], Floats]
EdgeRules = tuple[UpdateRule, UpdateRule] | None


def multiply(rate: ArrayLike) -> UpdateRule:
    """The update rule x -> rate * x, with a number or one per node (`per_node`); g+ above 1, g- in [0, 1]."""
    rates = np.asarray(rate, float)
    return lambda x, step: rates * x


def add(amount: ArrayLike) -> UpdateRule:
    """The update rule x -> x + amount: g+ for an amount above 0, g- (nothing is forgotten) for `add(0)`."""
    amounts = np.asarray(amount, float)
    return lambda x, step: x + amounts


@dataclass(frozen=True, eq=False)
class Neurashed:
    """A neurashed model (Su, section 2): graph, firing rules, and the state that training changes.

    A malformed graph, rule, factor or weight raises a ValueError that names the node.

    - levels : unique names of the nodes, bottom level first; the last level holds the classes
    - edges : pairs (lower, upper) of neighbouring levels: upper depends on lower
    - rules : a rule for all nodes above the first level, or one for each by name: when a node fires, given its
      dependent nodes below. "any"; "all"; a number k, for at least k of them; a table of 2^n entries 0 or 1, as
      `itertools.product((0, 1), repeat=n)` over its n dependent nodes in the order of their level; or a frozenset of
      frozensets of names: the node fires when exactly one of these sets does. A node without dependent nodes never
      fires and needs no rule.
    - factors : lambda >= 0, (..., nodes below the last level) in the order of `names`, or a number; leading axes are
      runs
    - weights : eta >= 0 of the edges into the last level, (..., nodes of the level before, classes), or a number
      Entries without an edge are set to 0.
    """

    levels: Sequence[Sequence[str]]
    edges: Iterable[tuple[str, str]]
    rules: FiringRule | Mapping[str, FiringRule]
    factors: Any = 0.0
    weights: Any = 1.0
    names: tuple[str, ...] = field(init=False, repr=False)
    """All nodes, bottom level first."""
    hidden: int = field(init=False, repr=False)
    """How many nodes lie below the last level: the length of the factors' last axis."""
    _links: tuple[Floats, ...] = field(init=False, repr=False)
    _thresholds: tuple[Floats, ...] = field(init=False, repr=False)
    _tables: tuple[list[tuple[int, NDArray[np.intp], Bools]], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        levels = tuple(tuple(map(str, level)) for level in self.levels)
        if len(levels) < 2 or not all(levels):
            raise ValueError(f"a model needs at least two levels, each with a node; got sizes {[*map(len, levels)]}")
        names = tuple(chain.from_iterable(levels))
        place = {name: (i, j) for i, level in enumerate(levels) for j, name in enumerate(level)}
        if len(place) != len(names):
            raise ValueError(f"node {next(n for n in names if names.count(n) > 1)!r} stands twice")
        edges = tuple((str(low), str(high)) for low, high in self.edges)
        links = tuple(np.zeros((len(low), len(high))) for low, high in pairwise(levels))
        for edge in edges:
            if unknown := [name for name in edge if name not in place]:
                raise ValueError(f"edge {edge}: unknown node {unknown[0]!r}")
            (level, row), (above, column) = map(place.__getitem__, edge)
            if above != level + 1:
                raise ValueError(
                    f"edge {edge} goes from level {level + 1} to level {above + 1}; an edge goes up one level"
                )
            links[level][row, column] = 1
        self._set(levels=levels, edges=edges, names=names, hidden=len(names) - len(levels[-1]), _links=links)
        self._set_rules()
        self._set_state()

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _set_rules(self) -> None:
        upper = self.names[len(self.levels[0]) :]
        rules = self.rules if isinstance(self.rules, Mapping) else dict.fromkeys(upper, self.rules)
        if unknown := [name for name in rules if name not in upper]:
            raise ValueError(f"rule for {unknown[0]!r}, which is no node above the first level")
        thresholds = tuple(np.full(len(level), np.inf) for level in self.levels[1:])
        tables: tuple[list[Any], ...] = tuple([] for _ in thresholds)
        for level, (low, high) in enumerate(pairwise(self.levels)):
            for column, name in enumerate(high):
                below = np.flatnonzero(self._links[level][:, column])
                if len(below) == 0 and rules.get(name, "any") == "any":
                    continue
                if name not in rules:
                    raise ValueError(f"node {name!r} has dependent nodes but no rule")
                parsed = _parse_rule(rules[name], name, [low[i] for i in below.tolist()])
                if isinstance(parsed, int):
                    thresholds[level][column] = parsed
                else:
                    tables[level].append((column, below, parsed))
        self._set(_thresholds=thresholds, _tables=tables)

    def _set_state(self) -> None:
        factors, weights, link = np.asarray(self.factors, float), np.asarray(self.weights, float), self._links[-1]
        if factors.ndim == 0:
            factors = np.full(self.hidden, factors)
        if factors.shape[-1] != self.hidden:
            raise ValueError(f"factors must have shape (..., {self.hidden}), a node each; got {factors.shape}")
        good = (factors >= 0) & (factors < np.inf)
        if not good.all():
            where = tuple(np.argwhere(~good)[0])
            raise ValueError(f"factor of node {self.names[where[-1]]!r} is {factors[where]}; expected >= 0")
        if weights.ndim and weights.shape[-2:] != link.shape:
            raise ValueError(f"weights must be a number or have shape (..., {link.shape}); got {weights.shape}")
        if not ((weights >= 0) & (weights < np.inf)).all():
            raise ValueError("weights of the edges into the last level must be finite and >= 0")
        self._set(factors=factors, weights=weights * link)

    def input(self, *names: str) -> Bools:
        """The input at which exactly the named nodes of the first level fire, shape (first-level nodes,)."""
        if unknown := [name for name in names if name not in self.levels[0]]:
            raise ValueError(f"{unknown[0]!r} is no node of the first level; known: {', '.join(self.levels[0])}")
        return np.array([name in names for name in self.levels[0]])

    def per_node(self, default: float, named: Mapping[str, float]) -> Floats:
        """One number per node below the last level: `default`, but for the named ones."""
        if unknown := [name for name in named if name not in self.names[: self.hidden]]:
            raise ValueError(f"{unknown[0]!r} is no node below the last level")
        return np.array([named.get(name, default) for name in self.names[: self.hidden]], float)

    def pathway(self, x: ArrayLike) -> Bools:
        """Feature pathway of inputs: which nodes fire, shape (..., nodes), in the order of `names`.

        `x` is 0 or 1 for each node of the first level, shape (..., first-level nodes); `input` makes one from names.
        Other values, and an input at which not exactly one node of the last level fires, raise a ValueError.
        """
        given = np.asarray(x)
        first = len(self.levels[0])
        if given.ndim == 0 or given.shape[-1] != first or not np.isin(given, (0, 1)).all():
            raise ValueError(f"an input is 0 or 1 for each of {first} first-level nodes; got shape {given.shape}")
        fires = [given.astype(bool)]
        for link, threshold, tables in zip(self._links, self._thresholds, self._tables, strict=True):
            above = fires[-1] @ link >= threshold
            for column, below, patterns in tables:
                above[..., column] = (fires[-1][..., None, below] == patterns).all(-1).any(-1)
            fires.append(above)
        if (wrong := fires[-1].sum(-1) != 1).any():
            where = np.unravel_index(np.argmax(wrong), wrong.shape)
            on, labels = ([self.levels[i][j] for j in np.flatnonzero(fires[i][where]).tolist()] for i in (0, -1))
            raise ValueError(
                f"exactly one last-level node has to fire; the input ({', '.join(on)}) fires "
                f"{' and '.join(labels) or 'none'} of {', '.join(self.levels[-1])}"
            )
        return np.concatenate(fires, axis=-1)

    def scores(self, x: ArrayLike) -> Floats:
        """Scores S of the nodes below the last level: lambda times the dependent nodes' scores, 0 off the pathway.

        The input's leading axes broadcast against those of the factors: with factors (runs, nodes), an `x` of shape
        (first,) gives (runs, nodes), and `x[:, None]` of shape (inputs, 1, first) gives (inputs, runs, nodes).
        """
        gains = self.pathway(x)[..., : self.hidden] * self.factors
        ends = np.cumsum([len(level) for level in self.levels[:-1]])
        scores = [gains[..., : ends[0]]]
        for link, start, end in zip(self._links, ends, ends[1:], strict=False):
            scores.append(gains[..., start:end] * (scores[-1] @ link))
        return np.concatenate(scores, axis=-1)

    def logits(self, x: ArrayLike) -> Floats:
        """Logits Z of the classes (equation 2.1), shape (..., classes); leading axes as in `scores`."""
        top = self.scores(x)[..., self.hidden - len(self.levels[-2]) :]
        return cast(Floats, (top[..., None, :] @ self.weights)[..., 0, :])

    def probabilities(self, x: ArrayLike) -> Floats:
        """Softmax of the logits, shape (..., classes)."""
        z = self.logits(x)
        odds = np.exp(z - z.max(-1, keepdims=True))
        return cast(Floats, odds / odds.sum(-1, keepdims=True))

    def update(self, fires: Bools, grow: UpdateRule, decay: UpdateRule, *, edge_rules: EdgeRules = None) -> "Neurashed":
        """One step of algorithm 1 for a given set G of firing nodes, shape (..., nodes): what `train` repeats."""
        state = self._step(self.factors, self.weights, np.asarray(fires, bool), grow, decay, edge_rules, 0)
        return replace(self, factors=state[0], weights=state[1])

    def train(
        self,
        batches: Iterable[ArrayLike],
        grow: UpdateRule,
        decay: UpdateRule,
        *,
        inputs: ArrayLike | None = None,
        edge_rules: EdgeRules = None,
        record: Sequence[int] | None = None,
    ) -> "Neurashed":
        """Algorithm 1: nodes in the union of a batch's pathways grow, all others decay.

        An update rule that breaks g+(x) > x or 0 <= g-(x) <= x where it is used or on a grid of factors, such as
        `multiply` at a factor of 0, raises a ValueError that names the node.

        `batches`, (steps, ..., batch) or an iterable of (..., batch), hold rows of `inputs`, the kinds of input there
        are, 0 or 1 in shape (types, first-level nodes). Without `inputs` they hold inputs themselves, (steps, ...,
        batch, first-level nodes). Axes between steps and batch are runs and broadcast against those of the factors.

        `grow` and `decay` are g+ and g-: functions of the factors, (..., nodes below the last level), and the number of
        the step, from 0. They are `multiply`, `add`, or any function; it may hold a random generator. `edge_rules`, a
        pair (g+, g-), change the weights into the last level, which grow when both their ends are in the union.

        With `record`, increasing numbers of completed steps, the factors, (runs, nodes), get a leading axis: the state
        after each of them (0 is the start).
        """
        # A factor of 0 that g+ leaves at 0 can never grow, so this is an error before training.
        for x, fires in [*product(10.0 ** np.arange(-6, 7), (True, False)), (self.factors, True)]:
            every = np.full(len(self.names), fires)
            self._step(x + np.zeros(self.hidden), self.weights, every, grow, decay, None, 0)
        paths = None if inputs is None else self.pathway(inputs)
        wanted = [-1] if record is None else [int(step) for step in record]
        if record is not None and not (wanted and wanted[0] >= 0 and all(a < b for a, b in pairwise(wanted))):
            raise ValueError(f"record: expected increasing numbers of completed steps; got {wanted}")
        state, done = (self.factors, self.weights), 0
        kept = [state] if wanted[0] == 0 else []
        for done, batch in enumerate(batches, 1):
            state = self._step(*state, self._union(batch, paths), grow, decay, edge_rules, done - 1)
            if done in wanted:
                kept.append(state)
        factors, weights = state
        if done < wanted[-1]:
            raise ValueError(f"record asks for step {wanted[-1]}, but there are {done} batches")
        if record is not None:
            factors = np.stack([np.broadcast_to(f, factors.shape) for f, _ in kept])
            if edge_rules:
                weights = np.stack([np.broadcast_to(w, weights.shape) for _, w in kept])
        return replace(self, factors=factors, weights=weights)

    def _union(self, batch: ArrayLike, paths: Bools | None) -> Bools:
        """Which nodes fire at one or more inputs of a batch, (..., nodes)."""
        if paths is None:
            each = self.pathway(batch)
        else:
            rows = np.asarray(batch)
            if rows.dtype.kind not in "iu" or rows.ndim == 0:
                raise ValueError(f"with inputs, a batch is a vector of whole numbers; got {rows.dtype} of {rows.shape}")
            if rows.size and not (rows.min() >= 0 and rows.max() < len(paths)):
                raise ValueError(f"a batch names input {rows.max()} or {rows.min()}; there are {len(paths)}, from 0")
            each = cast(Bools, paths[rows])
        if each.ndim < 2 or each.shape[-2] == 0:
            raise ValueError("a batch needs at least one input and an axis for them, before that of the nodes")
        return each[..., 0, :] if each.shape[-2] == 1 else cast(Bools, each.any(-2))

    def _step(
        self, x: Floats, eta: Floats, fires: Bools, grow: UpdateRule, decay: UpdateRule, edges: EdgeRules, step: int
    ) -> tuple[Floats, Floats]:
        """Factors and weights after one step."""
        hidden = fires[..., : self.hidden]
        x = _apply(x, hidden, grow, decay, step, lambda at: f"node {self.names[at[-1]]!r}")
        if edges:
            lows, highs = self.levels[-2:]
            both = hidden[..., -len(lows) :, None] & fires[..., None, self.hidden :]
            linked = self._links[-1] > 0  # entries without an edge stay 0 whatever the rule does to 0
            start = np.where(linked, eta, 1.0)
            grown = _apply(start, both, *edges, step, lambda at: f"edge from {lows[at[-2]]!r} to {highs[at[-1]]!r}")
            eta = np.where(linked, grown, 0.0)
        return x, eta


FIGURE_1 = """
b1 all a1 a2 a3
b2 all a2 a3 a4
b3 2   a4 a5 a6
b4 2   a6 a7 a8
b5 2   a8 a9 a10
b6 all a10 a11 a12
c1 2   b1 b2 b3
c2 any b2 b3 b4
c3 all b3 b4
c4 2   b4 b5 b6
c5 all b5 b6
y1 all c1 c2
y2 all c2 c3
y3 all c4 c5
"""
"""The graph of Su's figure 1 in this book's interpretation, in the form that `from_text` takes."""


def from_text(text: str, factors: Any = 1.0) -> Neurashed:
    """A model from text, one node a line: its name, its rule, the nodes that it depends on.

    Names are a letter for the level (levels are in alphabetical order) and a number; the rule is "any", "all" or a
    number k. Nodes of the first level appear only among the dependent nodes. Other lines raise a ValueError.
    `FIGURE_1` is an example.
    """
    rows = [line.split() for line in text.strip().splitlines()]
    for row in rows:
        if len(row) < 3 or any(not (name[0].isalpha() and name[1:].isdecimal()) for name in (row[0], *row[2:])):
            raise ValueError(f"expected a node, its rule and its dependent nodes, such as 'b1 all a1 a2'; got {row}")
    rules: dict[str, FiringRule] = {node: int(rule) if rule.isdecimal() else rule for node, rule, *_ in rows}
    edges = [(low, node) for node, _, *below in rows for low in below]
    names = sorted({name for edge in edges for name in edge}, key=lambda name: (name[0], int(name[1:])))
    levels = [list(level) for _, level in groupby(names, lambda name: name[0])]
    return Neurashed(levels, edges, rules, factors)


def figure_1(factors: Any = 1.0) -> tuple[Neurashed, dict[str, Bools]]:
    """The graph of Su's figure 1 and, by the names "1a", "1b", "2" and "3", an input of each kind of figure 2.

    The drawing does not show every edge clearly. This graph satisfies what the text says of it: four levels, three
    classes, kinds 1a and 1b nearly alike, class 2 nearer to them than class 3. Explained in the chapter on implicit
    regularization, used again in the one on local elasticity.

    >>> model, inputs = figure_1()
    >>> {kind: int(model.logits(x).argmax()) for kind, x in inputs.items()}
    {'1a': 0, '1b': 0, '2': 1, '3': 2}
    """
    model = from_text(FIGURE_1, factors)
    first = model.levels[0]
    kinds = {"1a": first[:5], "1b": first[1:6], "2": first[3:8], "3": first[8:]}
    return model, {kind: model.input(*names) for kind, names in kinds.items()}


def _parse_rule(rule: FiringRule, name: str, below: list[str]) -> int | Bools:
    """A threshold on the number of firing dependent nodes, or the patterns that fire the node, one a row."""
    count = len(below)
    if count == 0:
        raise ValueError(f"node {name!r} has no dependent nodes; a rule other than 'any' has nothing to read")
    if rule in ("any", "all"):
        return 1 if rule == "any" else count
    if isinstance(rule, (int, np.integer)) and not isinstance(rule, bool):
        if not 1 <= rule <= count:
            raise ValueError(f"node {name!r}: 'at least {rule}' of its {count} dependent nodes; expected 1 to {count}")
        return int(rule)
    if isinstance(rule, frozenset):
        if unknown := [n for on in rule for n in on if n not in below]:
            raise ValueError(f"rule of node {name!r} names {unknown[0]!r}; it depends on {', '.join(below)}")
        return np.array([[n in on for n in below] for on in rule], bool).reshape(-1, count)
    if isinstance(rule, str) or not isinstance(rule, Sequence):
        raise ValueError(
            f"node {name!r}: unknown rule {rule!r}; known: 'any', 'all', a number, a table, a frozenset of frozensets"
        )
    if len(rule) != 2**count or any(value not in (0, 1) for value in rule):
        raise ValueError(
            f"node {name!r} has {count} dependent nodes, so its table needs 2^{count} = {2**count} entries 0 or 1; "
            f"got {len(rule)}"
        )
    return cast(Bools, np.array([*product((False, True), repeat=count)])[np.array(rule, bool)])


def _apply(
    x: Floats, fires: Bools, grow: UpdateRule, decay: UpdateRule, step: int, name: Callable[[tuple[int, ...]], str]
) -> Floats:
    updated = np.where(fires, grow(x, step), decay(x, step))
    wrong = ~np.where(fires, updated > x, (updated <= x) & (updated >= 0))
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0])
        at, firing = (np.broadcast_to(values, wrong.shape)[where] for values in (x, fires))
        rule, expected = ("growth", "g+(x) > x") if firing else ("decay", "0 <= g-(x) <= x")
        raise ValueError(
            f"{name(where)}: the {rule} rule takes {at:g} to {updated[where]:g}; expected {expected} (step {step})"
        )
    return updated
