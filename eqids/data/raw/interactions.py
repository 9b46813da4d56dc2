"""Reads interactions in the order in which they happened, as flat arrays."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eqids.config import PrepareConfig, TimeUnit, UserError, require
from eqids.data.ids import Ids
from eqids.data.info import Counts, TextsInfo
from eqids.data.raw.columns import TypedEvents, seconds, typed_events
from eqids.data.raw.engine import Engine, reading
from eqids.data.raw.item_rows import ItemRows, distinct_items
from eqids.data.raw.sources import Source

_PRIME = 2**31 - 1
_ID_ORDER = 0.9
_FEWEST_TIES = 10
"""Fewest ties that distinguish an order by id from chance."""


@dataclass(frozen=True)
class Interactions:
    """Every user's events, oldest first; users and items in the order of their ids."""

    user_ids: pa.ChunkedArray
    """Ids [user], of the type that the user gave."""
    items: pa.Table
    """Columns item (the id), title and text; one row an item."""
    item: np.ndarray
    """int32 [event]: row of the item in `items`; users one after the other."""
    time: np.ndarray | None
    """int64 [event]: unix seconds, or none."""
    offsets: np.ndarray
    """int64 [user + 1]: where each user's events start and end."""
    ties: Literal["file_order", "seeded_hash"]
    """What orders a user's events with equal times."""
    counts: Counts
    """Rows that were read and dropped."""
    time_unit: TimeUnit | None = None
    """Unit of the source's times, or none where it has no times."""
    items_file: Path | None = None
    """The file of titles, for messages, or none."""
    texts: TextsInfo | None = None
    """How titles and texts are made, or none."""


def read_interactions(
    engine: Engine,
    source: Source,
    config: PrepareConfig,
    report: Callable[[str], None],
) -> Interactions:
    """Reads, filters and orders interactions, in the database.

    Up to the flat, sorted table, all steps are Ibis expressions without ordered
    collections, so that other engines could run them.

    Args:
        engine: DuckDB, which keeps the order of files.
        source: the file.
        config: filters, seed, and what missing values and times mean.
        report: receives warnings.

    Raises:
        UserError: a cell is invalid, or the filters leave no event.
    """
    con, typed = engine.con, typed_events(source, config, report)
    events, users, items, counts = _numbered_events(con, source, typed, config)
    if {"when", "rank"} <= set(events.columns):
        _require_one_order(source, events, users)
    core = _frequent(con, events, config)
    counts = replace(counts, rare_dropped=_count(events) - _count(core))
    require(
        _count(core) > 0,
        f"{source.file}: no user and item have --min_user_interactions "
        f"{config.min_user_interactions} and --min_item_interactions "
        f"{config.min_item_interactions}",
    )
    table = _ordered(core, typed.unit, None)
    counts, hashed = _ties_counted(
        _sort_key(core), table, counts, report, source.keeps_ties
    )
    if hashed:
        table = _ordered(core, typed.unit, config.seed)
    user_table = users.order_by("number").to_pyarrow()
    titles = source.items
    with reading(source.file if titles is None else titles.file):
        named, counts = _titled(con, items, titles, counts)
        item_table = named.order_by("number").to_pyarrow()
    found = _compact(table, user_table, item_table, hashed, counts)
    found = replace(found, time_unit=typed.unit)
    if titles is None:
        return found
    return replace(found, items_file=titles.file, texts=titles.texts)


def _numbered_events(
    con: Any, source: Source, typed: TypedEvents, config: PrepareConfig
) -> tuple[ir.Table, ir.Table, ir.Table, Counts]:
    """Events with numbers instead of ids and without duplicates, and the ids."""
    with reading(source.file):
        raw = con.create_table("raw", typed.table, temp=True)
    rated = _count(raw)
    require(
        rated > 0, f"{source.file}: no rating reaches --min_rating {config.min_rating}"
    )
    users, items = _numbered(con, raw, "user"), _numbered(con, raw, "item")
    named = users.select(user="id", user_number="number")
    joined = raw.join(named, "user")
    joined = joined.join(items.select(item="id", item_number="number"), "item")
    columns = {"user": joined["user_number"], "item": joined["item_number"]}
    moments = {n: joined[n] for n in ("when", "rank") if n in raw.columns}
    events = joined.select(**columns, **moments, row=joined["row"])
    if moments:
        # Of events with equal user, item and time, the first is kept, whatever their
        # ranks.
        same = [*columns, next(iter(moments))]
        least = {
            name: events[name].min() for name in events.columns if name not in same
        }
        events = events.group_by(same).aggregate(**least)
    events = con.create_table("events", events, temp=True)
    con.raw_sql("DROP TABLE raw")
    counts = Counts(
        typed.num_rows,
        missing_dropped=typed.num_missing,
        rated_lower=typed.num_rows - typed.num_missing - rated,
        duplicates_dropped=rated - _count(events),
    )
    return events, users, items, counts


def _count(table: ir.Table) -> int:
    return int(table.count().to_pyarrow().as_py())


def _numbered(con: Any, raw: ir.Table, name: str) -> ir.Table:
    """The distinct ids of a column, numbered in their order."""
    ids = raw.select(id=raw[name]).distinct()
    number = ibis.row_number().over(order_by=ids["id"]).cast("int32")
    return con.create_table(f"{name}s", ids.mutate(number=number), temp=True)


def _frequent(con: Any, events: ir.Table, config: PrepareConfig) -> ir.Table:
    """The largest set in which every user and item has enough events (the k-core)."""
    least = {"user": config.min_user_interactions, "item": config.min_item_interactions}
    least = {name: number for name, number in least.items() if number > 1}
    before: int | None = None
    stored: str | None = None
    while least and _count(events) != before:
        before = _count(events)
        for column, number in least.items():
            sized = events.mutate(size=events.count().over(group_by=column))
            kept = sized.filter(sized["size"] >= number).drop("size")
            last, stored = stored, ibis.util.gen_name("kept")
            events = con.create_table(stored, kept, temp=True)
            if last is not None:
                con.raw_sql(f"DROP TABLE {last}")
    return events


def _sort_key(events: ir.Table) -> str | None:
    """The column that orders a user's events, or none if the file's order does."""
    return next((name for name in ("rank", "when") if name in events.columns), None)


def _require_one_order(source: Source, events: ir.Table, users: ir.Table) -> None:
    """Requires that times never fall where ranks rise."""
    order = ibis.window(group_by="user", order_by=["rank", "row"])
    before = events.mutate(before=events["when"].lag(1).over(order))
    falls = before.filter(before["when"] < before["before"])
    first = falls.order_by("row").limit(1).to_pyarrow().to_pylist()
    if not first:
        return
    time, rank = source.columns["time"], source.columns["order"]
    id_ = users.filter(users["number"] == first[0]["user"]).to_pyarrow()["id"][0]
    raise UserError(
        f"{source.file}: column {time!r} falls in row {first[0]['row'] + 1}, where "
        f"column {rank!r} rises, for user {id_.as_py()!r}; wanted both in one order, "
        "or --time_column None to go by the other alone"
    )


def _ties_counted(
    key: str | None,
    table: pa.Table,
    counts: Counts,
    report: Callable[[str], None],
    kept: bool,
) -> tuple[Counts, bool]:
    """Counts ties, and decides whether a hash orders them: the file may be sorted by
    id, unless it keeps ties."""
    if key is None:
        return counts, False
    tied, ascending = _ties(table)
    by_id = tied >= _FEWEST_TIES and ascending > _ID_ORDER * tied
    hashed = by_id and not kept
    if hashed:
        report(
            f"warning: of {tied:,} neighbouring events of one user and "
            f"{'time' if key == 'when' else 'rank'} {ascending / tied:.0%} ascend by "
            "item, so the file is sorted by id: a seeded hash breaks ties"
        )
    return replace(counts, tied_neighbours=tied, ascending_ties=ascending), hashed


def _ties(table: pa.Table) -> tuple[int, int]:
    """Neighbours with equal user and equal time or rank, and those of them that ascend
    by id, in events whose ties are in the file's order."""
    user, item = table["user"].to_numpy(), table["item"].to_numpy()
    key = table["key"]
    same = pc.equal(key.slice(1), key.slice(0, max(len(key) - 1, 0))).to_numpy()
    tied = same & (user[1:] == user[:-1])
    return int(tied.sum()), int((tied & (item[1:] > item[:-1])).sum())


def _ordered(events: ir.Table, unit: TimeUnit | None, seed: int | None) -> pa.Table:
    """user, item and, if any, time in seconds and the key that sorts a user's events:
    by user, time or rank and, in ties, the file's order or a hash."""
    order, key = [events["user"]], _sort_key(events)
    columns = {"user": events["user"], "item": events["item"]}
    if unit is not None:
        columns["time"] = seconds(events["when"], unit)
    if key is not None:
        columns["key"] = events[key]
        order.append(events[key])
        if seed is not None:
            order.append(_hash(events["user"], events["item"], seed))
    return events.order_by([*order, events["row"]]).select(**columns).to_pyarrow()


def _hash(user: Any, item: Any, seed: int) -> Any:
    """A pseudo-random number per (user, item), so that each user has another order of
    items.

    It is a product of affine hashes modulo a prime, which every engine can compute.
    """
    a, b, c, d = (int(x) for x in np.random.default_rng(seed).integers(1, _PRIME, 4))
    of_user = (user.cast("int64") * a + b) % (_PRIME - 1) + 1
    of_item = (item.cast("int64") * c + d) % _PRIME
    return (of_user * of_item) % _PRIME


def _titled(
    con: Any, items: ir.Table, titles: ItemRows | None, counts: Counts
) -> tuple[ir.Table, Counts]:
    """The ids with title (the id itself if there is none) and text."""
    if titles is None:
        named, text = ibis.literal(False), ibis.literal("")
        title = items["id"].cast("string")
        return items.mutate(title=title, text=text, named=named, titled=named), counts
    ids = items.order_by("number").to_pyarrow()["id"]
    found = distinct_items(con, titles, Ids(ids))
    counts = replace(
        counts, item_rows=found.num_rows, item_rows_repeated=found.num_repeated
    )
    first = found.table.select("title", "text", row_of="number")
    joined = items.left_join(first, items["number"] == first["row_of"])
    title = joined["title"].fill_null("")
    return joined.select(
        "id",
        "number",
        title=ibis.ifelse(title == "", joined["id"].cast("string"), title),
        text=joined["text"].fill_null(""),
        named=joined["row_of"].notnull(),
        titled=title != "",
    ), counts


def _compact(
    table: pa.Table,
    users: pa.Table,
    items: pa.Table,
    hashed: bool,
    counts: Counts,
) -> Interactions:
    """Leaves out users and items without events after the filters."""
    user, item = table["user"].to_numpy(), table["item"].to_numpy()
    per_user = np.bincount(user, minlength=len(users))
    has_events = np.bincount(item, minlength=len(items)) > 0
    renumbered = (np.cumsum(has_events) - 1).astype(np.int32)
    named = items.filter(pa.array(has_events))
    in_file, titled = (int(pc.sum(named[n]).as_py() or 0) for n in ("named", "titled"))
    return Interactions(
        user_ids=users["id"].filter(pa.array(per_user > 0)),
        items=named.select(["id", "title", "text"]).rename_columns(
            ["item", "title", "text"]
        ),
        item=renumbered[item],
        time=table["time"].to_numpy() if "time" in table.column_names else None,
        offsets=np.concatenate([[0], np.cumsum(per_user[per_user > 0])]).astype(
            np.int64
        ),
        ties="seeded_hash" if hashed else "file_order",
        counts=replace(
            counts,
            users_dropped=int((per_user == 0).sum()),
            items_dropped=int((~has_events).sum()),
            item_rows_unused=counts.item_rows - counts.item_rows_repeated - in_file,
            items_unnamed=len(named) - in_file,
            items_untitled=in_file - titled,
        ),
    )
