"""Rows of files of items: none is left out without a word, or taken for another."""

import hashlib
import json
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
from eqids.data.info import render_info

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


def clash(rows: Rows) -> tuple[int, int] | None:
    """Two rows of one item that differ; the first such item's."""
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
).filter(lambda rows: {item for item, _ in rows} & {*USED})  # fmt: skip


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
    once = dict(rows)
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
    for number, words in [
        (counts.item_rows_unused, f" of {len(rows)} rows are of no item in the events"),
        (counts.item_rows_repeated, f" of {len(rows)} rows repeat another row and are"),
        (counts.items_untitled, " of 4 items; their ids are their titles"),
    ]:
        assert (f"{number}{words}" in told) == bool(number)


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
    (line,) = (one for one in said if "478 of 500 rows are of no item" in one)
    words = line.partition("python -m eqids.catalog ")[2]
    assert f"--items '{items}'" in words and f"--data_dir {dataset.path}" in words
    command.main(shlex.split(words))
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


TEMPLATE = "{title} by {author}, {year}"
BOOKS = [
    (1, "Heat", "", 1995), (2, "Up", "Docter", ""), (3, "", "Mann", 1999),
    (4, "Ali", "Mann", 2001), (5, "  ", "", ""), (6, "é{x}", "'q' 100%", 1),
]  # fmt: skip
TEXTS = {1: "Heat, 1995", 2: "Up by Docter", 3: "Mann, 1999", 4: "Ali by Mann, 2001",
         5: "", 6: "é{x} by 'q' 100%, 1"}  # fmt: skip


def books(folder: Path, **more: Any) -> Dataset:
    source = f"csv:{write_csv(folder / 'plays.csv', PLAYS)}"
    header = ("item_id", "title", "author", "year")
    items = write_csv(folder / "books.csv", BOOKS[:4], header)
    write_csv(folder / "new.csv", BOOKS[4:], header)
    return prepared(folder, source, items=items, **{"text": TEMPLATE, **more})


def texts(dataset: Dataset) -> dict:
    found = open_dataset(dataset.path).items()
    return found.set_index("item")["text"].to_dict()


def test_later_items_have_texts_of_the_same_template(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    dataset = books(tmp_path)
    assert dataset.info.texts is not None
    assert dataset.info.texts.template == TEMPLATE
    add(dataset, "--items", str(tmp_path / "new.csv"))
    said = capsys.readouterr().out
    assert "new.csv has no title for 1 of 2 items; their ids are their titles" in said
    assert texts(dataset) == TEXTS
    command.main(["show", "--data_dir", str(dataset.path)])
    assert f"texts     {TEMPLATE!r}" in capsys.readouterr().out
    assert open_dataset(dataset.path).info.texts == dataset.info.texts


def test_a_column_that_the_template_needs_is_named(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    dataset = books(tmp_path)
    items = write_csv(tmp_path / "less.csv", [(7, "Seven", 1995)],
                      ("item_id", "title", "year"))  # fmt: skip
    flags = ["add", "--data_dir", str(dataset.path), "--items", str(items)]
    said = refused(command.main, flags, capsys)
    assert f"the template of {dataset.path}, {TEMPLATE!r} names 'author'" in said
    assert "no column of" in said and "give another --text" in said
    command.main([*flags, "--text", "{title} ({year})"])
    said = capsys.readouterr().out
    assert f"made by '{{title}} ({{year}})', those of {dataset.path} by" in said
    assert texts(dataset)[7] == "Seven (1995)"
    both = [*flags, "--text", "{title}", "--text_column", "title"]
    assert "wanted one" in refused(command.main, both, capsys)


def test_a_title_column_plays_the_part_of_the_first(tmp_path: Path) -> None:
    source = f"csv:{write_csv(tmp_path / 'plays.csv', PLAYS)}"
    rows = [(n, f"Film {n}", f"Sir {n}") for n in range(1, 9)]
    header = ("item_id", "a{b}", "title")
    items = write_csv(tmp_path / "items.csv", rows[:4], header)
    dataset = prepared(tmp_path, source, items=items, title_column="a{b}")
    assert texts(dataset) == {n: f"Film {n}" for n in range(1, 5)}
    add(dataset, "--items", str(write_csv(items, rows[4:6], header)))
    more = write_csv(items, rows[6:], ("item_id", "name", "title"))
    add(dataset, "--items", str(more), "--title_column", "name")
    assert texts(dataset) == {n: f"Film {n}" for n in range(1, 9)}


@pytest.mark.parametrize("header", ["title,genres", "title,year,genres"])
def test_films_that_come_later_have_texts_like_others(
    tmp_path: Path, header: str
) -> None:
    folder = tmp_path / "ml"
    folder.mkdir()
    plays = [(1, n, 3, n) for n in range(1, 5)]
    lines = ["::".join(map(str, play)) for play in plays]
    (folder / "ratings.dat").write_text("\n".join(lines) + "\n")
    films = ["1::Heat (1995)::Crime|Drama", "2::Odd::(no genres listed)",
             "3::Up (2009)::Comedy", "4::Ali (2001)::Drama",
             "8::New (1999)::War"]  # fmt: skip
    (folder / "movies.dat").write_text("\n".join(films) + "\n")
    said: list[str] = []
    dataset = prepared(tmp_path, f"ml-1m:{folder}", said=said)
    assert any("1 of 5 rows are of no item in the events" in one for one in said)
    new = "Alien (1979)" if header == "title,genres" else "Alien,1979"
    (tmp_path / "new.csv").write_text(
        f'item_id,{header}\n9,{new},"Horror, Sci-Fi"\n7,{new},\n'
    )
    add(dataset, "--items", str(tmp_path / "new.csv"))
    assert texts(dataset) == {
        1: "Heat (1995), Crime, Drama", 2: "Odd", 3: "Up (2009), Comedy",
        4: "Ali (2001), Drama", 9: "Alien (1979), Horror, Sci-Fi", 7: "Alien (1979)",
    }  # fmt: skip
    titles = open_dataset(dataset.path).items().set_index("item")["title"]
    assert titles[9] == titles[7] == "Alien (1979)"


def test_a_dataset_that_follows_uses_the_template(tmp_path: Path) -> None:
    old = books(tmp_path)
    later = tmp_path / "later"
    later.mkdir()
    plays = [*PLAYS, ("b", 5, 9), ("b", 6, 10), ("b", 1, 11)]
    header = ("item_id", "title", "author", "year")
    changed = [*BOOKS[:3], (4, "Ali", "Michael Mann", 2001), *BOOKS[4:]]
    items = write_csv(later / "items.csv", changed, header)
    source = f"csv:{write_csv(later / 'plays.csv', plays)}"
    said: list[str] = []
    new = prepared(later, source, items=items, catalog=old.path, said=said)
    assert texts(new) == TEXTS and new.info.texts == old.info.texts
    assert f"texts of items are made by {TEMPLATE!r}, as in {old.path}" in said
    (line,) = (one for one in said if "have another title or text" in one)
    assert line.startswith("warning: 1 items") and "they keep those of" in line
    said.clear()
    settings = {"catalog": old.path, "text": "{title}!", "overwrite": True}
    new = prepared(later, source, items=items, said=said, **settings)
    assert texts(new) == {**TEXTS, 6: "é{x}!"}
    assert any("only new items get the former" in one for one in said)
    # Without titles the known items keep theirs, and later ones get texts like them.
    new = prepared(later, source, catalog=old.path, overwrite=True)
    assert new.info.texts == old.info.texts
    assert texts(new) == {**{n: TEXTS[n] for n in range(1, 5)}, 5: "", 6: ""}


def test_rows_of_items_that_are_dropped_as_rare_are_counted(tmp_path: Path) -> None:
    plays = [*PLAYS, ("b", 1, 5), ("b", 2, 6), ("c", 2, 7), ("c", 1, 8), ("a", 2, 9)]
    source = f"csv:{write_csv(tmp_path / 'plays.csv', plays)}"
    items = write_csv(tmp_path / "items.csv", BOOKS, ("item_id", "title", "x", "y"))
    said: list[str] = []
    dataset = prepared(
        tmp_path, source, items=items, min_item_interactions=2, said=said
    )
    assert dataset.info.counts.items_dropped == 2
    assert dataset.info.counts.item_rows_unused == 4
    assert any(
        "4 of 6 rows are of no item in the events that were kept, so" in s for s in said
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


def test_a_folder_that_says_nothing_of_texts_opens(
    copy: Dataset, tmp_path: Path
) -> None:
    """As folders of earlier versions do."""
    path = copy.path / "dataset.json"
    values = json.loads(render_info(copy.info))
    new = ("item_rows", "item_rows_repeated", "item_rows_unused", "items_unnamed",
           "items_untitled")  # fmt: skip
    for name in new:
        del values["counts"][name]
    del values["texts"]
    text = json.dumps({**values, "sha256": "0" * 64}, indent=2)
    digest = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(text.replace("0" * 64, digest))
    dataset = open_dataset(copy.path)
    assert dataset.info == copy.info and dataset.info.texts is None
    (tmp_path / "new.csv").write_text("item_id,title,text\nx,Ex,of old\ny,Why,\nz,,\n")
    add(dataset, "--items", str(tmp_path / "new.csv"))
    found = texts(dataset)
    assert [found[item] for item in "xyz"] == ["of old", "Why", ""]
