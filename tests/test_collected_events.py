"""The next dataset, of an earlier dataset's events and a server's."""

import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from conftest import make_dataset
from plays import item_histories, prepared, write_csv
from pytest import CaptureFixture
from runs import refused

from eqids import catalog, prepare
from eqids.config import PrepareConfig, UserError
from eqids.data import Dataset, open_dataset
from eqids.data.info import INFO_FILE
from eqids.data.raw.collected_events import with_protocol_of
from eqids.inference.events.event_store import Event, EventStore
from eqids.inference.load_recommender import load

Rows = Sequence[tuple[str | int, str | int, int]]


def collected(path: Path, rows: Rows, data_dir: Path | None = None) -> str:
    """Writes a file of events, and returns it as a source."""
    with closing(EventStore(path)) as store:
        store.append([Event(*row) for row in rows]).result()
        if data_dir is not None:
            store.record_dataset(data_dir).result()
    return f"events:{path}"


def random_rows(seed: int, name: Callable[[int], str | int]) -> tuple[Rows, Rows]:
    """Events of a dataset and later ones: ties, repeats, new users and items."""
    rng = random.Random(seed)

    def rows(num: int, users: int, items: int, start: int) -> Rows:
        return [
            (name(rng.randrange(users)), name(rng.randrange(items)),
             1_700_000_000 + start + rng.randrange(40))
            for _ in range(num)
        ]  # fmt: skip

    old, new = rows(300, 15, 24, 0), rows(150, 20, 30, 20)
    return old, [*new, *rng.sample(old, 5), *rng.sample(new, 5)]


def content(dataset: Dataset) -> dict[str, bytes]:
    """All files of a dataset but its description."""
    return {
        file.name: file.read_bytes()
        for file in dataset.path.iterdir() if file.name != INFO_FILE
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", [int, pytest.param("user {}".format, marks=pytest.mark.long)]
)
def test_it_equals_preparing_all_events_at_once(
    tmp_path: Path, name: Callable[[int], str | int]
) -> None:
    before, after = random_rows(1, name)
    old = prepared(tmp_path / "a", f"csv:{write_csv(tmp_path / 'a.csv', before)}")
    source = collected(tmp_path / "e.sqlite", after)
    next_one = prepared(tmp_path / "b", source, catalog=old.path)
    both = write_csv(tmp_path / "b.csv", [*before, *after])
    wanted = prepared(tmp_path / "c", f"csv:{both}", catalog=old.path)
    assert content(next_one) == content(wanted)
    assert next_one.info.dataset_hash == wanted.info.dataset_hash
    assert next_one.lineage.catalog_ids == (old.info.catalog_id,)
    # Once more: all events of the file are in the dataset already.
    again = prepared(tmp_path / "d", source, catalog=next_one.path)
    assert again.info.dataset_hash == next_one.info.dataset_hash


def test_ids_of_another_spelling_are_the_datasets_ids(tmp_path: Path) -> None:
    before = [(1, 7, 10**9), (1, 8, 10**9 + 3), (1, 8, 10**9 + 4), (2, 8, 10**9)]
    old = prepared(tmp_path / "a", f"csv:{write_csv(tmp_path / 'a.csv', before)}")
    rows: Rows = [("1", 8, 10**9 + 1), (1, "7", 10**9 + 2), (3, "9", 5),
                  ("bob", 7, 6), (1, "x", 7)]  # fmt: skip
    said: list[str] = []
    source = collected(tmp_path / "e.sqlite", rows)
    found = prepared(tmp_path / "b", source, catalog=old.path, said=said)
    assert item_histories(found) == {1: [7, 8, 7, 8, 8], 2: [8], 3: [9]}
    (warning,) = [line for line in said if line.startswith("warning")]
    assert warning.startswith("warning: 2 of 5 events") and "are left out" in warning
    texts = make_dataset(tmp_path / "texts")
    source = collected(tmp_path / "t.sqlite", [(5, "item 1", 10**7), ("5", 3, 10**7)])
    found = prepared(tmp_path / "t", source, catalog=texts.path)
    assert item_histories(found)["5"] == ["item 1", "3"]


def test_ties_keep_their_order_and_the_protocol_stays(tmp_path: Path) -> None:
    rows = [(user, item, 10**9) for user in range(4) for item in range(6)]
    csv = f"csv:{write_csv(tmp_path / 'a.csv', rows)}"
    old = prepared(tmp_path / "a", csv, min_user_interactions=3, seed=5)
    assert old.info.protocol.ties == "seeded_hash"
    late = [(user, item, 10**9 + 1) for user in range(5) for item in range(6, 9)]
    source = collected(tmp_path / "e.sqlite", late[:-1])
    found = prepared(tmp_path / "b", source, catalog=old.path)
    before = item_histories(old)
    assert item_histories(found) == {u: [*before[u], 6, 7, 8] for u in range(4)}
    assert found.info.protocol == old.info.protocol
    config = PrepareConfig(source=source, min_user_interactions=2, seed=0)
    config = with_protocol_of(old.info, config)
    assert (config.min_user_interactions, config.seed) == (2, 5)


def test_the_command_continues_the_dataset_that_was_served(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    rows = [(user, item, 9_000) for user in "ab" for item in "wxy"]
    csv = write_csv(tmp_path / "a.csv", rows)
    old = prepared(tmp_path / "a", f"csv:{csv}", time_unit="days")
    source = collected(tmp_path / "e.sqlite", [("a", "z", 10**9)], old.path)
    flags = ["--source", source, "--data_dir", str(tmp_path / "next")]
    prepare.main(flags)
    found = open_dataset(tmp_path / "next")
    assert item_histories(found) == {"a": [*"wxyz"], "b": [*"wxy"]}
    assert found.info.time_unit == "days" and found.info.catalog_version == 2
    said = capsys.readouterr().out
    assert "eqids.train --continue_from RUN --data_dir" in said
    titles = write_csv(tmp_path / "i.csv", [("z", "Zed")], ("item_id", "title"))
    prepare.main([*flags, "--overwrite", "--items", str(titles)])
    items = open_dataset(tmp_path / "next").items().set_index("item")["title"]
    assert items.to_dict() == {"w": "w", "x": "x", "y": "y", "z": "Zed"}


@pytest.mark.long
def test_a_checkpoint_follows(
    dataset: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    """Serve, collect, prepare, migrate, recommend."""
    last = int(dataset.times[: dataset.offsets[1]].max())  # type: ignore[index]
    rows: Rows = [("user 0", "item 3", last + 5), ("user 0", "a new one", last + 9),
                  ("user 1", "a new one", 10**7), ("new", "item 4", 10**7)]  # fmt: skip
    source = collected(tmp_path / "e.sqlite", rows, dataset.path)
    folder = tmp_path / "next"
    prepare.main(["--source", source, "--data_dir", str(folder)])
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    where = ["--data_dir", str(folder), "--checkpoint", str(run)]
    catalog.main(["migrate", *where])
    found = load(tmp_path / "run-v2", folder)
    assert item_histories(found.dataset)["user 0"][-2:] == ["item 3", "a new one"]
    named = found.recommend([found.of_user("new")], k=99)
    assert "a new one" in set(named["item"]) and "item 4" not in set(named["item"])
    assert named["probability"].sum() < 1 - 1e-6  # of item 4


def test_mistakes_are_named(tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    source = collected(tmp_path / "e.sqlite", [(1, 2, 3)])
    said = refused(prepare.main, ["--source", source], capsys)
    assert "does not record which dataset its events continue, wanted --catalog" in said
    with pytest.raises(UserError, match="needs --catalog DIR"):
        prepared(tmp_path, source)
    with pytest.raises(UserError, match="--min_rating is 3.0, and events have no"):
        PrepareConfig(source=source, min_rating=3.0)
    said = refused(prepare.main, ["--source", f"events:{tmp_path / 'none'}"], capsys)
    assert "none, a file of events, cannot be read" in said
    rows = [(1, 2), (1, 3), (1, 4)]
    csv = write_csv(tmp_path / "u.csv", rows, ("user_id", "item_id"))
    untimed = prepared(tmp_path / "u", f"csv:{csv}", time_column=None)
    with pytest.raises(UserError, match="has no times of events, and .*e.sqlite has"):
        prepared(tmp_path / "b", source, catalog=untimed.path)


def test_the_default_folder_has_the_name_of_the_file() -> None:
    assert PrepareConfig(source="events:a/b.sqlite").folder == Path("data/b")
