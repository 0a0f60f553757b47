"""Tasks on bits of graded difficulty, and an encoder that has learnt to read them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ncutil.lora import adapters, bit_tasks
from ncutil.lora.tasks import Split

SENTENCES = arrays(np.int64, (5, bit_tasks.BITS), elements=st.integers(0, 1))


@given(SENTENCES)
def test_bits_can_be_read_off_a_sentence(bits: np.ndarray) -> None:
    words = bit_tasks.sentences(bits)
    assert words.max() < bit_tasks.Encoder().word.num_embeddings
    assert words.shape == (5, bit_tasks.BITS + 1)
    assert (words[:, 0] == 0).all()
    number = words[:, 1:] - 1
    for row, said in zip(bits, number, strict=True):
        told = dict(zip(said // 2, said % 2, strict=True))
        assert [told[k] for k in range(bit_tasks.BITS)] == row.tolist()


@pytest.mark.parametrize("name", sorted(bit_tasks.GROUPS))
def test_groups_are_two_by_two_and_labels_are_the_functions(name: str) -> None:
    four = bit_tasks.group(name, draw=3, train=200, test=100)
    assert [len(side) for side in four] == [2, 2]
    for number, task in enumerate(task for side in four for task in side):
        function, _, rest = task.name.partition(" of ")
        assert function == bit_tasks.GROUPS[name][number % 2]
        which = [int(k) - 1 for k in rest.split("-")]
        for split in (task.train, task.test):
            bits = ((split.inputs[:, 1:] - 1) % 2)[:, which]
            expected = bits.sum(1) > 1 if function == "majority" else bits.sum(1) % 2
            assert (split.labels == expected).all()


@pytest.mark.parametrize("name", sorted(bit_tasks.GROUPS))
def test_no_sentence_is_in_both_splits(name: str) -> None:
    for side in bit_tasks.group(name, draw=1):
        for task in side:
            seen, held = ({tuple(row) for row in x} for x in (task.train.inputs, task.test.inputs))
            assert len(seen) == len(held) == 256
            assert not seen & held


@given(st.integers(0, 200))
def test_hard_tasks_of_setting_2_ask_about_disjoint_bits(draw: int) -> None:
    (a1, a2), (b1, b2) = bit_tasks.group("mixed", draw=draw, train=4, test=4)
    bits = [set(task.name.partition(" of ")[2].split("-")) for task in (a1, a2, b1, b2)]
    assert all(len(own) == 3 for own in bits)
    assert not bits[1] & bits[3]
    assert len({frozenset(own) for own in bits}) == 4


def test_groups_of_one_draw_differ_in_the_functions_only() -> None:
    mixed, hard, easy = (bit_tasks.group(name, draw=4) for name in ("mixed", "hard", "easy"))
    for side in (0, 1):
        for setting in (0, 1):
            one, two, three = (four[side][setting] for four in (mixed, hard, easy))
            assert len({task.name.partition(" of ")[2] for task in (one, two, three)}) == 1
            np.testing.assert_array_equal(one.train.inputs, two.train.inputs)
            np.testing.assert_array_equal(one.test.inputs, three.test.inputs)
    other = bit_tasks.group("mixed", draw=5)
    assert (other[0][0].train.inputs != mixed[0][0].train.inputs).any()


def test_parity_is_hard_and_majority_easy_for_a_linear_head() -> None:
    """A majority has weight on single bits; a parity has none, whatever the sentences."""
    bits = bit_tasks.ncube()
    signs = 2 * bits[:, :3] - 1
    assert abs((2 * bit_tasks.FUNCTIONS["majority"](bits[:, :3]) - 1) @ signs / len(bits)).min() == 0.5
    assert abs((2 * bit_tasks.FUNCTIONS["parity"](bits[:, :3]) - 1) @ signs).max() == 0


@pytest.fixture(scope="module")
def pretrained() -> tuple[bit_tasks.Encoder, float]:
    return bit_tasks.pretrain(steps=300, avoid=bit_tasks.questions(0))


def test_pretraining_learns_its_functions(pretrained: tuple[bit_tasks.Encoder, float]) -> None:
    model, accuracy = pretrained
    assert accuracy > 0.85
    assert not any(p.requires_grad for p in model.parameters())


@given(st.integers(0, 30), st.integers(0, 30))
def test_an_encoder_is_never_pretrained_on_a_task_that_it_shall_learn(seed: int, draw: int) -> None:
    avoid = bit_tasks.questions(draw)
    for name in bit_tasks.GROUPS:
        for task in (task for side in bit_tasks.group(name, draw=draw, train=2, test=2) for task in side):
            function, _, rest = task.name.partition(" of ")
            bits = tuple(int(k) - 1 for k in rest.split("-"))
            assert (function, bits) in avoid
    learnt = bit_tasks.curriculum(seed, 40, avoid)
    assert len(learnt) == 40
    assert not avoid & set(learnt)
    assert all(len(bits) == 3 if name == "majority" else len(bits) in (2, 3) for name, bits in learnt)
    assert all(bits == tuple(sorted(set(bits))) for _, bits in learnt)


def test_without_that_rule_some_encoder_would_be() -> None:
    """The rule has something to do: with enough seeds, random functions meet those of the tasks."""
    assert any(bit_tasks.questions(0) & set(bit_tasks.curriculum(seed)) for seed in range(20))


def test_labels_of_the_curriculum_are_what_the_heads_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(bit_tasks, "curriculum", lambda *given: seen.append(given) or [("and", (1, 4))])
    _, accuracy = bit_tasks.pretrain(3, functions=1, steps=150, avoid={("or", (0, 1))})
    assert seen == [(3, 1, {("or", (0, 1))})]
    assert accuracy > 0.95


def test_pretraining_is_a_function_of_its_seed() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, three = (bit_tasks.pretrain(s, functions=3, steps=3)[0] for s in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)  # the reader's generator is left alone
    x = torch.tensor(bit_tasks.sentences(np.eye(bit_tasks.BITS, dtype=int)))
    assert torch.equal(one(x), two(x))
    assert not torch.equal(one(x), three(x))


def test_an_easy_task_is_learnt_sooner_than_a_hard_one(pretrained: tuple[bit_tasks.Encoder, float]) -> None:
    four = bit_tasks.group("mixed", train=128, test=64)
    frame = adapters.train(pretrained[0], four, [8], [0], epochs=15).table
    seen = frame[frame.outcomes == "train"].iloc[0]
    easy, hard = seen[["acc_a11", "acc_b11"]].mean(), seen[["acc_a22", "acc_b22"]].mean()
    assert easy > max(0.85, hard + 0.1)


def test_encoder_reads_its_last_layer_at_the_mark_only_and_exactly() -> None:
    torch.manual_seed(0)
    model = bit_tasks.Encoder()
    x = torch.tensor(bit_tasks.sentences(np.eye(bit_tasks.BITS, dtype=int)))
    states = model.norm(model.word(x) + model.place)
    for block in model.blocks:
        states = block(states, slice(None))
    torch.testing.assert_close(model(x), states[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bit_tasks.group("medium"), "unknown group 'medium'; known: mixed, hard, easy"),
        (lambda: bit_tasks.group("hard", train=1000, test=100), "there are 1024 sentences; cannot train on 1000"),
        (lambda: bit_tasks.group("hard", test=0), "test is a whole number from 1; got 0"),
        (lambda: bit_tasks.group("hard", train=2.5), "train is a whole number from 1; got 2.5"),
        (lambda: bit_tasks.group("hard", draw=-1), "draw is a whole number from 0; got -1"),
        (lambda: bit_tasks.pretrain(functions=0), "functions is a whole number from 1; got 0"),
        (lambda: bit_tasks.sentences([0, 1]), r"says 10 bits, 0 or 1 each; got shape \(2,\)"),
        (lambda: bit_tasks.sentences([2] * 10), "0 or 1 each"),
        (lambda: bit_tasks.pretrain(-1), "seed is a whole number from 0; got -1"),
        (lambda: Split(np.zeros((3, 2)), np.zeros(2)), "a label each; got 3 and 2 labels"),
        (lambda: Split(np.zeros((0, 2)), np.zeros(0)), "a label each; got 0"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
