"""Files that are whole or not there, and the rule for what is stale."""

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

from ncutil.ground import staleness
from ncutil.ground.files import checksum, lock, replacing, write


def test_replacing_keeps_the_old_file_on_an_error(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write(path, "old")

    def stop_halfway() -> None:
        with replacing(path) as part:
            part.write_text("ha")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_shows_the_new_file_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "table.csv"
    with replacing(path) as part:
        part.write_text("new")
        assert part.suffix == path.suffix
        assert not path.exists()
    assert path.read_text() == "new"


def test_checksum_sees_content_and_place_of_every_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x.csv").write_text("1")
    first = checksum(tmp_path)
    (tmp_path / "a" / "x.csv").rename(tmp_path / "b" / "x.csv")
    moved = checksum(tmp_path)
    (tmp_path / "b" / "x.csv").write_text("2")
    assert len({first, moved, checksum(tmp_path)}) == 3
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        checksum(tmp_path / "c")


def test_lock_is_held_by_one_and_free_after(tmp_path: Path) -> None:
    waited: list[bool] = []
    with (
        lock(tmp_path / "lock"),
        pytest.raises(TimeoutError, match="another process holds"),
        lock(tmp_path / "lock", wait=0.01, busy=lambda: waited.append(True)),
    ):
        pytest.fail("held twice")
    assert waited == [True]
    with lock(tmp_path / "lock", wait=0):
        pass


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A package with a module that imports another, and one that nobody imports."""
    rooms = {
        "__init__": "",
        "upper": "from house import lower\n\ndef f():\n    'Text.'\n    return lower.VALUE\n",
        "lower": "VALUE = 1\n",
        "other": "VALUE = 1\n",
    }
    for name, source in rooms.items():
        write(tmp_path / "house" / f"{name}.py", source)
    return tmp_path


def key_of(root: Path, **given: object) -> staleness.Key:
    return staleness.key(**{"modules": ["house.upper"], "packages": ("house",), "root": root, **given})


@pytest.mark.parametrize(
    ("module", "old", "new", "says"),
    [
        ("upper", "return", "return 0 +", "ncutil changed"),
        ("lower", "VALUE = 1", "VALUE = 2", "ncutil changed"),
        ("other", "VALUE = 1", "VALUE = 2", ""),
        ("lower", "VALUE = 1", "VALUE = 1  # one", ""),
        ("upper", "'Text.'", '"""Other text."""', ""),
    ],
)
def test_key_sees_code_that_is_reached(house: Path, module: str, old: str, new: str, says: str) -> None:
    before, path = key_of(house), house / "house" / f"{module}.py"
    path.write_text(path.read_text().replace(old, new))
    assert staleness.changes(before, key_of(house)) == says


def test_key_sees_code_cells_and_parameters(house: Path) -> None:
    first = key_of(house, cells=["x = 1"], parameters={"runs": (1, 2)})
    assert staleness.changes(first, key_of(house, cells=["x=1  # one"], parameters={"runs": [1, 2]})) == ""
    changed = staleness.changes(first, key_of(house, cells=["x = 2"], parameters={"runs": [1, 3]}))
    assert changed == "code cells, parameters changed"


def test_key_sees_a_new_version_of_numpy(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, version = key_of(house), metadata.version
    assert before["versions"]["numpy"] == version("numpy")
    monkeypatch.setattr(metadata, "version", lambda name: "99.0" if name == "numpy" else version(name))
    assert staleness.changes(before, key_of(house)) == "installed versions changed"


def test_key_has_optional_packages_only_where_they_are_named(house: Path) -> None:
    assert "peft" not in key_of(house)["versions"]
    if find_spec("peft") is None:
        pytest.skip("peft is in the extra 'lora'")
    assert "peft" in key_of(house, cells=["import peft"])["versions"]


def test_key_tells_data_of_one_name_apart(house: Path) -> None:
    places = [house / folder / "x.csv" for folder in ("a", "b")]
    for place in places:
        write(place, "1")
    first = key_of(house, data=places)
    assert first["data"].keys() == {"a/x.csv", "b/x.csv"}
    write(places[1], "2")
    assert staleness.changes(first, key_of(house, data=places)) == "data changed"
    write(places[1], "1")
    assert staleness.changes(key_of(house, data=places[:1]), key_of(house, data=places[1:])) == "data changed"


def test_key_sees_instructions_where_rounding_counts(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staleness.vectors.cache_clear()
    before, exact = key_of(house), key_of(house, rounding=False)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    staleness.vectors.cache_clear()
    assert staleness.changes(before, key_of(house)) == "processor changed"
    assert staleness.changes(exact, key_of(house, rounding=False)) == ""
    staleness.vectors.cache_clear()
