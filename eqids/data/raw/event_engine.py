"""Opens the engine that --engine names."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from eqids.config import PrepareConfig, UserError
from eqids.data.raw.engine import Engine, engine
from eqids.data.raw.spark_session import spark_errors, spark_session
from eqids.data.raw.spark_tables import SparkTables

_DUCKDB_MEMORY = "1GB"
"""Most memory of DuckDB beside Spark; what exceeds it goes to a temporary folder."""


@contextlib.contextmanager
def event_engine(config: PrepareConfig) -> Iterator[Engine]:
    """Opens DuckDB and, with --engine spark, Spark for the events.

    Args:
        config: the engine, and Spark's settings.

    Raises:
        UserError: Spark does not start, or fails; its folder cannot be written.
    """
    with engine() as reader:
        if config.engine == "duckdb":
            yield reader
            return
        reader.con.raw_sql(f"SET memory_limit = '{_DUCKDB_MEMORY}'")
        with (
            _shared_folder(config.spark_dir) as folder,
            spark_session(config.spark_master, config.spark_conf) as session,
            spark_errors(config.source),
        ):
            yield replace(reader, tables=SparkTables(session, reader.con, folder))


@contextlib.contextmanager
def _shared_folder(parent: Path | None) -> Iterator[Path]:
    """A folder for intermediate tables, which is removed at the end."""
    try:
        where = tempfile.TemporaryDirectory(
            prefix="eqids-spark-", dir=parent, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise UserError(
            f"--spark_dir {parent} is not a folder that can be written to "
            f"({error.strerror})"
        ) from None
    with where as folder:
        # Workers may run as another user.
        Path(folder).chmod(0o777 if parent is not None else 0o700)
        yield Path(folder).resolve()
