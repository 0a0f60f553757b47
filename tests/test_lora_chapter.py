"""The chapter on the LoRA study with real encoders and data sets: tiny ones, in the layout of the real ones."""

import json
import shutil
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, cli, copy_project

from ncpress.project import Project, read_chapter
from ncutil.evidence import claims
from ncutil.ground import staleness
from ncutil.ground.files import checksum
from ncutil.lora import adapters, tables, text_study

transformers = pytest.importorskip("transformers", reason="transformers is in the extra 'lora'")
pytest.importorskip("peft", reason="peft is in the extra 'lora'")

pytestmark = pytest.mark.xdist_group("texts")

CHAPTER = "03-lora"
WORDS = ["the", "a", "red", "green", "blue", "cat", "dog", "bird", "runs", "sleeps", "not", "very", "often", "here"]
ROWS, WIDTH = 24, 64


def row(name: str, k: int, rng: np.random.Generator) -> dict[str, Any]:
    text, other = (" ".join(rng.choice(WORDS, rng.integers(2, 7))) for _ in range(2))
    if name in ("commonsenseqa", "mathqa"):
        return {"question": text, "choices": list(map(str, rng.choice(WORDS, 5, replace=False))), "label": k % 5}
    if name.startswith(("pawsx", "mrpc")):
        return {"sentence1": text, "sentence2": other, "label": k % 2}
    return {"text": text, "label": k % 2}


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, every data set of both studies, and `models`, a random BERT under the name of each real one."""
    folder, rng = tmp_path_factory.mktemp("shelf"), np.random.default_rng(0)
    (folder / "data").mkdir()
    groups = [*text_study.TEXT_GROUPS.values(), *text_study.GROUPS.values()]
    for name in sorted({name for group in groups for name in (*group.alice, *group.bob)}):
        for split in ("train", "test"):
            lines = [json.dumps(row(name, k, rng)) + "\n" for k in range(ROWS)]
            (folder / "data" / f"{name}_{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    torch.manual_seed(0)
    size = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    # With weights as small as usual, a model that nobody trained says nearly the same of all texts: a dead head.
    config = transformers.BertConfig(vocab_size=len(words), initializer_range=0.5, **size)
    for name in sorted({group.model for group in groups}):
        place = folder / "models" / name
        place.mkdir(parents=True)
        (place / "vocab.txt").write_text("\n".join(words))
        transformers.BertTokenizerFast.from_pretrained(place).save_pretrained(place)
        transformers.BertModel(config).save_pretrained(place)
    return folder


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("project"))


def run(project: Path, shelf: Path, profile: str, *more: str) -> Any:
    given = {"data": shelf / "data", "models": shelf / "models", "examples": ROWS, "seeds": 2, "pretraining": 20}
    pairs = {**given, **dict(pair.split("=", 1) for pair in more)}
    words = [word for name, value in pairs.items() for word in ("-p", f"{name}={value}")]
    return cli(project, "run", "3", "--profile", profile, *words, TOKENIZERS_PARALLELISM="false")


@pytest.mark.parametrize(
    ("profile", "ranks", "groups"),
    [("text", [1, 4, 16, 64], text_study.TEXT_GROUPS), ("paper", [1, 64], text_study.GROUPS)],
)
def test_whole_chapter_on_real_text(project: Path, shelf: Path, profile: str, ranks: list[int], groups: Any) -> None:
    """Ranks beyond the width of the small encoder, every claim, and no word of tasks that were not run."""
    done = run(project, shelf, profile, f"ranks={ranks}")
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (project / "_build" / "runs").glob(f"{profile}@*")
    record = json.loads((folder / CHAPTER / "run.json").read_text())
    assert record["parameters"]["study"] == profile
    expected = {claim.id for claim in claims.load().values() if claim.chapter == CHAPTER and claim.holds_if}
    if "hard" not in groups:
        expected.remove("lora-balance")  # mixed against hard tasks: not attempted
    assert {item["id"] for item in record["claims"]} == expected
    frame = pd.read_csv(folder / CHAPTER / "data" / "rank.csv")
    assert set(frame.group) == set(groups)
    assert set(frame["rank"]) == set(ranks)
    assert frame.groupby("group").seed.nunique().eq(2).all()
    assert dict(zip(frame.group, frame.tie, strict=True)) == {name: group.alpha_rule for name, group in groups.items()}
    scalars = {item["name"] for item in record["scalars"]}
    assert {name for name in scalars if name.startswith("fan-")} == {
        f"fan-{g.alpha_rule}" for n, g in groups.items() if "mixed" in n
    }
    said = outputs(folder / CHAPTER / f"{CHAPTER}.ipynb")
    assert "subjectivity" in said if profile == "text" else "bert-base-multilingual-cased" in said
    # Glued sentences and tables speak of what was run.
    for stranger in ("majority", "parity of", "made-up", "language 1", "easy"):
        assert stranger not in said, stranger


def test_what_is_missing_is_said_before_anything_is_trained(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what the last group lacks."""
    last = list(text_study.TEXT_GROUPS.values())[1].bob[1]
    shutil.copytree(shelf / "data", tmp_path / "data")
    (tmp_path / "data" / f"{last}_test.jsonl").unlink()
    monkeypatch.setattr(adapters, "train", lambda *given, **more: pytest.fail("a group was trained"))
    with pytest.raises(ValueError, match=f"{last}_test.jsonl"):
        text_study.train_groups(
            "text", [1], [0, 1], store=tmp_path, data=tmp_path / "data", models=shelf / "models", examples=ROWS
        )


def outputs(path: Path) -> str:
    """Everything that a notebook's cells hand to the page, but for the code of what they show."""
    cells = nbformat.read(path, 4).cells
    found = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    texts = [str(data) for output in found for kind, data in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(texts)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["examples=100"], r"100 train examples asked, the data set has 24: ask for 1 to 24 \(-p examples=24\)"),
        (["models=nowhere"], r"no model folder nowhere.minilm; .*-p models=FOLDER"),
        (["data=nowhere"], r"no folder nowhere: .*-p data=FOLDER"),
        (["ranks=[1, 65]"], rf"a rank above the layer's width can add nothing: give ranks from 1 to {WIDTH}"),
        (["ranks=[2.5]"], "need ranks: whole numbers from 1"),
        (["ranks=[64]"], "give some ranks from 1 to 32"),
        (["study=word"], "unknown study 'word'; known: bits, text, paper"),
        (["study=bits", "ranks=[64]"], "need ranks: whole numbers from 1 to 32"),
        (["epochs=0"], "epochs is a whole number from 1; got 0"),
        (["seeds=1"], "seeds is a whole number from 2; got 1"),
        (["sentences=600"], "there are 1024 sentences; cannot train on 600 and test on 600"),
    ],
)
def test_wrong_parameters_are_said_before_anything_is_computed(
    project: Path, shelf: Path, tmp_path: Path, more: list[str], match: str
) -> None:
    cells = [cell.source for cell in read_chapter(ROOT / "notebooks" / f"{CHAPTER}.md").code_cells]
    first = next(k for k, source in enumerate(cells) if "text_study.train_groups" in source)
    parameters = {"data": str(shelf / "data"), "models": str(shelf / "models"), "examples": ROWS, "study": "text"}
    for pair in more:
        name, value = pair.split("=")
        parameters[name] = value if name in ("models", "data", "study") else json.loads(value)
    space: dict[str, Any] = {}
    exec(cells[0], space)
    space |= parameters
    program = "\n".join(cells[1 : first + 1])
    with pytest.raises(ValueError, match=match) as caught:
        exec(program, space)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["text", "robustness"])
def test_published_table_is_read_only_with_its_own_record(tmp_path: Path, name: str) -> None:
    source, path = ROOT / "book" / "results" / f"lora-{name}.csv", tmp_path / f"lora-{name}.csv"
    table, record = tables.published(source)
    assert len(table) > 100
    assert record["table_checksum"] == checksum(source)
    assert tables.published(path) is None
    path.write_bytes(source.read_bytes())
    with pytest.raises(ValueError, match=rf"lora-{name}.json is missing: git restore .*lora-{name}.json$"):
        tables.published(path)
    path.with_suffix(".json").write_bytes(source.with_suffix(".json").read_bytes())
    pd.testing.assert_frame_equal(tables.published(path)[0], table)
    path.write_bytes(source.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"is not what its record names: git restore \S+csv \S+json$"):
        tables.published(path)


def test_cached_tables_go_stale_with_code_and_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "ncutil", tmp_path / "ncutil")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr(staleness, "key", partial(staleness.key, root=tmp_path))
    cells = [cell.source for cell in read_chapter(ROOT / "notebooks" / f"{CHAPTER}.md").code_cells]
    space: dict[str, Any] = {}
    exec(next(source for source in cells if source.startswith("import ")), space)
    space |= {"pretraining": 1, "sweep_epochs": 1}
    exec(next(source for source in cells if "def sweep(" in source), space)
    trained = []
    monkeypatch.setattr(adapters, "train", lambda *given, **more: trained.append(1) or pd.DataFrame({"s": [1.0]}))
    chsh = tmp_path / "ncutil" / "bell" / "chsh.py"
    source = chsh.read_text()

    def runs() -> int:
        trained.clear()
        space["sweep"](draws=1, bases=1)
        return len(trained)

    assert (runs(), runs()) == (2, 0)
    chsh.write_text(source + "\n# A comment.\n")
    assert runs() == 0
    chsh.write_text(source + "\nNEW = 1\n")
    assert (runs(), runs()) == (2, 0)
    space["pretraining"] = 2
    assert (runs(), runs()) == (2, 0)
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "99.0" if name == "torch" else installed(name))
    assert (runs(), runs()) == (2, 0)


def test_published_tables_hold_what_the_profiles_run() -> None:
    """The page and the profile speak of one table: its groups, ranks and seeds."""
    profile = Project(ROOT).profiles["text"][CHAPTER]
    table = pd.read_csv(ROOT / "book" / "results" / "lora-text.csv")
    assert set(table.group) == set(text_study.TEXT_GROUPS)
    assert sorted(set(table["rank"])) == profile["ranks"]
    assert table.groupby("group").seed.nunique().eq(profile["seeds"]).all()
    assert dict(zip(table.group, table.tie, strict=True)) == {
        n: g.alpha_rule for n, g in text_study.TEXT_GROUPS.items()
    }
