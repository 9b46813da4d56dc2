"""Opens the engine that --engine names."""

import contextlib
import errno
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb

from eqids.config import PrepareConfig, UserError
from eqids.data.raw.engine import Engine, engine
from eqids.data.raw.spark_session import spark_errors, spark_session
from eqids.data.raw.spark_tables import SparkTables

_NO_SPACE = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
"""Numbers of the errors of a full disk."""


@contextlib.contextmanager
def event_engine(config: PrepareConfig) -> Iterator[Engine]:
    """Opens DuckDB and, with --engine spark, Spark for the events.

    Args:
        config: the engine, and Spark's settings.

    Raises:
        UserError: Spark does not start, or fails; a folder cannot be written; there
            is too little memory.
    """
    with engine() as reader, _limits(config, reader.folder):
        reader.con.raw_sql(f"SET memory_limit = '{1e3 * config.memory_gb:.3f}MB'")
        if config.engine == "duckdb":
            yield reader
            return
        with (
            _shared_folder(config.spark_dir) as folder,
            spark_session(config.spark_master, config.spark_conf) as session,
            spark_errors(config.source),
        ):
            yield replace(reader, tables=SparkTables(session, reader.con, folder))


@contextlib.contextmanager
def _limits(config: PrepareConfig, folder: Path) -> Iterator[None]:
    """Turns errors about too little memory and a full disk into `UserError`s."""
    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.IOException, OSError) as error:
        # Rows that arrive in parts are read by Arrow, whose errors have a text only.
        said = str(error).splitlines()[0]
        number = getattr(error, "errno", None)
        if number in _NO_SPACE or "max_temp_directory_size" in str(error):
            said = "no space is left"
        elif "Out of Memory Error" in said:
            raise UserError(
                f"{config.source}: --memory_gb {config.memory_gb} is too little for "
                "this data, wanted more"
            ) from None
        elif not isinstance(error, duckdb.IOException):
            raise
        raise UserError(
            f"the folder of temporary files, {folder.parent}, could not be written to "
            f"({said}); set TMPDIR to another"
        ) from None


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
