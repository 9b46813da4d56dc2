"""Times of a form that the user gives, such as 31.12.2024."""

from dataclasses import replace

import ibis
import ibis.expr.datatypes as dt

from eqids.config import require
from eqids.data.raw.sources import Source


def _parsed(text: str, form: str) -> None:
    """A timestamp, or null for text of another form: a function of DuckDB."""


_try_strptime = ibis.udf.scalar.builtin(
    _parsed,
    name="try_strptime",
    signature=((dt.String(), dt.String()), dt.Timestamp()),
)


def with_standard_times(source: Source, form: str) -> Source:
    """Returns a source whose times are text like 2024-12-31 00:00:00.

    Text of another form stays as it is, and is refused where times are read, unless it
    is standard already.

    Args:
        source: the columns as the file has them.
        form: the form of its times, as Python's `strptime` takes it.

    Raises:
        UserError: the column of times is no text, or there is none.
    """
    named = f"--time_format is {form}, and"
    require(
        "time" in source.columns,
        f"{named} {source.file} has no column of times, see --time_column",
    )
    column = source.events["time"]
    require(
        column.type().is_string(),
        f"{named} column {source.columns['time']!r} of {source.file} is "
        f"{column.type()}, wanted text",
    )
    moment = _try_strptime(column, ibis.literal(form))
    standard = moment.strftime("%Y-%m-%d %H:%M:%S.%f")
    times = ibis.coalesce(standard, column)
    return replace(source, events=source.events.mutate(time=times))
