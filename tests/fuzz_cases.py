"""Random tables for `prepare`, legal and not, as files."""

import bz2
import csv
import datetime as dt
import gzip
import io
import lzma
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

NULLS = ["NULL", "nan", "None", "\\N", "NA"]
_NAMES = ["user_id", "Item", "item", "when", "file_row_number", "select", "a.b c", "ü",
          "x,y", 'q"q', "row", "TIME", "[1]", "emoji😀", "filename"]  # fmt: skip
_TEXTS = ["a", "B", "b", "x y", "x,y", 'say "hi"', "line\nbreak", "tab\t", "é", "漢",
          "😀", "0", "007", "1e3", "-", "'", "a;b|c", "NULL", "None", " x"]  # fmt: skip
_PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}
_MOMENT = 1_577_836_800


@dataclass
class Case:
    """A file, flags, and whether they are legal by construction."""

    kind: str
    columns: dict[str, str]
    rows: list[dict[str, Any]]
    missing: str
    legal: bool = True
    content: bytes = b""
    file_name: str = "file"
    notes: list[str] = field(default_factory=list)


def make_case(rng: random.Random) -> Case:
    """Returns a random case."""
    kind = rng.choice(["csv", "csv", "parquet"])
    names = rng.sample(_NAMES, 6)
    columns = dict(zip(("user", "item", "time", "order"), names, strict=False))
    if rng.random() < 0.7:
        del columns["order"]
    if rng.random() < 0.15:
        del columns["time"]
    extra = names[4 : 4 + rng.randrange(3)]
    rows = _rows(rng, kind, columns, extra)
    case = Case(kind, columns, rows, rng.choice(["refuse", "drop"]))
    if rng.random() < 0.3:
        _leave_out(rng, case)
    case.file_name = rng.choice(
        ["a", "a[1]", "a*b", "ü?", "year=2024", "~x", "a b.csv"]
    )
    case.content = _parquet(rng, case) if kind == "parquet" else _csv(rng, case)
    if rng.random() < 0.25:
        _damage(rng, case)
    return case


def _rows(
    rng: random.Random, kind: str, columns: dict[str, str], extra: Sequence[str]
) -> list[dict[str, Any]]:
    num_users, num_items = rng.randint(1, 5), rng.randint(1, 12)
    users, items = _ids(rng, kind, num_users), _ids(rng, kind, num_items)
    moment = _moments(rng, kind)
    position = list(range(100))
    rng.shuffle(position)
    rows = []
    for n in range(rng.choice([0, 3, 10, 40])):
        row = {columns["user"]: rng.choice(users), columns["item"]: rng.choice(items)}
        tick = rng.randrange(30)
        if "time" in columns:
            row[columns["time"]] = moment(tick)
        if "order" in columns:
            # Beside times an order has to agree with them.
            row[columns["order"]] = tick * 100 + position[n]
        row |= {name: rng.choice(_TEXTS) for name in extra}
        rows.append(row)
    if rows and rng.random() < 0.3:
        rows += rng.choices(rows, k=3)
    return rows


def _ids(rng: random.Random, kind: str, number: int) -> list:
    numbers: list[Any] = rng.sample(range(-5, 200), number)
    choice = rng.randrange(5)
    if choice == 0:
        return rng.sample(_TEXTS, min(number, len(_TEXTS)))
    if choice == 1:
        return [f"{n:03}" for n in numbers]
    if choice == 2 and kind == "parquet":
        return [n + rng.choice([0.0, 0.5]) for n in numbers]
    return numbers if choice < 4 or kind == "csv" else [str(n) for n in numbers]


def _moments(rng: random.Random, kind: str) -> Callable[[int], Any]:
    choice = rng.randrange(5)
    if choice == 0:
        return lambda tick: _MOMENT + tick
    if choice == 1:
        return lambda tick: (_MOMENT + tick) * 1000 + 7
    if choice == 2:
        return lambda tick: _MOMENT + tick + 0.25
    if choice == 3 and kind == "parquet":
        start = dt.datetime(2020, 1, 1)
        return lambda tick: start + dt.timedelta(seconds=tick)
    return lambda tick: (dt.datetime(2020, 1, 1) + dt.timedelta(hours=tick)).isoformat(
        " "
    )


def _leave_out(rng: random.Random, case: Case) -> None:
    names = list(case.columns.values())
    for row in case.rows:
        if rng.random() < 0.15:
            name = rng.choice(names)
            tokens = isinstance(row[name], str) or case.kind == "csv"
            row[name] = rng.choice([None, *NULLS]) if tokens else None


def _csv(rng: random.Random, case: Case) -> bytes:
    names = list(case.rows[0]) if case.rows else list(case.columns.values())
    end = rng.choice(["\n", "\r\n", "\r"])
    text = io.StringIO(newline="")
    delimiter = rng.choice([",", ";", "\t", "|"])
    if any(delimiter in name for name in names):
        delimiter = "|"
    writer = csv.writer(
        text,
        delimiter=delimiter,
        lineterminator=end,
        quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    )
    writer.writerow(names)
    for row in case.rows:
        writer.writerow(["" if row[n] is None else row[n] for n in names])
        if rng.random() < 0.03:
            text.write(end)
    said = text.getvalue()
    said = said.rstrip("\r\n") if case.rows and rng.random() < 0.2 else said
    data = (rng.choice(["", "\ufeff"]) + said).encode()
    pack = rng.choice(list(_PACK) if rng.random() < 0.3 else [""])
    case.notes.append(f"delimiter {delimiter!r} end {end!r} pack {pack!r}")
    return _PACK[pack](data)


def _parquet(rng: random.Random, case: Case) -> bytes:
    names = list(case.rows[0]) if case.rows else list(case.columns.values())
    columns = []
    for name in names:
        cells = [row[name] for row in case.rows]
        if any(isinstance(cell, str) for cell in cells):
            cells = [None if cell is None else str(cell) for cell in cells]
        columns.append(pa.array(cells, from_pandas=True))
    out = io.BytesIO()
    pq.write_table(
        pa.Table.from_arrays(columns, names), out, row_group_size=rng.choice([3, 1000])
    )
    return out.getvalue()


def _damage(rng: random.Random, case: Case) -> None:
    case.legal = False
    data, what = bytearray(case.content), rng.randrange(6)
    at = rng.randrange(len(data))
    if what == 0:
        data = data[:at]
    elif what == 1:
        data[at] ^= 1 << rng.randrange(8)
    elif what == 2:
        data[at:at] = rng.choice([b"\xff", b'"', b"\0", b"\r", b"\n", b",", b"\r\n"])
    elif what == 3:
        data += rng.choice([b"1\n", b"a,b,c,d,e,f,g,h,i,j\n", b'"open', b"\0" * 20])
    elif what == 4:
        case.columns["item"] = "no such column"
    else:
        data = bytearray(rng.randbytes(rng.randrange(200)))
    case.content = bytes(data)
