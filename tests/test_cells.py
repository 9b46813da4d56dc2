"""Cells of files of items: a CSV file gives the texts that a Parquet file gives."""

import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings, strategies as st
from plays import prepared, write_csv

from eqids import catalog as command
from eqids.data import Dataset, open_dataset

# Ibis 12 calls what DuckDB 2 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

HEADER = ("item_id", "title", "year")
TEXT = "{title} ({year})"


def texts(folder: Path, items: Path, num_items: int, **settings: object) -> list[str]:
    """The texts of the items 1, 2, and so on."""
    plays = [("a", item, item) for item in range(1, num_items + 1)]
    plays += [("b", 1, time) for time in range(3)]
    source = f"csv:{write_csv(folder / 'plays.csv', plays)}"
    dataset = prepared(
        folder, source, items=items, text=TEXT, overwrite=True, **settings
    )
    return dataset.items().sort_values("item")["text"].tolist()


@pytest.mark.parametrize(
    ("years", "shown"),
    [
        (["1995.0", "nan", "NULL", ""], ["1995", "", "", ""]),
        (["1995.0", "7.5", " 3 ", "1e3"], ["1995", "7.5", "3", "1000"]),
        (["007", "1995.0", "NULL"], ["007", "1995.0", "NULL"]),
        (["NULL", "none", ""], ["NULL", "none", ""]),
        (["12345678901234567890", "-0.5"], ["12345678901234567890", "-0.5"]),
        (["1995", "about 1995", "nan"], ["1995", "about 1995", "nan"]),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "recbole"])
def test_spelled_numbers_are_shown_as_numbers(
    tmp_path: Path, kind: str, years: list[str], shown: list[str]
) -> None:
    titles = ["Heat", "Up", "X", "Ali"][: len(years)]
    expected = [
        f"{title} ({year})" if year else title
        for title, year in zip(titles, shown, strict=True)
    ]
    rows = list(zip(range(1, 9), titles, years, strict=False))
    if kind == "csv":
        items = write_csv(tmp_path / "items.csv", rows, HEADER)
        assert texts(tmp_path, items, len(rows)) == expected
        return
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"a\t{n}\t{n}" for n, _, _ in rows]
    lines += [f"b\t1\t{time}" for time in range(3)]
    (tmp_path / "a.inter").write_text("\n".join(lines) + "\n")
    lines = ["item_id:token\tmovie_title:token_seq\trelease_year:float"]
    lines += ["\t".join(map(str, row)) for row in rows]
    (tmp_path / "a.item").write_text("\n".join(lines) + "\n")
    found = prepared(tmp_path, f"recbole:{tmp_path / 'a.inter'}").items()
    assert found.sort_values("item")["text"].tolist() == expected


numbers = st.integers(-9999, 9999).map(float) | st.floats(-1e9, 1e9).map(
    lambda one: round(one, 3)
)


@pytest.mark.long
@settings(max_examples=8)
@given(st.lists(st.none() | numbers, min_size=1, max_size=5))
@example([1995.0, None, 7.5])
def test_what_pandas_writes_is_shown_alike(
    tmp_path_factory: pytest.TempPathFactory, years: list[float | None]
) -> None:
    folder = tmp_path_factory.mktemp("cells")
    frame = pd.DataFrame({"item_id": range(1, len(years) + 1), "title": "T"})
    frame["year"] = pd.Series(years, dtype="float64")
    frame.to_csv(folder / "i.csv", index=False)
    frame.to_csv(folder / "n.csv", index=False, na_rep="NaN")
    frame.to_parquet(folder / "i.parquet")
    names = ("i.csv", "n.csv", "i.parquet")
    csv, tokens, parquet = (texts(folder, folder / n, len(years)) for n in names)
    if any(year is not None for year in years):
        assert tokens == parquet
    assert csv == parquet
    for text, year in zip(parquet, years, strict=True):
        if year is None or math.isnan(year):
            assert text == "T"
        else:
            assert float(text.removeprefix("T (").removesuffix(")")) == year


def test_null_values_are_empty_cells_of_items_and_of_later_ones(
    tmp_path: Path,
) -> None:
    rows = [(1, "Heat", "?"), (2, "?", "1995"), (3, "Up", "?")]
    items = write_csv(tmp_path / "items.csv", rows, HEADER)
    expected = ["Heat", "(1995)", "Up"]
    assert texts(tmp_path, items, 3, null_values=("?",)) == expected
    dataset = open_dataset(tmp_path / "out")
    assert dataset.items().sort_values("item")["title"].tolist() == ["Heat", "2", "Up"]
    more = write_csv(tmp_path / "more.csv", [(4, "Ali", "?"), (5, "?", 7.0)], HEADER)
    flags = ["--data_dir", str(dataset.path), "--items", str(more)]
    command.main(["add", *flags])
    later: Dataset = open_dataset(dataset.path)
    found = later.items().set_index("item")
    assert found["text"].to_dict() == {
        **dict(zip([1, 2, 3], expected, strict=True)), 4: "Ali", 5: "(7)",
    }  # fmt: skip
    assert found["title"][5] == "5"
