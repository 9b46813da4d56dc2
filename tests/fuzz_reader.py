"""What pandas and csv read of a case of `fuzz_prepare`, independently of `prepare`."""

import bz2
import csv
import gzip
import io
import lzma
import re
import zlib
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_cases import NULLS, Case

_UNREADABLE = (
    ValueError, csv.Error, OSError, EOFError, lzma.LZMAError, zlib.error
)  # fmt: skip


class Refused(Exception):
    """The independent script finds nothing to make a dataset of."""


def expected(case: Case) -> dict[Any, list[tuple[Any, int | None, Any]]]:
    """What pandas reads: by user (item, second, what orders events), in order.

    Raises:
        Refused: nothing that a dataset could be made of.
    """
    frame = _frame(case)
    columns = case.columns
    if not set(columns.values()) <= set(frame.columns):
        raise Refused("a column is not there")
    frame = frame[list(columns.values())].set_axis(list(columns), axis=1)
    lacking = pd.DataFrame({name: _lacks(name, frame[name]) for name in columns})
    if lacking.any(axis=None) and case.missing == "refuse":
        raise Refused("values are missing")
    frame = frame[~lacking.any(axis=1)]
    if not len(frame):
        raise Refused("no rows")
    for name in ("user", "item"):
        whole = frame[name].map(lambda x: bool(re.fullmatch(r"0|-?[1-9]\d*", str(x))))
        if case.kind == "csv" and whole.all():
            frame = frame.assign(**{name: frame[name].map(int)})
    keys = []
    if "time" in columns:
        moment = _numbers(frame["time"])
        milliseconds = moment.min() > 4_102_444_800
        seconds = moment // 1000 if milliseconds else moment
        frame = frame.assign(moment=moment, second=seconds.map(int))
        keys.append("moment")
    if "order" in columns:
        frame = frame.assign(rank=_numbers(frame["order"]))
        keys.append("rank")
    if keys:
        frame = _without_copies(frame, keys)
        key = keys[-1]
        frame = frame.sort_values(key, kind="stable")
    else:
        key = None
    if frame.groupby("user").size().max() < 3:
        raise Refused("no user has three events")
    return {
        user: [
            (row.item, getattr(row, "second", None), key and getattr(row, key))
            for row in rows.itertuples()
        ]
        for user, rows in frame.groupby("user", sort=False)
    }


def _frame(case: Case) -> pd.DataFrame:
    if case.kind == "parquet":
        try:
            # What is damaged in a column that nobody asks for is nobody's trouble.
            names = list(case.columns.values())
            table = pq.read_table(io.BytesIO(case.content), columns=names)
            return table.to_pandas(integer_object_nulls=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Refused(str(error)) from error
    try:
        text = _unpacked(case.content).decode("utf-8-sig")
        end = re.search(r"\r\n|\n|\r", re.sub(r'"[^"]*"', "", text))
        sep = _delimiter(text, case)
        read = csv.reader(io.StringIO(text, newline=""), delimiter=sep, strict=True)
        rows = [row for row in read if row]
    except _UNREADABLE as error:
        raise Refused(str(error)) from error
    if not rows or end is None and len(rows) > 1:
        raise Refused("no lines")
    width = len(rows[0])
    rows = [row[:width] if row[width:] == [""] else row for row in rows]
    if any(len(row) != width for row in rows):
        raise Refused("rows of several lengths")
    names = rows[0]
    if any(names.count(name) > 1 for name in case.columns.values()):
        raise Refused("a column twice")
    keep = [n for n, name in enumerate(names) if name in case.columns.values()]
    cells = [[row[n] or None for n in keep] for row in rows[1:]]
    return pd.DataFrame(cells, columns=[names[n] for n in keep], dtype=object)


def _unpacked(data: bytes) -> bytes:
    for begin, unpack in (
        (b"\x1f\x8b", gzip.decompress),
        (b"BZh", bz2.decompress),
        (b"\xfd7z", lzma.decompress),
        (b"\x28\xb5\x2f\xfd",
         lambda x: pa.input_stream(pa.BufferReader(x), compression="zstd").read()),
    ):  # fmt: skip
        if data.startswith(begin):
            return unpack(data)
    return data


def _delimiter(text: str, case: Case) -> str:
    first = next(csv.reader(io.StringIO(text, newline="")), None)
    if first is None:
        raise Refused("empty")
    for sep in (",", "\t", ";", "|"):
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=sep))
        if set(case.columns.values()) <= set(names):
            return sep
    raise Refused("no delimiter separates the columns")


def _lacks(name: str, column: pd.Series) -> pd.Series:
    empty = column.isna()
    tokens = column.map(
        lambda cell: (
            isinstance(cell, str)
            and cell.strip().lower() in {word.lower() for word in NULLS} | {""}
        )
    )
    rest = column[~empty & ~tokens]
    spelled = rest.map(lambda cell: isinstance(cell, str) and _is_number(cell))
    numbers = len(rest) > 0 and bool(spelled.all())
    return empty | (tokens if numbers or name not in ("user", "item") else False)


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < 2**62 and "_" not in text and text.isascii()
    except ValueError:
        return False


def _numbers(column: pd.Series) -> pd.Series:
    """Exact numbers: integers as they are, moments as seconds."""
    if column.map(lambda cell: isinstance(cell, str)).any():
        try:
            number = column.map(
                lambda x: int(x) if re.fullmatch(r"-?\d+", x) else float(x)
            )
        except ValueError:
            stamps = pd.to_datetime(column, utc=True, format="ISO8601", errors="coerce")
            if stamps.isna().any():
                raise Refused("times that are none") from None
            return stamps.map(lambda stamp: stamp.timestamp())
        return number
    if pd.api.types.is_datetime64_any_dtype(column):
        return column.map(lambda stamp: stamp.tz_localize("UTC").timestamp())
    return column


def _without_copies(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The first of events of one user, item and moment; with the least rank."""
    same = ["user", "item", keys[0]]
    if len(keys) == 2:
        least = frame.groupby(same, sort=False)["rank"].transform("min")
        frame = frame.assign(rank=least)
    frame = frame.drop_duplicates(same)
    if len(keys) == 2:
        for _, rows in frame.groupby("user"):
            if not rows.sort_values("rank", kind="stable")[
                "moment"
            ].is_monotonic_increasing:
                raise Refused("times fall where ranks rise")
    return frame
