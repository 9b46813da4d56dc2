"""Tables as large as the events, kept by the engine that computes them.

They never enter this process whole: sorted rows arrive in parts.
"""

import abc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa

PART_ROWS = 1 << 18
"""Rows of a part."""


class EventTables(abc.ABC):
    """What preparation wants of the engine that holds the events."""

    @abc.abstractmethod
    def read_parquet(
        self, files: Sequence[Path], columns: Mapping[str, tuple[str, Any]], row: str
    ) -> ir.Table | None:
        """Opens Parquet files, if this engine reads them as DuckDB does.

        Args:
            files: in the order of their rows; all have the same columns.
            columns: the names to give to columns, and their names and Ibis types in
                the files.
            row: the name of the column that numbers rows, from 0.

        Returns:
            The table, or none if DuckDB has to read the files.
        """

    @abc.abstractmethod
    def stored(self, table: ir.Table) -> ir.Table:
        """Computes a table once, and returns the result as a table of this engine."""

    @abc.abstractmethod
    def drop(self, table: ir.Table) -> None:
        """Deletes a table that `stored` returned."""

    @abc.abstractmethod
    def numbered(self, ids: ir.Table) -> ir.Table:
        """Numbers distinct ids in their order.

        Args:
            ids: the column id, without nulls.

        Returns:
            Columns id and number, int32 from 0.
        """

    @abc.abstractmethod
    def whole(self, table: ir.Table) -> pa.Table:
        """Returns a table of users or items, in any order of rows."""

    @abc.abstractmethod
    def parts(self, table: ir.Table) -> Iterator[pa.RecordBatch]:
        """Yields the rows of a sorted table, in its order."""


class DuckDBTables(EventTables):
    """Temporary tables of DuckDB, which go to its temporary folder if they are larger
    than its memory."""

    def __init__(self, con: Any):
        """Wraps a connection.

        Args:
            con: an Ibis connection to DuckDB.
        """
        self._con = con

    def read_parquet(
        self, files: Sequence[Path], columns: Mapping[str, tuple[str, Any]], row: str
    ) -> ir.Table | None:
        """Returns none, because the files are open in DuckDB."""
        return None

    def stored(self, table: ir.Table) -> ir.Table:
        """Computes a table once; see `EventTables.stored`."""
        return self._con.create_table(ibis.util.gen_name("stored"), table, temp=True)

    def drop(self, table: ir.Table) -> None:
        """Deletes a table; see `EventTables.drop`."""
        self._con.raw_sql(f'DROP TABLE "{table.op().name}"')

    def numbered(self, ids: ir.Table) -> ir.Table:
        """Numbers ids; see `EventTables.numbered`."""
        number = ibis.row_number().over(order_by=ids["id"]).cast("int32")
        return self.stored(ids.mutate(number=number))

    def whole(self, table: ir.Table) -> pa.Table:
        """Returns a small table; see `EventTables.whole`."""
        return table.to_pyarrow()

    def parts(self, table: ir.Table) -> Iterator[pa.RecordBatch]:
        """Yields sorted rows; see `EventTables.parts`."""
        # Ibis 12 calls what DuckDB 2 does not have.
        rows = self._con.con.sql(self._con.compile(table))
        yield from rows.to_arrow_reader(PART_ROWS)
