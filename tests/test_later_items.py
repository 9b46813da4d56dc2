"""Texts of items that come later: of the template that the first ones were made of."""

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
from plays import prepared, write_csv
from pytest import CaptureFixture
from runs import refused

from eqids import catalog as command
from eqids.data import Dataset, open_dataset
from eqids.data.info import render_info

# Ibis 12 calls what DuckDB 2 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

PLAYS = [("a", item, time) for time, item in enumerate([1, 2, 3, 4])]


def add(dataset: Dataset, *flags: str) -> None:
    command.main(["add", "--data_dir", str(dataset.path), *flags])


TEMPLATE = "{title} by {author}, {year}"
BOOKS = [
    (1, "Heat", "", 1995), (2, "Up", "Docter", ""), (3, "", "Mann", 1999),
    (4, "Ali", "Mann", 2001), (5, "  ", "", ""), (6, "é{x}", "'q' 100%", 1),
]  # fmt: skip
TEXTS = {1: "Heat, 1995", 2: "Up by Docter", 3: "Mann, 1999", 4: "Ali by Mann, 2001",
         5: "", 6: "é{x} by 'q' 100%, 1"}  # fmt: skip


HEADER = ("item_id", "title", "author", "year")


def books(folder: Path, kind: str = "csv") -> Dataset:
    """The first four are in events; `new` holds the others."""
    source = f"csv:{write_csv(folder / 'plays.csv', PLAYS)}"
    for name, rows in (("books", BOOKS[:4]), ("new", BOOKS[4:])):
        if kind == "csv":
            write_csv(folder / f"{name}.csv", rows, HEADER)
        else:
            # Years become floats, and what is empty null.
            frame = pd.DataFrame(rows, columns=HEADER).replace("", None)
            frame["year"] = frame["year"].astype("float64")
            frame.to_parquet(folder / f"{name}.parquet")
    return prepared(folder, source, items=folder / f"books.{kind}", text=TEMPLATE)


def texts(dataset: Dataset) -> dict:
    found = open_dataset(dataset.path).items()
    return found.set_index("item")["text"].to_dict()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_later_items_have_texts_of_the_same_template(
    kind: str, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    dataset = books(tmp_path, kind)
    assert dataset.info.texts is not None
    assert dataset.info.texts.template == TEMPLATE
    add(dataset, "--items", str(tmp_path / f"new.{kind}"))
    said = capsys.readouterr().out
    assert (
        f"new.{kind} has no title for 1 of 2 items; their ids are their titles" in said
    )
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
    assert any("1 of 5 rows name no item of the events" in one for one in said)
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
    changed = [*BOOKS[:3], (4, "Ali", "Michael Mann", 2001), *BOOKS[4:]]
    items = write_csv(later / "items.csv", changed, HEADER)
    source = f"csv:{write_csv(later / 'plays.csv', plays)}"
    said: list[str] = []
    new = prepared(later, source, items=items, catalog=old.path, said=said)
    assert texts(new) == TEXTS and new.info.texts == old.info.texts
    assert f"texts of items are made by the template {TEMPLATE!r} of {old.path}" in said
    (line,) = (one for one in said if "have another title or text" in one)
    assert line.startswith("warning: 1 items") and "they keep those of" in line
    said.clear()
    settings = {"catalog": old.path, "text": "{title}!", "overwrite": True}
    new = prepared(later, source, items=items, said=said, **settings)
    assert texts(new) == {**TEXTS, 6: "é{x}!"}
    assert any("only new items get texts by --text" in one for one in said)
    # Without titles the known items keep theirs, and later ones get texts like them.
    new = prepared(later, source, catalog=old.path, overwrite=True)
    assert new.info.texts == old.info.texts
    assert texts(new) == {**{n: TEXTS[n] for n in range(1, 5)}, 5: "", 6: ""}


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
