"""Texts of items from a template: `{title} ({year}), {genres}`."""

import string
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from eqids.config import UserError, require
from eqids.data.tables import ROW


def text_of(template: str, file: Path, table: ir.Table) -> Any:
    """Returns the column of texts that a template makes of a table's columns.

    An empty cell leaves nothing in its place; a list's values stand between commas.

    Args:
        template: a text with names of columns in braces; `{{` is a brace.
        file: the table's, for messages.
        table: the items.

    Raises:
        UserError: the template is not one, or names a column that is not there.
    """
    text: Any = ibis.literal("")
    for literal, name in _parts(template):
        text = text + literal
        if name is None:
            continue
        there = [column for column in table.columns if column != ROW]
        require(
            name in there,
            f"--text {template!r} names {name!r}, which is no column of {file}: it has "
            f"{', '.join(there)}",
        )
        text = text + _cell(table[name])
    return text


def _parts(template: str) -> list[tuple[str, str | None]]:
    wanted = "wanted names of columns in braces, such as '{title}, {genres}'"
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"--text is {template!r} ({error}), {wanted}") from None
    plain = all(not spec and not conversion for _, _, spec, conversion in parts)
    named = any(name is not None for _, name, _, _ in parts)
    require(plain and named, f"--text is {template!r}, {wanted}")
    return [(literal, name) for literal, name, _, _ in parts]


def _cell(column: Any) -> Any:
    if column.type().is_array():
        text = ibis.literal(", ").join(column.cast("array<string>"))
    elif column.type().is_floating():
        # Integers with empty cells are read as floats.
        text = column.cast("string").re_replace(r"\.0$", "")
        text = ibis.ifelse(column.isnan(), "", text)
    else:
        text = column.cast("string")
    return text.fill_null("")
