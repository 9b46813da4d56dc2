"""Random tables for `prepare`, legal and not, beside what pandas reads of them.

    python tests/fuzz_prepare.py --minutes 10

Each case ends in a dataset that holds what an independent script reads, or in one
sentence; a legal case has to end in a dataset. A failure prints its seed, and
`--seed` runs that one again.
"""

import argparse
import bz2
import csv
import datetime as dt
import gzip
import io
import lzma
import random
import re
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from eqids.config import PrepareConfig, UserError
from eqids.data import Dataset
from eqids.data.preparation import prepare

_NULLS = ["NULL", "nan", "None", "\\N", "NA"]
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
_UNREADABLE = (
    ValueError, csv.Error, OSError, EOFError, lzma.LZMAError, zlib.error
)  # fmt: skip


class Refused(Exception):
    """The independent script finds nothing to make a dataset of."""


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
            row[name] = rng.choice([None, *_NULLS]) if tokens else None


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
            and cell.strip().lower() in {word.lower() for word in _NULLS} | {""}
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


def found(dataset: Dataset) -> dict[Any, list[tuple[Any, int | None]]]:
    """The histories of a dataset: by user (item, second), in order."""
    names = dict(dataset.items()[["slot", "item"]].itertuples(index=False))
    out = {}
    for row, user in enumerate(dataset.users()["user"]):
        span = slice(dataset.offsets[row], dataset.offsets[row + 1])
        times: Sequence[Any] = [None] * (span.stop - span.start)
        if dataset.times is not None:
            times = dataset.times[span].tolist()
        items = [names[slot] for slot in dataset.slots[span]]
        out[user] = list(zip(items, times, strict=True))
    return out


def check(case: Case, folder: Path) -> str:
    """Runs a case; returns how it ended.

    Raises:
        AssertionError: it ended wrongly.
    """
    path = folder / case.file_name
    path.write_bytes(case.content)
    config = PrepareConfig(
        source=f"{case.kind}:{path}",
        data_dir=folder / "out",
        user_column=case.columns["user"],
        item_column=case.columns["item"],
        time_column=case.columns.get("time"),
        order_column=case.columns.get("order"),
        missing=case.missing,  # type: ignore[arg-type]
    )
    try:
        wanted = expected(case)
    except Refused as refused:
        wanted, why = None, str(refused)
    try:
        dataset = prepare(config, lambda _: None)
    except UserError as error:
        said = str(error)
        assert not (folder / "out").exists(), "something is half-written"
        assert "\n" not in said and len(said) < 1500, f"no sentence: {said[:300]!r}"
        assert wanted is None or not case.legal, f"refused: {said}"
        return "refused"
    assert wanted is not None, f"a dataset, and pandas refused: {why}"
    ours = found(dataset)
    hashed = dataset.info.protocol.ties == "seeded_hash"
    theirs = {
        user: [(item, second) for item, second, _ in events]
        for user, events in wanted.items()
    }
    if hashed:
        # Ties have another order than the file's; what is tied is the same.
        ours, theirs = (
            {u: sorted(e, key=lambda x: (x[1] or 0, str(x[0]))) for u, e in h.items()}
            for h in (ours, theirs)
        )
    assert ours == theirs, f"{ours} is not {theirs}"
    return "dataset, ties hashed" if hashed else "dataset"


def run(seeds: Sequence[int], until: float = float("inf")) -> Counter[str]:
    """Runs cases until a time; returns how many ended how."""
    ends: Counter[str] = Counter()
    for seed in seeds:
        if time.monotonic() > until:
            break
        case = make_case(random.Random(seed))
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                end = check(case, Path(folder))
            except Exception as error:
                error.add_note(
                    f"seed {seed}: {case.kind} {case.columns} {case.missing} legal "
                    f"{case.legal} {case.notes}\n{case.content[:600]!r}"
                )
                raise
        ends[f"{'legal' if case.legal else 'damaged'}: {end}"] += 1
    return ends


def main() -> None:
    """Runs cases for some minutes, or one by its seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    args = parser.parse_args()
    seeds = range(args.first, args.first + 10**9)
    if args.seed is not None:
        seeds = range(args.seed, args.seed + 1)
    ends = run(seeds, time.monotonic() + 60 * args.minutes)
    print(f"{ends.total():,} cases")
    for end, number in sorted(ends.items()):
        print(f"  {number:>6,}  {end}")


if __name__ == "__main__":
    main()
