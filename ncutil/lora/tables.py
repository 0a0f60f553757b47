"""Tables that are kept: those that a run has finished, and the published ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from ncutil.ground import staleness
from ncutil.ground.files import checksum, replacing


def cached(place: Path, key: staleness.Key, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The table that `compute` gives, computed once for all that it depends on, and kept as CSV.

    - place : of the table, without the hash and the suffix that its file name ends in
    - key : what the table depends on, from `ncutil.ground.staleness.key`
    - compute : called if there is no such table yet; a run that is killed leaves the whole table or none
    """
    path = place.with_name(f"{place.name}-{staleness.short(key)}.csv")
    if not path.is_file():
        table = compute()
        with replacing(path) as part:
            table.to_csv(part, index=False)
    return pd.read_csv(path)


def published(path: Path) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """A published table and its run's record; None if there is no such table, ValueError if the record does not fit."""
    if not path.is_file():
        return None
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise ValueError(f"{beside} is missing: git restore {beside}")
    record = json.loads(beside.read_text(encoding="utf-8"))
    if checksum(path) != record["table_checksum"]:
        raise ValueError(f"{path} is not what its record names: git restore {path} {beside}")
    return pd.read_csv(path), record
