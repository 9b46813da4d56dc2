"""Tables of events on Spark: every step is stored as Parquet, in a folder that all of
its workers reach."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from eqids.config import require
from eqids.data.raw.event_tables import PART_ROWS, EventTables

_TYPES: Mapping[str, str] = {
    "int8": "tinyint",
    "int16": "smallint",
    "int32": "int",
    "int64": "bigint",
    "uint8": "smallint",
    "uint16": "int",
    "uint32": "bigint",
    "uint64": "decimal(20,0)",
    "float32": "float",
    "float64": "double",
    "string": "string",
    "boolean": "boolean",
    "date": "date",
    "timestamp(6)": "timestamp_ntz",
    "timestamp('UTC', 6)": "timestamp",
}
"""Types that Spark reads as DuckDB does, and their names there."""
_PLAIN_NAME = re.compile(r"(/[A-Za-z0-9@=,+-][A-Za-z0-9@=,+_.-]*)+")
"""Paths that Spark takes literally, and that its hidden-file rule does not skip."""
_IN_PARTITION = 33
"""Bits below the number of the partition in monotonically_increasing_id()."""


class SparkTables(EventTables):
    """Tables that a cluster computes; this process opens only users, items and sorted
    parts."""

    def __init__(self, session: Any, duckdb: Any, folder: Path):
        """Wraps a session.

        Args:
            session: of Spark, with the settings of `spark_session`.
            duckdb: an Ibis connection to DuckDB, which reads what Spark does not.
            folder: an existing folder that Spark's workers reach by the same name.
        """
        self._session = session
        self._duckdb = duckdb
        self._folder = folder
        self._con = ibis.pyspark.connect(session)

    def read_parquet(
        self, files: Sequence[Path], columns: Mapping[str, tuple[str, Any]], row: str
    ) -> ir.Table | None:
        """Opens Parquet files; see `EventTables.read_parquet`.

        Returns none for types that Spark reads in another way, such as nanoseconds and
        UUIDs, and for names that it would take for patterns.
        """
        paths = [str(file.resolve()) for file in files]
        kinds = {name: _spark_type(kind) for name, (_, kind) in columns.items()}
        if None in kinds.values() or not all(map(_PLAIN_NAME.fullmatch, paths)):
            return None
        names = {column: kinds[name] for name, (column, _) in columns.items()}
        schema = ", ".join(f"{_quoted(name)} {kind}" for name, kind in names.items())
        frame = self._session.read.schema(schema).parquet(*paths)
        chosen = [f"{_quoted(c)} AS {name}" for name, (c, _) in columns.items()]
        place = "regexp_replace(_metadata.file_path, '^file:/+', '/') AS file"
        frame = frame.selectExpr(*chosen, place, "_metadata.row_index AS in_file")
        starts, start = [], 0
        for path in paths:
            starts.append((path, start))
            start += pq.read_metadata(path).num_rows
        offsets = self._small(starts, "AS t(file, start)")
        rows = frame.join(offsets, "file")
        return self._viewed(rows.selectExpr(*columns, f"start + in_file AS {row}"))

    def read_table(self, name: str) -> tuple[tuple[str, ...], ir.Table]:
        """Opens a table of Spark's catalogs.

        Args:
            name: as Spark SQL names it after FROM.

        Returns:
            The names of its columns, and the columns called c0, c1 and so on.
        """
        frame = self._session.sql(f"SELECT * FROM {name}")
        numbered = frame.toDF(*(f"c{n}" for n in range(len(frame.columns))))
        return tuple(frame.columns), self._viewed(numbered)

    def with_rows(self, table: ir.Table, row: str) -> ir.Table:
        """Stores a table, and numbers its rows in the order in which they came."""
        frame = self._frame(table)
        return self._numbered(frame, table.columns, row, "bigint")

    def stored(self, table: ir.Table) -> ir.Table:
        """Computes a table once; see `EventTables.stored`."""
        folder = self._new()
        if table.get_backend().name == "duckdb":
            folder.mkdir()
            # Texts of UUIDs and of times to the nanosecond are in the order of these.
            other = {
                name: table[name].cast("string")
                for name, kind in table.schema().items()
                if _spark_type(kind) is None
            }
            self._duckdb.to_parquet(table.mutate(**other), folder / "part.parquet")
        else:
            self._frame(table).write.parquet(str(folder))
        return self._opened(folder)

    def drop(self, table: ir.Table) -> None:
        """Deletes a table; see `EventTables.drop`."""
        name = table.op().name
        self._session.catalog.dropTempView(name)
        shutil.rmtree(self._folder / name)

    def numbered(self, ids: ir.Table) -> ir.Table:
        """Numbers ids; see `EventTables.numbered`."""
        # No window, which would sort all ids in one task.
        frame = self._frame(ids.order_by("id"))
        return self._numbered(frame, ["id"], "number", "int")

    def whole(self, table: ir.Table) -> pa.Table:
        """Returns a small table; see `EventTables.whole`."""
        stored = self.stored(table)
        found = pq.read_table(self._folder / stored.op().name)
        self.drop(stored)
        return found

    def parts(self, table: ir.Table) -> Iterator[pa.RecordBatch]:
        """Yields sorted rows; see `EventTables.parts`.

        Spark sorts them into files, whose names are in the order of the rows.
        """
        stored = self.stored(table)
        for file in sorted((self._folder / stored.op().name).glob("part-*.parquet")):
            with pq.ParquetFile(file) as opened:
                yield from opened.iter_batches(PART_ROWS)
        self.drop(stored)

    def _numbered(
        self, frame: Any, columns: Sequence[str], number: str, kind: str
    ) -> ir.Table:
        """Stores rows with their numbers: of each partition, and then in it."""
        folder = self._new()
        placed = frame.selectExpr(*columns, "monotonically_increasing_id() AS at")
        placed.write.parquet(str(folder))
        rows = self._session.read.parquet(str(folder))
        rows = rows.selectExpr(
            *columns,
            f"shiftright(at, {_IN_PARTITION}) AS part",
            f"at & {(1 << _IN_PARTITION) - 1} AS in_part",
        )
        sizes = rows.groupBy("part").count().orderBy("part").collect()
        starts, start = [], 0
        for part, size in sizes:
            starts.append((part, start))
            start += size
        offsets = self._small(starts, "AS t(part, start)")
        joined = rows.join(offsets, "part")
        what = f"CAST(start + in_part AS {kind}) AS {number}"
        found = self.stored(self._viewed(joined.selectExpr(*columns, what)))
        shutil.rmtree(folder)
        return found

    def _small(self, rows: Sequence[tuple[Any, ...]], columns: str) -> Any:
        """A table that every worker gets whole; texts are plain names."""
        from pyspark.sql.functions import broadcast

        values = ", ".join(f"({value!r}, {start})" for value, start in rows)
        return broadcast(self._session.sql(f"SELECT * FROM VALUES {values} {columns}"))

    def _frame(self, table: ir.Table) -> Any:
        return self._session.sql(self._con.compile(table))

    def _viewed(self, frame: Any) -> ir.Table:
        name = ibis.util.gen_name("view")
        frame.createOrReplaceTempView(name)
        return self._con.table(name)

    def _opened(self, folder: Path) -> ir.Table:
        """A stored table, under the name of its folder."""
        frame = self._session.read.parquet(str(folder))
        frame.createOrReplaceTempView(folder.name)
        return self._con.table(folder.name)

    def _new(self) -> Path:
        return self._folder / ibis.util.gen_name("stored")


def require_readable(table: str, column: str, kind: Any, moment: bool) -> None:
    """Requires that a column of a Spark table has a type whose values mean the same to
    all engines.

    Args:
        table: the table, for messages.
        column: the column, for messages.
        kind: its Ibis type.
        moment: whether it orders events; texts of times differ between engines.

    Raises:
        UserError: it has another type.
    """
    known = _spark_type(kind) is not None and not (moment and kind.is_string())
    wanted = "numbers, dates or timestamps" if moment else "integers or text"
    require(
        known,
        f"table {table}: column {column!r} is {kind}, wanted {wanted}: make a view "
        "with CAST or TO_TIMESTAMP",
    )


def _spark_type(kind: Any) -> str | None:
    if kind.is_decimal() and (kind.precision or 99) <= 38:
        return f"decimal({kind.precision},{kind.scale})"
    if kind.is_timestamp() and kind.scale in (None, 3, 6):
        return "timestamp_ntz" if kind.timezone is None else "timestamp"
    return _TYPES.get(str(kind.copy(nullable=True)))


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
