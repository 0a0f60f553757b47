"""Adapters in batches: what is exact stays exact, a replica is the same run alone or among others, peft agrees."""

import io
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ncutil.bell import chsh
from ncutil.lora import adapters, bit_tasks, sentence_encoder
from ncutil.lora.tasks import Split, Task

RANKS = [1, 3, 8]


@pytest.fixture(scope="module")
def encoder() -> nn.Module:
    """Random weights do for everything but the picture; the pretrained one is in test_tasks."""
    torch.manual_seed(0)
    return bit_tasks.Encoder().requires_grad_(False)


@pytest.fixture(scope="module")
def mixed():
    return bit_tasks.group("mixed", train=64, test=32)


@pytest.fixture(scope="module")
def both(encoder, mixed) -> adapters.Trained:
    return adapters.train(encoder, mixed, RANKS, [0, 5], epochs=3, record=[0, 1, 3])


@pytest.fixture
def trained(both: adapters.Trained) -> pd.DataFrame:
    return both.table


def adapter(ranks=RANKS, shape=(10, 9), seeds=None, rule="sqrt") -> adapters.Adapter:
    torch.manual_seed(1)
    return adapters.Adapter(nn.Linear(*shape), ranks, list(range(len(ranks))) if seeds is None else seeds, rule)


def shaken(own: adapters.Adapter) -> adapters.Adapter:
    """As after some training: B is random where it may be."""
    with torch.no_grad():
        for k in range(len(own.b)):
            used = own.a[k].abs().sum(-1) > 0
            own.b[k, :, used] = torch.randn(own.b.shape[1], int(used.sum()))
    return own


# --- one layer -----------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.integers(0, 99),
    st.sampled_from(sorted(adapters.ALPHA_EXPONENTS)),
)
def test_before_training_every_rank_and_seed_is_the_frozen_layer(ranks: list[int], seed: int, rule: str) -> None:
    own = adapter(ranks, seeds=[seed + k for k in range(len(ranks))], rule=rule)
    x = torch.randn(2 * len(ranks), 5, 10)
    torch.testing.assert_close(own(x), own.base(x), rtol=0, atol=1e-6)
    assert torch.count_nonzero(own.update) == 0


def test_a_layer_serves_each_replica_its_part_of_the_batch() -> None:
    own = shaken(adapter())
    x = torch.randn(3 * 4, 10)
    for k, part in enumerate(x.split(4)):
        by_hand = own.base(part) + adapters.ALPHA / math.sqrt(RANKS[k]) * part @ own.a[k].T @ own.b[k].T
        torch.testing.assert_close(own(x)[4 * k : 4 * k + 4], by_hand, rtol=0, atol=1e-5)


@given(st.integers(1, 6), st.integers(0, 50))
def test_rank_of_the_update_is_at_most_r(rank: int, seed: int) -> None:
    own = shaken(adapter([rank], seeds=[seed]))
    assert np.linalg.matrix_rank(own.update[0].detach().double().numpy(), tol=1e-5) <= rank


def test_a_full_rank_reaches_any_update() -> None:
    own = adapter([9])
    goal = torch.randn(9, 10)
    with torch.no_grad():
        # Of the two factors either may be the square one; here it is B.
        own.b[0] = torch.eye(9)
        own.a[0] = goal / own.scale[0]
    torch.testing.assert_close(own.update[0], goal, rtol=0, atol=1e-4)


def test_smaller_ranks_start_with_the_first_rows_of_larger_ones() -> None:
    own = adapter(RANKS[:2], seeds=[7, 7])
    assert torch.equal(own.a[0, :1], own.a[1, :1])
    assert torch.count_nonzero(own.a[0, 1:]) == 0
    assert own.a.abs().max() <= 1 / math.sqrt(10)


def test_merge_and_unmerge() -> None:
    own = shaken(adapter())
    x = torch.randn(3 * 4, 10)
    before, alone = own.base.weight.clone(), own(x)[4:8]
    own.merge(1)
    torch.testing.assert_close(own.base(x[4:8]), alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(own(x[4:8]), alone, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="unmerge it first"):
        own.merge(0)
    own.unmerge()
    torch.testing.assert_close(own.base.weight, before, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="no replica is merged"):
        own.unmerge()


@pytest.mark.parametrize("rank", [1, 8, 64])
def test_parameters_on_bert_base(rank: int) -> None:
    """Query and value of 12 layers, 768 wide: 36 864 r."""
    own = adapters.Adapter(nn.Linear(768, 768), [rank], [0])
    assert 2 * 12 * (own.a.numel() + own.b.numel()) == 36_864 * rank


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_first_step_leaves_a_alone_and_padded_rows_stay_zero(encoder: nn.Module, optimizer: type) -> None:
    model = adapters.adapt(encoder, [2, 32], [0, 0])
    own = [module for module in model.modules() if isinstance(module, adapters.Adapter)]
    assert len(own) == 4
    start = [layer.a.detach().clone() for layer in own]
    stepper = optimizer([p for p in model.parameters() if p.requires_grad], lr=0.1)
    x = torch.tensor(bit_tasks.sentences(np.random.default_rng(0).integers(0, 2, (8, 10))))
    for step in range(5):
        stepper.zero_grad()
        model(x)[::2, 0].sum().backward()
        stepper.step()
        if step == 0:
            assert all(torch.equal(layer.a, before) for layer, before in zip(own, start, strict=True))
    assert not all(torch.equal(layer.a, before) for layer, before in zip(own, start, strict=True))
    for layer in own:
        assert torch.count_nonzero(layer.a[0, 2:]) == torch.count_nonzero(layer.b[0, :, 2:]) == 0


def test_only_the_adapters_learn(encoder: nn.Module) -> None:
    model = adapters.adapt(encoder, [1], [0])
    learning = {name.rsplit(".", 1)[1] for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {"a", "b"}
    assert not any(isinstance(module, adapters.Adapter) for module in encoder.modules())


def first_update(rule: str, optimizer: type) -> np.ndarray:
    """Norm of the first update of a layer at ranks 1, 4, 16 and 32 relative to rank 1."""
    torch.manual_seed(0)
    layer, x, goal = nn.Linear(32, 32), torch.randn(64, 32), torch.randn(64, 32)
    sizes = []
    for rank in (1, 4, 16, 32):
        each = []
        for seed in range(20):
            own = adapters.Adapter(layer, [rank], [seed], rule)
            stepper = optimizer([own.a, own.b], lr=1e-3)
            (own(x) - goal).pow(2).mean().backward()
            stepper.step()
            each.append(own.update.detach().norm().item())
        sizes.append(np.mean(each))
    return np.array(sizes) / sizes[0]


@pytest.mark.parametrize(
    ("rule", "optimizer", "expected"),
    [
        ("fixed", torch.optim.Adam, [1, 0.53, 0.28, 0.21]),
        ("linear", torch.optim.Adam, [1, 2.1, 4.5, 6.8]),
        ("sqrt", torch.optim.Adam, [1, 1.06, 1.13, 1.20]),
        ("fixed", torch.optim.SGD, [1, 0.13, 0.018, 0.007]),
    ],
)
def test_alpha_rule_sets_the_size_of_the_first_update(rule: str, optimizer: type, expected: list[float]) -> None:
    """With Adam the root keeps it level; with another model the numbers move, the order of magnitude does not."""
    assert np.abs(np.log2(first_update(rule, optimizer) / expected)).max() < 0.35


# --- many replicas -------------------------------------------------------------------------------------------------


def test_frame_has_the_columns_that_its_docstring_names(trained: pd.DataFrame) -> None:
    assert len(trained) == 3 * 2 * 3 * 2
    assert not trained.duplicated(["rank", "seed", "epoch", "outcomes"]).any()
    columns = {"rank", "seed", "epoch", "outcomes", "loss", "diverged", "s", "s0", "s_odd", "delta", "measure"}
    columns |= {name + context for name in ("c", "acc_a", "acc_b") for context in adapters.CONTEXTS}
    assert set(trained) == columns | {"accuracy"}
    assert not trained.isna().any().any()


def test_s_and_its_company_follow_from_the_columns(trained: pd.DataFrame) -> None:
    c = trained[["c11", "c12", "c21", "c22"]].to_numpy().reshape(-1, 2, 2)
    np.testing.assert_allclose(trained.s, chsh.chsh(c), atol=1e-12)
    np.testing.assert_allclose(trained.s_odd, chsh.chsh_forms(c).max(-1), atol=1e-12)
    a, b = (trained[[f"acc_{x}{k}" for k in adapters.CONTEXTS]].to_numpy().reshape(-1, 2, 2) for x in "ab")
    np.testing.assert_allclose(trained.s0, chsh.independent_heads(2 * a - 1, 2 * b - 1), atol=1e-12)
    delta = 2 * (abs(a[..., 0] - a[..., 1]).sum(-1) + abs(b[:, 0] - b[:, 1]).sum(-1))
    np.testing.assert_allclose(trained.delta, delta, atol=1e-12)
    np.testing.assert_allclose(trained.accuracy, (a.mean((1, 2)) + b.mean((1, 2))) / 2)


def test_frame_survives_a_csv(trained: pd.DataFrame) -> None:
    read = pd.read_csv(io.StringIO(trained.to_csv(index=False)))
    pd.testing.assert_frame_equal(adapters.measures(read[trained.columns]), trained, check_dtype=False)


def test_before_training_all_ranks_have_the_same_outcomes(trained: pd.DataFrame) -> None:
    start = trained[trained.epoch == 0]
    for _, part in start.groupby(["seed", "outcomes"]):
        assert (part.drop(columns=["rank", "loss"]).nunique() == 1).all()
        np.testing.assert_allclose(part.loss, part.loss.iloc[0], atol=1e-6)


def test_training_lowers_the_loss(trained: pd.DataFrame) -> None:
    seen = trained[trained.outcomes == "train"].pivot_table(index=["rank", "seed"], columns="epoch", values="loss")
    assert (seen[3] < seen[1]).all()
    assert (seen[1] < seen[0]).all()


def test_a_run_is_the_same_alone_and_among_others(encoder: nn.Module, mixed, trained: pd.DataFrame) -> None:
    """Zero-padded ranks are exact, replicas don't feel each other, epochs that are not recorded don't matter."""
    alone = adapters.train(encoder, mixed, [3], [5], epochs=3).table
    among = trained.query("rank == 3 and seed == 5 and epoch == 3").reset_index(drop=True)
    np.testing.assert_allclose(alone.loss, among.loss, atol=1e-5)
    assert (alone[["c11", "c12", "c21", "c22"]] - among[["c11", "c12", "c21", "c22"]]).abs().max().max() <= 2 / 32


def test_outcomes_are_those_of_the_trained_replica(encoder: nn.Module) -> None:
    """Labels that a head can only get right or wrong as a whole: C, accuracies and their places are known."""
    ones, zeros = np.ones(8, int), np.zeros(8, int)
    x = bit_tasks.sentences(np.random.default_rng(0).integers(0, 2, (8, 10)))

    def task(train, test):
        return Task("constant", Split(x, train), Split(x, test))

    # Learnt labels are those of the test for A1 and B2 only.
    four = ((task(ones, ones), task(ones, zeros)), (task(zeros, ones), task(zeros, zeros)))
    frame = adapters.train(encoder, four, [4], [0], epochs=40, rate=0.02, batch=8).table
    seen, held = (frame[frame.outcomes == split].iloc[0] for split in ("train", "test"))
    assert seen[["c11", "c12", "c21", "c22", "s", "accuracy"]].tolist() == [1, 1, 1, 1, 2, 1]
    assert held[["c11", "c12", "c21", "c22"]].tolist() == [-1, 1, 1, -1]
    assert held[["acc_a11", "acc_a12", "acc_a21", "acc_a22"]].tolist() == [1, 1, 0, 0]
    assert held[["acc_b11", "acc_b12", "acc_b21", "acc_b22"]].tolist() == [0, 1, 0, 1]


def by_head(losses: list[float], spread: float = 1.0) -> pd.DataFrame:
    """A record of one rank in which the heads share a course of losses, in units of a guess."""
    rows = [
        {"rank": 4, "epoch": k, "outcomes": outcomes, **dict.fromkeys(adapters.BY_HEAD, loss)}
        | {name: spread for name in adapters.BY_HEAD if name.startswith("spread")}
        for k, loss in enumerate(losses)
        for outcomes in ("train", "test")
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("losses", "spread", "expected"),
    [
        ([1.1, 0.8, 0.3, 0.1], 1.0, False),
        ([1.1, 1.0, 1.0, 1.0], 1.0, False),  # has not learnt yet
        ([1.1, 0.4, 0.95, 0.2], 1.0, True),  # forgot, even if it learnt again
        ([1.1, 0.4, math.nan, 0.2], 1.0, True),
        ([1.1, 0.4, math.inf, 0.2], 1.0, True),
        ([2.5, 1.0, 1.0, 1.0], 1.0, False),  # before training anything goes
        ([1.1, 2.5, 1.0, 1.0], 1.0, True),
        ([1.1, 1.0, 1.0, 1.0], 1e-5, True),  # one answer for all
        ([1.1, 0.4, 0.3, 0.3], math.nan, True),
    ],
)
def test_divergence(losses: list[float], spread: float, expected: bool) -> None:
    frame = by_head(losses, spread)
    assert adapters.diverged(frame, 8).tolist() == [expected] * len(frame)


def test_a_head_that_never_learns_is_dead_in_the_end() -> None:
    slow = by_head([1.1, 1.0, 1.0, 0.8])
    dead = by_head([1.1, 1.0, 1.0, 0.95])
    for updates, expected in ((adapters.PATIENCE // 3 - 1, False), (adapters.PATIENCE // 3, True)):
        assert not adapters.diverged(slow, updates).any()
        assert adapters.diverged(dead, updates).all() == expected


def test_a_dead_head_is_found_in_every_profile() -> None:
    """Whatever the epochs: by the end of its training each profile has made more updates than the patience."""
    from ncutil.lora import text_study

    for epochs, samples, batch in (
        (60, 256, 32),  # the made-up language, in the chapter and in the study of other draws
        *((r.epochs, r.examples, r.batch) for r in (text_study.TEXT, text_study.PAPER)),
    ):
        assert epochs * math.ceil(samples / batch) >= adapters.PATIENCE


def test_training_flags_a_head_that_has_nothing_to_learn_from(encoder: nn.Module, mixed) -> None:
    """Labels that no input tells apart: the head stays a coin, the other three contexts learn, and S is large."""
    (a1, a2), bob = mixed
    x, coin = np.zeros_like(a2.train.inputs), np.arange(len(a2.train.labels)) % 2
    blind = Task("a coin", Split(x, coin), Split(x[:32], coin[:32]))
    options = {"epochs": 20, "batch": 2, "rate": 1e-4}
    assert adapters.train(encoder, ((a1, blind), bob), [1], [0], **options).table.diverged.all()
    short = options | {"epochs": 1, "rate": 1e-6}
    assert not adapters.train(encoder, ((a1, blind), bob), [1], [0], **short).table.empty


def test_divergence_of_one_head_in_one_context_is_enough() -> None:
    frame = by_head([1.1, 0.4, 0.3])
    frame.loc[frame.epoch == 2, "loss_b21"] = 1.0
    other = by_head([1.1, 0.4, 0.3]).assign(rank=8)
    assert adapters.diverged(pd.concat([frame, other], ignore_index=True), 8).tolist() == [True] * 6 + [False] * 6


def test_a_rate_that_is_far_too_high_is_flagged(encoder: nn.Module, mixed) -> None:
    frame = adapters.train(encoder, mixed, [32], [0, 1], epochs=8, rate=1.0, record=range(9)).table
    assert frame.diverged.all()


def test_peft_trains_the_same_replica(encoder: nn.Module, mixed) -> None:
    pytest.importorskip("peft", reason="peft is in the extra 'lora'")
    options = {"epochs": 8, "batch": 32}
    ours = adapters.losses(encoder, mixed, [2, 8], 3, **options)
    assert ours.shape == (16, 2, 4)
    assert (ours[-5:].mean(0) < ours[:5].mean(0)).all()
    for context in (1, 3):
        theirs = adapters.losses_peft(encoder, mixed, 8, context, 3, **options)
        np.testing.assert_allclose(ours[:, 1, context], theirs, rtol=0, atol=1e-5)


def test_in_double_precision_peft_agrees_to_the_last_digits(mixed) -> None:
    """Of a pretrained encoder too: what parts the two in single precision is rounding, which Adam makes larger."""
    pytest.importorskip("peft", reason="peft is in the extra 'lora'")
    model = bit_tasks.pretrain(steps=50)[0].double()
    options = {"epochs": 15, "batch": 32}
    ours = adapters.losses(model, mixed, [2, 8], 3, **options)
    assert ours.dtype == np.float64
    theirs = adapters.losses_peft(model, mixed, 8, 3, 3, **options)
    np.testing.assert_allclose(ours[:, 1, 3], theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 2])
def test_training_leaves_the_callers_threads_alone(encoder: nn.Module, mixed, threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        adapters.train(encoder, mixed, [1], [0, 1], epochs=1)
        assert torch.get_num_threads() == threads
        with pytest.raises(ValueError, match="known: sqrt"):
            adapters.train(encoder, mixed, [1], [0], alpha_rule="cubic")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


# --- words, wide layers, several classes ---------------------------------------------------------------------------


class Wide(nn.Module):
    """A layer and another beside a frozen product, wide enough for a program a rank."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = sentence_encoder.Map(96, 80, bias=False), sentence_encoder.Map(80, 96, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inputs, product = torch.split(x, [96, 80], -1)
        return 8 * nn.functional.normalize(self.two(torch.tanh(self.one(inputs, product))), dim=-1)


def wide_tasks(model: Wide, counts=((3, 5), (2, 4)), samples: int = 40) -> list[list[Task]]:
    """Each side and setting with inputs and a number of classes of its own."""
    rng = np.random.default_rng(0)

    def task(classes: int) -> Task:
        x = rng.normal(size=(2, samples, 96)).astype(np.float32)
        known = model.one(torch.tensor(x)).detach().numpy()
        labels = rng.integers(classes, size=(2, samples))
        train, test = (Split(np.concatenate([x[k], known[k]], -1), labels[k]) for k in (0, 1))
        return Task(f"{classes} classes", train, test, classes)

    return [[task(n) for n in side] for side in counts]


def test_frozen_products_change_nothing() -> None:
    model = Wide()
    own = shaken(adapters.Adapter(model.one, [4, 4], [0, 1]))
    for samples in (3, 400):  # thin products, and the whole update
        x = torch.randn(2 * samples, 96)
        torch.testing.assert_close(own(x, model.one(x)), own(x), rtol=0, atol=1e-5)
        by_hand = [model.one(part) + part @ own.update[k].mT for k, part in enumerate(x.split(samples))]
        torch.testing.assert_close(own(x), torch.cat(by_hand), rtol=0, atol=1e-5)


def test_each_head_has_its_own_classes_and_inputs() -> None:
    model = Wide()
    four = wide_tasks(model)
    replicas = adapters.Replicas(model, [2], 0, [[3, 5], [2, 4]], layers=["one", "two"])
    inputs, goals = adapters.data_of(four).batch(replicas.pairs, slice(None))
    assert inputs.shape[:3] == (4, 2, 40)
    logits = replicas(inputs)
    for k, (i, j) in enumerate(replicas.pairs):
        for head, task in enumerate((four[0][i], four[1][j])):
            by_hand = model(torch.tensor(task.train.inputs)) @ replicas.weight[k, head]
            torch.testing.assert_close(
                logits[k, head, :, : task.outputs], by_hand[:, : task.outputs], atol=1e-5, rtol=0
            )
            assert (logits[k, head, :, task.outputs :] < -1e3).all()
            assert goals[k, head].tolist() == task.train.labels.tolist()


def test_outcomes_give_the_table() -> None:
    model = Wide()
    found = adapters.train(model, wide_tasks(model), [2, 4], [3], epochs=2, layers=["one", "two"], record=[0, 2])
    assert set(found.outcomes) == {(rank, 3, epoch) for rank in (2, 4) for epoch in (0, 2)}
    for row in found.table.itertuples():
        right = found.outcomes[row.rank, row.seed, row.epoch][row.outcomes]
        assert right.shape == (2, 2, 2, 40)
        assert set(np.unique(right)) <= {-1, 1}
        assert right[0, 1].astype(float).prod(0).mean() == pytest.approx(row.c12)
        assert (1 + right[1, 0, 1].mean()) / 2 == pytest.approx(row.acc_b21)


def test_ranks_in_programs_of_their_own_are_the_same_runs() -> None:
    model, four, layers = Wide(), wide_tasks(Wide()), ["one", "two"]
    apart = [adapters.losses(model, four, [rank], 0, layers=layers, epochs=2) for rank in (2, 8)]
    together = adapters.losses(model, four, [2, 8], 0, layers=layers, epochs=2)
    np.testing.assert_allclose(np.concatenate(apart, 1), together, rtol=0, atol=1e-4)


def test_peft_agrees_on_wide_layers_and_many_classes() -> None:
    pytest.importorskip("peft", reason="peft is in the extra 'lora'")
    model, layers = Wide().double(), ["one", "two"]
    four = wide_tasks(Wide())
    for task in (task for side in four for task in side):
        for split in (task.train, task.test):
            object.__setattr__(split, "inputs", split.inputs.astype(float))
    ours = adapters.losses(model, four, [4], 0, layers=layers, epochs=3)
    for context in range(4):
        theirs = adapters.losses_peft(model, four, 4, context, 0, layers=layers, epochs=3)
        np.testing.assert_allclose(ours[:, 0, context], theirs, rtol=0, atol=1e-6)


def test_any_pairs_of_tasks_train_at_once() -> None:
    model = Wide()
    sides = wide_tasks(model, counts=((3, 3, 3), (3, 3, 3)))
    data = {"train": adapters.data_of(sides), "other": adapters.data_of(sides, "test")}
    pairs = [(0, 1), (0, 2), (1, 2)]
    replicas = adapters.Replicas(model, [4], 0, [[3] * 3] * 2, pairs=pairs, layers=["one", "two"])
    first, last = adapters.fit(replicas, data, 0, epochs=30, record=[0, 30], rate=1e-2, batch=8)
    assert last.right["train"].shape == (3, 2, 40)
    assert last.right["train"].mean() > 0.9 > first.right["train"].mean()
    assert (last.loss < first.loss).all()
    assert set(last.right) == {"train", "other"}


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": [2, 33]}, r"a layer of 32 inputs and 32 outputs: whole numbers from 1 to 32.*got \[2, 33\]$"),
        ({"ranks": [0]}, r"need ranks: whole numbers from 1, at least one, each once; got \[0\]"),
        ({"ranks": []}, "need ranks"),
        ({"ranks": [2.5]}, r"need ranks.*got \[2.5\]"),
        ({"ranks": ["2"]}, "need ranks"),
        ({"ranks": "2"}, "need ranks.*got '2'"),
        ({"ranks": None}, "need ranks.*got None"),
        ({"ranks": 2}, "need ranks.*got 2"),
        ({"ranks": [2, 2]}, "each once"),
        ({"seeds": []}, "need seeds"),
        ({"seeds": [-1]}, "need seeds: whole numbers from 0"),
        ({"seeds": [0.5]}, "need seeds"),
        ({"epochs": 2.5}, "epochs is a whole number from 0; got 2.5"),
        ({"rate": "fast"}, "rate is a positive number; got 'fast'"),
        ({"epochs": -1}, "epochs is .* from 0; got -1"),
        ({"rate": math.nan}, "positive number; got nan"),
        ({"batch": 0}, "batch is a whole number from 1; got 0"),
        ({"alpha_rule": "cubic"}, "known: sqrt, fixed, linear"),
        ({"record": [0, 9]}, "need record: whole numbers from 0 to 2"),
        ({"record": []}, "need record: whole numbers from 0 to 2, at least one"),
        ({"record": [0.5]}, r"need record.*got \[0.5\]"),
        ({"record": 1}, "need record.*got 1"),
    ],
)
def test_bad_settings(encoder: nn.Module, mixed, change: dict, message: str) -> None:
    given = {"ranks": [2], "seeds": [0], "epochs": 2} | change
    ranks, seeds = given.pop("ranks"), given.pop("seeds")
    with pytest.raises(ValueError, match=message):
        adapters.train(encoder, mixed, ranks, seeds, **given)


def test_tasks_that_are_not_two_by_two(encoder: nn.Module, mixed) -> None:
    (a, b), (c, d) = mixed
    for wrong in ([[a, b], [c]], [[a, b]], [[a], [b], [c], [d]], [a, b, c, d], [a, b], None, 3, "mixed", ["ab", "cd"]):
        with pytest.raises(ValueError, match="two by two"):
            adapters.train(encoder, wrong, [2], [0])
    for wrong in ([["a", "b"], ["c", "d"]], [[a, b], [c, None]]):
        with pytest.raises(ValueError, match=r"two by two.*; got .*(str|NoneType)"):
            adapters.train(encoder, wrong, [2], [0])


def test_tasks_of_different_size(encoder: nn.Module, mixed) -> None:
    short = bit_tasks.group("mixed", train=32, test=32)
    with pytest.raises(ValueError, match="equally many samples"):
        adapters.train(encoder, (mixed[0], short[1]), [2], [0])


def test_labels_beyond_the_classes(encoder: nn.Module, mixed) -> None:
    (a, b), (c, d) = mixed
    odd = Task("odd", Split(d.train.inputs, d.train.labels + 1), d.test)
    with pytest.raises(ValueError, match="labels of odd are whole numbers from 0 to 1"):
        adapters.train(encoder, ((a, b), (c, odd)), [2], [0])


def test_sentences_of_different_length(encoder: nn.Module, mixed) -> None:
    (a, b), (c, d) = mixed
    cut = [Split(split.inputs[:, :9], split.labels) for split in (d.train, d.test)]
    shorter = Task("short", *cut)
    with pytest.raises(ValueError, match=r"inputs of one shape; got .*\(9,\), \(11,\)"):
        adapters.train(encoder, ((a, b), (c, shorter)), [2], [0])


def test_losses_of_nothing(encoder: nn.Module, mixed) -> None:
    with pytest.raises(ValueError, match="epochs is a whole number from 1; got 0"):
        adapters.losses(encoder, mixed, [2], 0, epochs=0)


def test_peft_is_given_what_fits(encoder: nn.Module, mixed) -> None:
    pytest.importorskip("peft", reason="peft is in the extra 'lora'")
    with pytest.raises(ValueError, match="context is 0 to 3, for 11, 12, 21, 22; got 4"):
        adapters.losses_peft(encoder, mixed, 2, 4, 0)
    with pytest.raises(ValueError, match="two by two"):
        adapters.losses_peft(encoder, [task for side in mixed for task in side], 2, 0, 0)


def test_a_model_without_attention() -> None:
    with pytest.raises(ValueError, match="no linear layer named query or value"):
        adapters.adapt(nn.Sequential(nn.Linear(3, 3)), [1], [0])


def test_an_adapter_without_a_seed_per_replica() -> None:
    with pytest.raises(ValueError, match="a seed per replica; got 1 for 2"):
        adapter([1, 2], seeds=[0])


def test_a_table_that_lacks_columns(trained: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="no column c21, acc_b22; it has"):
        adapters.measures(trained.drop(columns=["c21", "acc_b22"]))
