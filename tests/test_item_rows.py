"""Rows of files of items: none is left out without a word, or taken for another."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st
from plays import prepared, write_csv
from pytest import CaptureFixture
from runs import refused

from eqids import catalog as command
from eqids.config import UserError
from eqids.data import Dataset, open_dataset

# Ibis 12 calls what DuckDB 2 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

USED = ("1", "2", "3", "4")
PLAYS = [("a", one, time) for time, one in enumerate(USED)]
HEADER = ("item_id", "title")
Rows = Sequence[tuple[str, str]]


def items_file(folder: Path, kind: str, rows: Rows) -> dict[str, Any]:
    """Settings of `prepared` with these rows as the items of PLAYS."""
    plays = write_csv(folder / "plays.csv", PLAYS)
    if kind == "csv":
        items = write_csv(folder / "items.csv", rows, HEADER)
    elif kind == "parquet":
        items = folder / "items.parquet"
        ids, titles = zip(*rows, strict=True)
        pq.write_table(pa.table({"item_id": ids, "title": titles}), items)
    else:
        lines = ["user_id:token\titem_id:token\ttimestamp:float"]
        lines += ["\t".join(map(str, play)) for play in PLAYS]
        (folder / "a.inter").write_text("\n".join(lines) + "\n")
        lines = ["item_id:token\tmovie_title:token_seq", *map("\t".join, rows)]
        (folder / "a.item").write_text("\n".join(lines) + "\n")
        return {"source": f"recbole:{folder / 'a.inter'}", "overwrite": True}
    return {"source": f"csv:{plays}", "items": items, "overwrite": True}


def meant(item: str) -> str:
    """The item of a row, where those of events are integers."""
    return "1" if item == "1.0" else item


def clash(rows: Rows) -> tuple[int, int] | None:
    """Two rows of one item that differ; the first such item's."""
    rows = [(meant(item), title) for item, title in rows]
    for first, (item, title) in enumerate(rows):
        if item in [one for one, _ in rows[:first]]:
            continue
        for second, (other, another) in enumerate(rows):
            if other == item and another.strip() != title.strip():
                return first + 1, second + 1
    return None


some_rows = st.lists(
    st.tuples(
        st.sampled_from(["1", "2", "3", "01", "1.0", "9", "one", "nan", "NULL"]),
        st.sampled_from(["Heat", "Heat", "Up", "  "]),
    ),
    min_size=1, max_size=7,
).filter(lambda rows: {meant(item) for item, _ in rows} & {*USED})  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "parquet", "recbole"])
@settings(max_examples=12)
@given(some_rows)
def test_every_row_is_used_or_counted_or_named(
    tmp_path_factory: pytest.TempPathFactory, kind: str, rows: list[tuple[str, str]]
) -> None:
    folder, said = tmp_path_factory.mktemp("items"), list[str]()
    given_ = items_file(folder, kind, rows)
    two = clash(rows)
    if two is not None:
        first, second = (repr(rows[n - 1][1].strip()) for n in two)
        wanted = rf"its title is {first} in row {two[0]} and {second} in row {two[1]};"
        with pytest.raises(UserError, match=wanted):
            prepared(folder, **given_)
        assert not (folder / "out").exists()
        return
    dataset = prepared(folder, said=said, **given_)
    once = {meant(item): title for item, title in rows}
    counts = dataset.info.counts
    assert counts.item_rows == len(rows)
    assert counts.item_rows_repeated == len(rows) - len(once)
    assert counts.item_rows_unused == len(once.keys() - {*USED})
    assert counts.items_unnamed == len({*USED} - once.keys())
    blank = [item for item in once.keys() & {*USED} if not once[item].strip()]
    assert counts.items_untitled == len(blank)
    titles = dataset.items().set_index("item")["title"].to_dict()
    for item in USED:
        assert titles[int(item)] == (once.get(item, "").strip() or item)
    told = "\n".join(said)
    for number, tokens in [
        (counts.item_rows_unused, f" of {len(rows)} rows name no item of the events"),
        (counts.item_rows_repeated, f" of {len(rows)} rows repeat another row and are"),
        (counts.items_untitled, " of 4 items; their ids are their titles"),
    ]:
        assert (f"{number}{tokens}" in told) == bool(number)


def test_the_command_that_is_named_adds_the_rows_that_are_left(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    """500 rows of which 20 are used, two of them listed twice."""
    plays = [("a", n, n) for n in range(20)]
    rows = [(n, f"Film {n}") for n in range(498)] + [(3, "Film 3"), (4, "Film 4")]
    source = f"csv:{write_csv(tmp_path / 'plays.csv', plays)}"
    items = write_csv(tmp_path / "my items.csv", rows, ("item_id", "name"))
    said: list[str] = []
    dataset = prepared(
        tmp_path, source, items=items, title_column="name", said=said, text="No {name}!"
    )
    assert f"{items}: 2 of 500 rows repeat another row and are dropped" in said
    (line,) = (one for one in said if "478 of 500 rows name no item" in one)
    tokens = line.partition("python -m eqids.catalog ")[2]
    assert f"--items '{items}'" in tokens and f"--data_dir {dataset.path}" in tokens
    command.main(shlex.split(tokens))
    assert "items 478 added (20 items left out, 2 named again)" in (
        capsys.readouterr().out
    )
    table = open_dataset(dataset.path).items().set_index("item")
    assert table["title"].to_dict() == {n: f"Film {n}" for n in range(498)}
    assert table["text"].to_dict() == {n: f"No Film {n}!" for n in range(498)}


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (
            pa.array(["1", None, "2", None]),
            "in row 2 and in 1 others, wanted an item id",
        ),
        (pa.array([1.0, float("nan")]), "'item_id' is empty in row 2, wanted an item"),
        (pa.array([None, 1]), "'item_id' is empty in row 1, wanted an item id"),
    ],
    ids=lambda ids: str(getattr(ids, "type", "")),
)
def test_a_row_without_an_id_is_named(
    copy: Dataset, ids: pa.Array, said: str, tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:  # fmt: skip
    given_ = items_file(tmp_path, "parquet", [("1", "x")])
    pq.write_table(pa.table({"item_id": ids, "title": ids}), given_["items"])
    with pytest.raises(UserError, match=said):
        prepared(tmp_path, **given_)
    for name in ("add", "retire"):
        flags = [name, "--data_dir", str(copy.path), "--items", str(given_["items"])]
        assert re.search(said, refused(command.main, flags, capsys))


def add(dataset: Dataset, *flags: str) -> None:
    command.main(["add", "--data_dir", str(dataset.path), *flags])


def test_items_to_add_are_named_once(
    copy: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    first, second = ("x", "Ex", ["item 1"]), ("y", "Why", None)
    items, vectors = tmp_path / "new.parquet", tmp_path / "v.npy"
    flags = ["--data_dir", str(copy.path), "--items", str(items)]

    def write(*rows: tuple) -> None:
        columns = zip(
            ("item_id", "title", "similar"), zip(*rows, strict=True), strict=True
        )
        pq.write_table(pa.table({name: list(cells) for name, cells in columns}), items)

    for other, said in [
        (("x", "Eks", ["item 1"]), "title is 'Ex' in row 1 and 'Eks' in row 3"),
        (("x", None, ["item 1"]), "title is 'Ex' in row 1 and '' in row 3"),
        (("x", "Ex", ["item 2"]), "similar is ['item 1'] in row 1 and ['item 2'] in"),
        (("x", "Ex", None), "its similar is ['item 1'] in row 1 and empty in row 3"),
    ]:
        write(first, second, other)
        assert said in refused(command.main, ["add", *flags], capsys)
    write(first, second, first)
    flags += ["--vectors", str(vectors)]
    np.save(vectors, np.eye(3, 4, dtype=np.float32))
    said = refused(command.main, ["add", *flags], capsys)
    assert "two vectors for one item, in rows 1 and 3" in said
    assert open_dataset(copy.path).info.catalog_version == 1
    np.save(vectors, np.eye(3, 4, dtype=np.float32)[[0, 1, 0]])
    command.main(["add", *flags])
    assert "items 2 added (1 named again)" in capsys.readouterr().out
    dataset = open_dataset(copy.path)
    found = dataset.item_vectors.reshape(dataset.num_slots, -1)
    np.testing.assert_array_equal(found[dataset.slot_of(["x", "y"])], np.eye(2, 4))


@pytest.mark.parametrize("how", ["ids", "items"])
def test_items_to_retire_are_named_once(
    copy: Dataset, how: str, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    ids = ["item 3", "item 4", "item 3"]
    # Titles are of no interest here, nor are their contradictions.
    items = write_csv(tmp_path / "a.csv", list(zip(ids, "abc", strict=True)), HEADER)
    value = {"ids": ",".join(ids), "items": str(items)}[how]
    command.main(["retire", "--data_dir", str(copy.path), f"--{how}", value])
    assert "items 2 retired (1 named again)" in capsys.readouterr().out


def test_rows_of_items_that_are_dropped_as_rare_are_counted(tmp_path: Path) -> None:
    plays = [*PLAYS, ("b", 1, 5), ("b", 2, 6), ("c", 2, 7), ("c", 1, 8), ("a", 2, 9)]
    source = f"csv:{write_csv(tmp_path / 'plays.csv', plays)}"
    rows = [(n, f"Film {n}") for n in range(1, 7)]
    items = write_csv(tmp_path / "items.csv", rows, HEADER)
    said: list[str] = []
    dataset = prepared(
        tmp_path, source, items=items, min_item_interactions=2, said=said
    )
    assert dataset.info.counts.items_dropped == 2
    assert dataset.info.counts.item_rows_unused == 4
    assert any(
        "4 of 6 rows name no item of the events that were kept and" in s for s in said
    )


def test_an_empty_template_is_refused(
    copy: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    settings = items_file(tmp_path, "csv", [("1", "x")])
    with pytest.raises(UserError, match="--text is '', wanted names of columns"):
        prepared(tmp_path, **settings, text="")
    flags = ["--data_dir", str(copy.path), "--items", str(settings["items"])]
    said = refused(command.main, ["add", *flags, "--text", ""], capsys)
    assert "--text is '', wanted names of columns" in said
