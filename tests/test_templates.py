"""Texts of items from templates, against plain Python."""

import datetime as dt
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from eqids.config import UserError
from eqids.data.raw.template import field, text_of

# Ibis 12 calls what DuckDB 2 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")


class Unit(NamedTuple):
    """A column, or units between brackets, and the text that belongs to it."""

    before: str
    inside: Any
    after: str
    brackets: str = ""


def made(template: str, table: pa.Table) -> list[str]:
    con, rows = ibis.duckdb.connect(), ibis.memtable(table)
    text = text_of(
        template, Path("items.csv"), {name: rows[name] for name in rows.columns}
    )
    return con.to_pyarrow(text.name("text")).to_pylist()


def expected(units: Sequence[Unit], cells: Mapping[str, str | None]) -> str:
    """The rule of the module in plain Python."""
    text, some = "", False
    for number, unit in enumerate(units):
        if isinstance(unit.inside, str):
            inside = cells[unit.inside] or ""
            blank = all(unicodedata.category(c)[0] == "Z" or
                        unicodedata.category(c) == "Cc" for c in inside)  # fmt: skip
            inside = "" if blank else inside
        else:
            inside = expected(unit.inside, cells)
        if inside:
            before = unit.before if some or number == 0 else ""
            left, right = unit.brackets[:1], unit.brackets[1:]
            text += before + left + inside + right + unit.after
            some = True
    return text


def written(units: Sequence[Unit]) -> str:
    text = ""
    for unit in units:
        inside = unit.inside
        inside = field(inside) if isinstance(inside, str) else written(inside)
        left, right = unit.brackets[:1], unit.brackets[1:]
        around = [one.replace("{", "{{").replace("}", "}}")
                  for one in (unit.before, left, right, unit.after)]  # fmt: skip
        text += around[0] + around[1] + inside + around[2] + around[3]
    return text


NAMES = ("title", "by line", "100%", "a{b}c", "back\\slash", "naïve: é!", "'q'", "x.y")
CELLS = ("", " ", "\t\u00a0\u2003", "Heat", "{title}", "50% 'off' \"now\"", "(1995)",
         " , ", "\\1", "é★", "a\nb", "$1", "NULL")  # fmt: skip
MARKED = (", ", "; by ", " | ", "\n", " - ", " – of ", " / ", ",")
cells = st.none() | st.sampled_from(CELLS) | st.text(max_size=5)
brackets = st.sampled_from(["", "()", "[]", "{}", "“”", "«»", '""'])


@st.composite
def units(draw: st.DrawFn, depth: int = 0) -> list[Unit]:
    found: list[Unit] = []
    number = draw(st.integers(1, 4 - depth))
    for at in range(number):
        tokens = draw(st.sampled_from(["", " min", "'s", " 100%\\", "."]))
        last = at == number - 1
        marked = st.sampled_from(MARKED)
        plain = st.sampled_from(["", " by ", ": ", " co-", " %s "])
        # Text without a mark belongs to the field that comes after it.
        unmarked_before = found and not found[-1].after
        before = draw(plain | marked if at == 0 or unmarked_before else marked)
        inside: Any = draw(st.sampled_from(NAMES))
        around = draw(brackets)
        if around and depth == 0 and draw(st.booleans()):
            quoted = around == '""'
            inside = draw(
                units(depth=1).filter(lambda u, q=quoted: not (q and quotes(u)))
            )
        after = tokens if last or tokens else ""
        found.append(Unit(before, inside, after, around))
    return found


def quotes(inside: Sequence[Unit]) -> bool:
    """Whether there are straight quotation marks, which close where others open."""
    return any(unit.brackets == '""' for unit in inside)


@settings(max_examples=80)
@given(
    units(),
    st.lists(
        st.fixed_dictionaries(dict.fromkeys(NAMES, cells)), min_size=1, max_size=5
    ),
)
def test_a_template_is_filled_as_the_rule_says(
    drawn: list[Unit], rows: list[dict[str, str | None]]
) -> None:
    columns = {n: pa.array([row[n] for row in rows], pa.string()) for n in NAMES}
    found = made(written(drawn), pa.table(columns))
    assert found == [expected(drawn, row) for row in rows]


BOOK = "{title} by {author}, {year}"
FILM = "{title} ({year}), {genres}"


@pytest.mark.parametrize(
    ("template", "cells", "text"),
    [
        (BOOK, ("Heat", "Mann", "1995"), "Heat by Mann, 1995"),
        (BOOK, ("Heat", "", "1995"), "Heat, 1995"),
        (BOOK, ("Heat", None, " "), "Heat"),
        (BOOK, ("", "Mann", "1995"), "Mann, 1995"),
        (BOOK, ("Heat", "Mann", ""), "Heat by Mann"),
        (BOOK, (None, None, "1995"), "1995"),
        (BOOK, (None, "\t", ""), ""),
        (FILM, ("Heat", "", "", "Crime"), "Heat, Crime"),
        (FILM, ("Heat", "", "1995", ""), "Heat (1995)"),
        (FILM, ("Heat", "", "", ""), "Heat"),
        ("{title}, {year} min, {genres}", ("Heat", "", "", "Crime"), "Heat, Crime"),
        ("{title}, {year} min, {genres}", ("Heat", "", "170", ""), "Heat, 170 min"),
        ("{title} ({year}, {author})", ("Heat", "Mann", ""), "Heat (Mann)"),
        ("{title} (by {author})", ("Heat", "", ""), "Heat"),
        ("{title} ({author}", ("Heat", "Mann", ""), "Heat (Mann"),
        ("{author}'s {title}", ("Heat", "Mann", ""), "Mann's Heat"),
        ("{author}'s {title}", ("Heat", "", ""), "Heat"),
        ("Film: {title}.", ("Heat", "", ""), "Film: Heat."),
        ("Film: {title}.", ("", "", ""), ""),
        ("{{{title}}} (film)", ("Heat", "", ""), "{Heat} (film)"),
        ('"{title}" — {author}', ("", "Mann", ""), "Mann"),
    ],
)  # fmt: skip
def test_empty_fields_take_what_is_theirs_along(
    template: str, cells: tuple[str | None, ...], text: str
) -> None:
    names = ("title", "author", "year", "genres")
    values = [*cells, None, None][: len(names)]
    columns = {
        n: pa.array([v], pa.string()) for n, v in zip(names, values, strict=True)
    }
    assert made(template, pa.table(columns)) == [text]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([1984, None]), ["1984", ""]),
        (pa.array([2**63], pa.uint64()), [str(2**63)]),
        (pa.array([1984.0, 7.5, None, float("nan")]), ["1984", "7.5", "", ""]),
        (pa.array([True, False, None]), ["true", "false", ""]),
        (pa.array([Decimal("7.50")]), ["7.50"]),
        (pa.array([dt.date(2020, 1, 2)]), ["2020-01-02"]),
        (pa.array([["a", None, " ", "b"], [], None]), ["a, b", "", ""]),
        (pa.array([[1995.0, 2.5], [float("nan")]]), ["1995, 2.5", ""]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([None, None], pa.null()), ["", ""]),
    ],
    ids=lambda values: str(getattr(values, "type", "")),
)
def test_columns_of_every_type(
    values: pa.Array, texts: list[str], tmp_path: Path
) -> None:
    assert made("{a}", pa.table({"a": values})) == texts


@pytest.mark.parametrize(
    "values",
    [
        pa.array([{"x": 1}]),
        pa.array([[[1]]]),
        pa.array([b"x"]),
        pa.array([[b"x"]]),
        pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
    ],
    ids=lambda values: str(values.type),
)
def test_columns_that_hold_no_texts_are_refused(values: pa.Array) -> None:
    with pytest.raises(UserError, match=r"^items.csv: column 'a' is .*, wanted text,"):
        made("{title} {a}", pa.table({"title": ["x"], "a": values}))


@given(st.text())
def test_every_name_of_a_column_can_be_written(name: str) -> None:
    text = text_of(field(name), Path("f"), {name: ibis.literal("Heat")})
    assert ibis.duckdb.connect().to_pyarrow(text).as_py() == "Heat"


@given(st.text(alphabet="{}\\a,( )\"'%") | st.text())
def test_any_template_is_one_or_is_refused(template: str) -> None:
    columns = {"a": ibis.literal("x"), "": ibis.literal("y")}
    try:
        text = text_of(template, Path("f"), columns)
    except UserError as error:
        assert str(error).startswith("--text ")
        return
    plain = template.replace("{{", "").replace("}}", "")
    assert "{a}" in plain or "{}" in plain or "{\\a}" in plain
    found = ibis.duckdb.connect().to_pyarrow(text).as_py()
    assert "x" in found or "y" in found
