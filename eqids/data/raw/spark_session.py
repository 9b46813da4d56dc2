"""Starts Spark, and turns its errors into `UserError`s."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eqids.config import UserError, require

_ENDS = "wanted pyspark and Java 17: pip install 'eqids[spark]', and Java by JAVA_HOME"
_LONGEST = 500
"""Characters of Spark's message that are shown."""
_DEFAULTS: Mapping[str, str] = {
    "spark.log.level": "OFF",
    "spark.ui.enabled": "false",
    "spark.driver.memory": "2g",
}
"""Settings that --spark_conf may change."""
_LOCAL: Mapping[str, str] = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
}
"""Settings without which a machine's name that does not resolve stops Spark."""
_MEANING: Mapping[str, str] = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.caseSensitive": "true",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}
"""Settings that determine what values mean."""


@contextlib.contextmanager
def spark_session(master: str | None, settings: Sequence[str]) -> Iterator[Any]:
    """Yields a session of Spark, with the settings that preparation relies on.

    A session that runs already, such as that of spark-submit, is used and left open.

    Args:
        master: URL of the cluster, or local[N]; by default what Spark is set to, and
            otherwise local[*].
        settings: KEY=VALUE, as of spark-submit --conf.

    Raises:
        UserError: Spark is not installed, or does not start.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise UserError(f"--engine spark cannot be used ({error}): {_ENDS}") from None
    running = SparkSession.getActiveSession()
    builder = SparkSession.builder
    chosen = _settings(master, settings)
    try:
        for name, value in chosen.items() if running is None else ():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
        own = session.newSession()
    except Exception as error:
        if not (is_spark_error(error) or isinstance(error, OSError)):
            raise
        said = f"Spark does not start: {complaint(error)}; {_ENDS}"
        raise UserError(said) from None
    for name, value in _MEANING.items():
        own.conf.set(name, value)
    try:
        yield own
    finally:
        if running is None:
            with contextlib.suppress(OSError):  # its process may have ended
                session.stop()


def _settings(master: str | None, given: Sequence[str]) -> Mapping[str, str]:
    settings = dict(_DEFAULTS)
    settings["spark.ui.showConsoleProgress"] = str(sys.stderr.isatty()).lower()
    if master is None and "SPARK_HOME" not in os.environ:
        master = "local[*]"
    if master is not None:
        settings["spark.master"] = master
        settings |= _LOCAL if master.startswith("local") else {}
    for one in given:
        name, equals, value = one.partition("=")
        require(
            bool(equals) and bool(name),
            f"--spark_conf is {one!r}, wanted KEY=VALUE such as spark.driver.memory=4g",
        )
        require(
            name not in _MEANING,
            f"--spark_conf {one} changes what values mean; wanted {name} to be "
            f"{_MEANING.get(name)}, which EqIDs sets",
        )
        settings[name] = value
    return settings


def is_spark_error(error: BaseException) -> bool:
    """Returns whether Spark, or the bridge to its JVM, raised an error."""
    package = type(error).__module__.partition(".")[0]
    return package in ("pyspark", "py4j")


@contextlib.contextmanager
def spark_errors(source: str) -> Iterator[None]:
    """Turns Spark's errors about data into a `UserError`.

    Args:
        source: what is read, for messages that name no file.
    """
    try:
        yield
    except Exception as error:
        lost = isinstance(error, ConnectionError)
        if lost or type(error).__name__ == "Py4JNetworkError":
            raise UserError(
                f"{source}: Spark's process has ended: it was killed, or had too "
                "little memory (--spark_conf spark.driver.memory=8g)"
            ) from None
        if not is_spark_error(error):
            raise
        file = re.search(r"while reading file (?:file:/*)?(/?\S+?)\.?\s", str(error))
        where = f"{source}: Spark stopped"
        if file is not None:
            where = f"/{file[1].lstrip('/')} cannot be read by Spark"
        raise UserError(f"{where}: {complaint(error)}") from None


def complaint(error: BaseException) -> str:
    """Returns the cause in a message of Spark, without its stack of calls."""
    said = str(error)
    causes = re.findall(r"Caused by: [\w.$]+: (.+)", said)
    lines = [line for line in said.splitlines() if line.strip()]
    first = next((x for x in lines if "error occurred while calling" not in x), "")
    text = causes[-1] if causes else re.sub(r"^: [\w.$]+: ", "", first)
    return " ".join(text.split())[:_LONGEST].rstrip(".")
