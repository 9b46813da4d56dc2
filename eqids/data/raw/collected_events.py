"""The events of a dataset, and after them those that a server has collected since."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eqids.config import PrepareConfig, require
from eqids.data.dataset import Dataset
from eqids.data.event_file import open_event_file, read_events, recorded_dataset
from eqids.data.files import ITEMS_FILE, USERS_FILE, read_parquet
from eqids.data.ids import Ids
from eqids.data.info import DatasetInfo
from eqids.data.raw.engine import Engine

_KEPT = ("split", "min_user_interactions", "min_item_interactions", "seed")
"""Fields of the protocol that flags may change."""


def after_recorded_dataset(config: PrepareConfig) -> PrepareConfig:
    """Names the dataset that the events of --source events:FILE continue.

    Raises:
        UserError: the file cannot be read, or names no dataset, and neither does
            --catalog.
    """
    kind, _, name = config.source.partition(":")
    if kind != "events" or config.catalog is not None:
        return config
    with closing(open_event_file(Path(name))) as file:
        folder = recorded_dataset(file)
    require(
        folder is not None,
        f"{name} does not record which dataset its events continue, wanted --catalog "
        "DIR, the --data_dir of that dataset",
    )
    return replace(config, catalog=folder)


def with_protocol_of(old: DatasetInfo, config: PrepareConfig) -> PrepareConfig:
    """Splits and filters as an earlier dataset does, unless flags say otherwise."""
    defaults = {field.name: field.default for field in fields(config)}
    kept = {
        name: getattr(old.protocol, name)
        for name in _KEPT
        if getattr(config, name) == defaults[name]
    }
    return replace(config, time_unit="seconds", **kept)


def continued_info(old: DatasetInfo, info: DatasetInfo) -> DatasetInfo:
    """Records how the events of an earlier dataset were ordered and filtered."""
    names = ("ties", "min_rating", "order_column")
    same = {name: getattr(old.protocol, name) for name in names}
    protocol = replace(info.protocol, **same)
    return replace(info, protocol=protocol, time_unit=old.time_unit)


def joined_events(
    engine: Engine, path: Path, old: Dataset, report: Callable[[str], None]
) -> ir.Table:
    """Returns the events of a dataset, and after them those of a file.

    Args:
        engine: holds them.
        path: the file of events.
        old: the dataset that they continue.
        report: receives a warning about events that are left out, because their user
            or item cannot be an id of the dataset's type.

    Returns:
        Columns user, item and time, and `row`, in the order of arrival.

    Raises:
        UserError: the dataset has no times, or the file cannot be read.
    """
    require(
        old.times is not None,
        f"{old.path} has no times of events, and {path} has; wanted a dataset with "
        "times",
    )
    users = read_parquet(old.path / USERS_FILE, ["user"])
    items = read_parquet(old.path / ITEMS_FILE, ["slot", "item"])
    with closing(open_event_file(path)) as file:
        new = read_events(file)
    columns = {
        "user": _typed(new, "user", Ids(users["user"])),
        "item": _typed(new, "item", Ids(items["item"])),
        "time": new["time"],
        "row": pa.array(np.arange(len(old.slots), len(old.slots) + len(new))),
    }
    typed = pa.table(columns).drop_null()
    if len(typed) < len(new):
        report(
            f"warning: {len(new) - len(typed):,} of {len(new):,} events of {path} are "
            f"left out, because their user or item is no id of the types of {old.path}"
        )

    def stored(table: pa.Table) -> ir.Table:
        name, rows = ibis.util.gen_name("events"), ibis.memtable(table)
        return engine.con.create_table(name, rows, temp=True)

    user = np.arange(old.num_users, dtype=np.int32)
    users = stored(users.append_column("user_row", pa.array(user)))
    before = {
        "user_row": np.repeat(user, np.diff(old.offsets)),
        "slot": old.slots,
        "time": old.times,
        "row": np.arange(len(old.slots)),
    }
    joined = stored(pa.table(before)).join(users, "user_row")
    joined = joined.join(stored(items), "slot")
    return ibis.union(joined.select("user", "item", "time", "row"), stored(typed))


def _typed(events: pa.Table, name: str, existing: Ids) -> pa.ChunkedArray:
    """Ids of events, cast to the type of a dataset's ids; null where it holds none."""
    kinds = (f"{name}_integer", f"{name}_text")
    return pc.coalesce(*(existing.read(events[kind])[1] for kind in kinds))
