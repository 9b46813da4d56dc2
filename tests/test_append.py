"""`prepare --append` makes what all events at once make, without reading old ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plays import write_csv

from eqids.config import PrepareConfig, UserError
from eqids.data import Dataset
from eqids.data.preparation import prepare


def rows(seed: int, ties: str, times: bool) -> list[tuple[Any, ...]]:
    """Events of users and items that all occur in the first half; some repeat."""
    rng = np.random.default_rng(seed)
    number = 400
    user, item = rng.integers(0, 30, number), rng.integers(0, 25, number)
    user[:30], item[:25] = np.arange(30), np.arange(25)
    time = 1_600_000_000 + 60 * rng.integers(0, 15, number)
    events = [(f"u{u}", i, t) for u, i, t in zip(user, item, time, strict=True)]
    if ties == "sorted":
        later = [(u, i, t + 10_000) for u, i, t in events[200:]]
        events = sorted(events[:200]) + sorted(later)
    if not times:
        return [event[:2] for event in events]
    return [*events, *events[:40]]


def made(out: Path, **flags: Any) -> Dataset:
    return prepare(PrepareConfig(data_dir=out, **flags), lambda message: None)


@pytest.mark.parametrize("split", ["leave_one_out", "temporal"])
@pytest.mark.parametrize("ties", ["file", "sorted"])
def test_it_equals_all_events_at_once(tmp_path: Path, ties: str, split: str) -> None:
    events = rows(1, ties, times=True)
    files = [write_csv(tmp_path / f"{n}.csv", part) for n, part in enumerate(
        (events[:200], events[200:], events))]  # fmt: skip
    old = made(tmp_path / "old", source=f"csv:{files[0]}", num_clusters=3, split=split)
    base = {"catalog": old.path, "split": split}
    new = made(tmp_path / "new", append=f"csv:{files[1]}", **base)
    whole = made(tmp_path / "whole", source=f"csv:{files[2]}", **base)
    assert whole.info.protocol.ties == ("file_order", "seeded_hash")[ties == "sorted"]
    for name in new.info.files:
        one, other = (one.path / name for one in (new, whole))
        assert one.read_bytes() == other.read_bytes(), name
    assert new.info.dataset_hash == whole.info.dataset_hash
    assert new.info.catalog_id == old.info.catalog_id
    assert new.info.clusters == whole.info.clusters
    if ties == "file":
        assert new.info.counts == whole.info.counts
    assert new.info.counts.duplicates_dropped >= 40
    again = made(tmp_path / "again", append=f"csv:{files[1]}", catalog=new.path,
                 split=split)  # fmt: skip
    assert again.info.dataset_hash == new.info.dataset_hash
    assert again.info.num_events == new.info.num_events


def test_new_users_and_items_enter(tmp_path: Path) -> None:
    events = rows(2, "file", times=True)
    later = [("a new user", 7, 1_700_000_000), ("a new user", 99, 1_700_000_001),
             ("a new user", 8, 1_700_000_002), ("u3", 99, 1_700_000_003)]  # fmt: skip
    old = made(tmp_path / "old", source=f"csv:{write_csv(tmp_path / 'a.csv', events)}",
               free_share=0.2)  # fmt: skip
    second = write_csv(tmp_path / "b.csv", later)
    new = made(tmp_path / "new", append=f"csv:{second}", catalog=old.path)
    both = write_csv(tmp_path / "c.csv", [*events, *later])
    whole = made(tmp_path / "whole", source=f"csv:{both}", catalog=old.path)
    assert new.info.catalog_version == 2 and new.info.num_items == 26
    assert {n: d for n, d in new.info.files.items()} == dict(whole.info.files)
    assert new.users()["user"].iloc[0] == "a new user"


def test_histories_without_times(tmp_path: Path) -> None:
    events = rows(3, "file", times=False)
    header, flags = ["user_id", "item_id"], {"time_column": None}
    one, two, both = (
        write_csv(tmp_path / f"{n}.csv", part, header)
        for n, part in enumerate((events[:250], events[250:], events))
    )
    old = made(tmp_path / "old", source=f"csv:{one}", **flags)
    new = made(tmp_path / "new", append=f"csv:{two}", catalog=old.path, **flags)
    whole = made(tmp_path / "whole", source=f"csv:{both}", catalog=old.path, **flags)
    assert dict(new.info.files) == dict(whole.info.files)
    timed = write_csv(tmp_path / "t.csv", [("u1", 3, 5)])
    with pytest.raises(UserError, match="wanted both with times, or neither"):
        made(tmp_path / "bad", append=f"csv:{timed}", catalog=old.path)
    assert not (tmp_path / "bad").exists()


def test_what_cannot_be_appended_is_refused(tmp_path: Path) -> None:
    events = rows(4, "file", times=True)
    path = write_csv(tmp_path / "a.csv", events)
    source = f"csv:{path}"
    filtered = made(tmp_path / "old", source=source, core=2)
    with pytest.raises(UserError, match="may have enough with the new ones; prepare"):
        made(tmp_path / "new", append=source, catalog=filtered.path)
    with pytest.raises(UserError, match="needs --catalog DIR"):
        PrepareConfig(append=source)
    with pytest.raises(UserError, match="contradict each other"):
        PrepareConfig(append=source, source="csv:b.csv", catalog=filtered.path)
    plain = made(tmp_path / "plain", source=source)
    other = write_csv(tmp_path / "b.csv", [("u1", "no number", 1_700_000_000)])
    with pytest.raises(UserError, match="item 'no number' of the new events is no id"):
        made(tmp_path / "new", append=f"csv:{other}", catalog=plain.path)
