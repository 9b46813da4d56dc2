"""Interactions as files, and what prepare makes of them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eqids.config import PrepareConfig
from eqids.data import Dataset
from eqids.data.preparation import prepare

HEADER = ("user_id", "item_id", "timestamp")


def write_csv(
    path: Path, rows: Sequence[Sequence], header: Sequence[str] = HEADER
) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def prepared(folder: Path, source: str, **settings: Any) -> Dataset:
    """The dataset `folder`/out; what progress says goes to the list `said`."""
    said = settings.pop("said", [])
    config = PrepareConfig(source=source, data_dir=folder / "out", **settings)
    return prepare(config, said.append)


def item_histories(dataset: Dataset) -> dict:
    """Item ids by user id, in the dataset's order."""
    names = dict(dataset.items()[["slot", "item"]].itertuples(index=False))
    users = dataset.users()["user"]
    return {
        user: [names[slot] for slot in dataset.history(row)]
        for row, user in enumerate(users)
    }
