"""Reads interactions in the order in which they happened, as flat arrays."""

from collections.abc import Callable, Mapping
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
from eqids.data.raw.columns import TypedEvents, typed_events
from eqids.data.raw.engine import Engine, reading
from eqids.data.raw.event_tables import EventTables
from eqids.data.raw.item_rows import ItemRows, distinct_items
from eqids.data.raw.ordered_events import (
    OrderedEvents,
    is_sorted_by_id,
    ordered,
    read_parts,
    renumber,
    sort_key,
)
from eqids.data.raw.sources import Source


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
    collections and without windows over all events, so that DuckDB and Spark run them.

    Args:
        engine: what reads files, and what holds the events.
        source: the file.
        config: filters, seed, and what missing values and times mean.
        report: receives warnings.

    Raises:
        UserError: a cell is invalid, or the filters leave no event.
    """
    tables, typed = engine.tables, typed_events(source, config, report)
    events, users, items, counts = _numbered_events(tables, source, typed, config)
    least = _least_counts(config)
    both = {"when", "rank"} <= set(events.columns)
    # Reading rows in order finds repeats as well; but only after the filters, and not
    # if another column than the time orders them.
    distinct = bool(least) or both
    if distinct:
        events, counts = _without_repeats(tables, events, counts)
    if both:
        _require_one_order(source, events, users)
    core = _frequent(tables, events, least)
    num_events = _count(core)
    counts = replace(counts, rare_dropped=_count(events) - num_events)
    require(num_events > 0, _nothing_left(source, config))
    kinds = source.kinds or typed.table.schema()
    users = _ids(engine, users, kinds["user"])
    items = _ids(engine, items, kinds["item"])
    sizes = num_events, _count(users), _count(items)

    def read(seed: int | None) -> OrderedEvents:
        table = ordered(core, typed.unit, seed, source.has_order)
        names = table.columns
        return read_parts(tables.parts(table), names, *sizes, engine.folder, distinct)

    found = read(None if source.has_order else config.seed)
    if (key := sort_key(core)) is not None:
        counts = _with_ties(counts, found)
    hashed = not source.has_order
    if key is not None and source.has_order and not source.keeps_ties:
        hashed = _sorted_by_id(found, "time" if key == "when" else "rank", report)
        found = read(config.seed) if hashed else found
    user_ids = users.order_by("number").to_pyarrow()["id"]
    titles = source.items
    with reading(source.file if titles is None else titles.file):
        named, counts = _titled(engine.con, items, titles, counts)
        item_table = named.order_by("number").to_pyarrow()
    done = _compact(found, user_ids, item_table, hashed, counts)
    done = replace(done, time_unit=typed.unit)
    if titles is None:
        return done
    return replace(done, items_file=titles.file, texts=titles.texts)


def _numbered_events(
    tables: EventTables, source: Source, typed: TypedEvents, config: PrepareConfig
) -> tuple[ir.Table, ir.Table, ir.Table, Counts]:
    """Events with numbers instead of ids, and the ids."""
    with reading(source.file):
        raw = tables.stored(typed.table)
    rated = _count(raw)
    require(
        rated > 0, f"{source.file}: no rating reaches --min_rating {config.min_rating}"
    )
    users = tables.numbered(raw.select(id=raw["user"]).distinct())
    items = tables.numbered(raw.select(id=raw["item"]).distinct())
    joined = raw.join(users.select(user="id", user_number="number"), "user")
    joined = joined.join(items.select(item="id", item_number="number"), "item")
    columns = {"user": joined["user_number"], "item": joined["item_number"]}
    moments = {n: joined[n] for n in ("when", "rank") if n in raw.columns}
    events = tables.stored(joined.select(**columns, **moments, row=joined["row"]))
    tables.drop(raw)
    counts = Counts(
        typed.num_rows,
        missing_dropped=typed.num_missing,
        rated_lower=typed.num_rows - typed.num_missing - rated,
    )
    return events, users, items, counts


def _without_repeats(
    tables: EventTables, events: ir.Table, counts: Counts
) -> tuple[ir.Table, Counts]:
    """Keeps the first of events with equal user, item and time, or rank without times,
    and counts the others."""
    moments = [name for name in ("when", "rank") if name in events.columns]
    if not moments:
        return events, counts
    same = ["user", "item", moments[0]]
    first = {name: events[name].min() for name in events.columns if name not in same}
    found = tables.stored(events.group_by(same).aggregate(**first))
    num_repeated = _count(events) - _count(found)
    tables.drop(events)
    return found, replace(counts, duplicates_dropped=num_repeated)


def _nothing_left(source: Source, config: PrepareConfig) -> str:
    return (
        f"{source.file}: no user and item have --min_user_interactions "
        f"{config.min_user_interactions} and --min_item_interactions "
        f"{config.min_item_interactions}"
    )


def _with_ties(counts: Counts, found: OrderedEvents) -> Counts:
    """Adds what was counted while sorted rows were read."""
    return replace(
        counts,
        duplicates_dropped=counts.duplicates_dropped + found.num_repeated,
        tied_neighbours=found.tied,
        ascending_ties=found.ascending,
    )


def _count(table: ir.Table) -> int:
    return int(table.count().to_pyarrow().as_py())


def _ids(engine: Engine, numbered: ir.Table, kind: Any) -> ir.Table:
    """Ids and their numbers as a table of DuckDB, of the type that DuckDB reads."""
    if numbered.get_backend().name == "duckdb":
        return numbered
    name = ibis.util.gen_name("ids")
    # Ibis 12 creates Arrow tables with SQL that DuckDB 2 does not support.
    engine.con.con.register(name, engine.tables.whole(numbered))
    table = engine.con.table(name)
    return table.mutate(id=table["id"].cast(kind))


def _least_counts(config: PrepareConfig) -> Mapping[str, int]:
    """Fewest events of a user and of an item, where a filter wants more than one."""
    least = {"user": config.min_user_interactions, "item": config.min_item_interactions}
    return {name: number for name, number in least.items() if number > 1}


def _frequent(
    tables: EventTables, events: ir.Table, least: Mapping[str, int]
) -> ir.Table:
    """The largest set in which every user and item has enough events (the k-core)."""
    before: int | None = None
    kept, num_kept = events, _count(events) if least else 0
    while least and num_kept != before:
        before = num_kept
        for column, number in least.items():
            sizes = kept.group_by(column).aggregate(size=kept.count())
            enough = sizes.filter(sizes["size"] >= number)
            last, kept = kept, tables.stored(kept.semi_join(enough, column))
            if last is not events:
                tables.drop(last)
        num_kept = _count(kept)
    return kept


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


def _sorted_by_id(
    found: OrderedEvents, what: str, report: Callable[[str], None]
) -> bool:
    """Whether the file seems to be sorted by id, so that a hash has to order ties."""
    by_id = is_sorted_by_id(found.tied, found.ascending)
    if by_id:
        report(
            f"warning: of {found.tied:,} neighbouring events of one user and {what} "
            f"{found.ascending / found.tied:.0%} ascend by item, so the file is sorted "
            "by id: a seeded hash breaks ties"
        )
    return by_id


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
    found: OrderedEvents,
    user_ids: pa.ChunkedArray,
    items: pa.Table,
    hashed: bool,
    counts: Counts,
) -> Interactions:
    """Leaves out users and items without events after the filters."""
    per_user, has_events = found.per_user, found.has_events
    if not has_events.all():
        renumber(found.item, (np.cumsum(has_events) - 1).astype(np.int32))
    named = items.filter(pa.array(has_events))
    in_file, titled = (int(pc.sum(named[n]).as_py() or 0) for n in ("named", "titled"))
    return Interactions(
        user_ids=user_ids.filter(pa.array(per_user > 0)),
        items=named.select(["id", "title", "text"]).rename_columns(
            ["item", "title", "text"]
        ),
        item=found.item,
        time=found.time,
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
