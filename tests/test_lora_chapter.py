"""The chapter on the LoRA study with real encoders and data sets: tiny ones, in the layout of the real ones."""

import json
import shutil
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


def test_whole_chapter_on_other_encoders_and_sentences(project: Path, shelf: Path) -> None:
    """The words on a BERT from a folder, and the study on sentences beside them; every claim is judged."""
    given = {"study": "text", "data": shelf / "data", "models": shelf / "models", "examples": ROWS}
    given |= {"encoder": shelf / "models" / "minilm"}
    words = [word for name, value in given.items() for word in ("-p", f"{name}={value}")]
    done = cli(project, "run", "3", "--profile", "smoke", *words, TOKENIZERS_PARALLELISM="false")
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (project / "_build" / "runs").glob("smoke@*")
    record = json.loads((folder / CHAPTER / "run.json").read_text())
    expected = {claim.id for claim in claims.load().values() if claim.chapter == CHAPTER and claim.holds_if}
    assert {item["id"] for item in record["claims"]} == expected
    said = outputs(folder / CHAPTER / f"{CHAPTER}.ipynb")
    assert all(name in said for name in text_study.TEXT_GROUPS)


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
        (["study=word"], "unknown study 'word'; known: text, paper"),
    ],
)
def test_wrong_parameters_are_said_before_anything_is_computed(shelf: Path, more: list[str], match: str) -> None:
    cells = [cell.source for cell in read_chapter(ROOT / "notebooks" / f"{CHAPTER}.md").code_cells]
    parameters = {"data": str(shelf / "data"), "models": str(shelf / "models"), "examples": ROWS, "study": "text"}
    for pair in more:
        name, value = pair.split("=")
        parameters[name] = value if name in ("models", "data", "study") else json.loads(value)
    space: dict[str, Any] = {}
    exec(cells[0], space)
    space |= parameters
    with pytest.raises(ValueError, match=match) as caught:
        exec(cells[1] + "\n" + cells[2], space)
    assert "\n" not in str(caught.value)


def test_published_table_is_read_only_with_its_own_record(tmp_path: Path) -> None:
    name = "text"
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


def test_published_tables_hold_what_the_profiles_run() -> None:
    """The page and the profile speak of one table: its groups, ranks and seeds."""
    ranks = Project(ROOT).profiles["text"][CHAPTER]["ranks"]
    table = pd.read_csv(ROOT / "book" / "results" / "lora-text.csv")
    assert set(table.group) == set(text_study.TEXT_GROUPS)
    assert sorted(set(table["rank"])) == ranks
    assert table.groupby("group").seed.nunique().eq(4).all()
    assert dict(zip(table.group, table.tie, strict=True)) == {
        n: g.alpha_rule for n, g in text_study.TEXT_GROUPS.items()
    }
