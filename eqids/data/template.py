"""Texts of items from a template: `{title} ({year}), {genres}`."""

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from eqids.config import UserError, require
from eqids.data.tables import ROW


def columns_of(table: ir.Table) -> dict[str, Any]:
    """The columns of a file, by name."""
    return {name: table[name] for name in table.columns if name != ROW}


def text_of(template: str, file: Path, columns: Mapping[str, Any]) -> Any:
    """Returns the column of texts that a template makes of others.

    An empty cell leaves nothing in its place; a list's values stand between commas.

    Args:
        template: a text with names of columns in braces; `{{` is a brace.
        file: where they come from, for messages.
        columns: of the items, by name.

    Raises:
        UserError: the template is not one, or names a column that is not there.
    """
    text: Any = ibis.literal("")
    for literal, name in _parts(template):
        text = text + literal
        if name is None:
            continue
        require(
            name in columns,
            f"--text {template!r} names {name!r}, which is no column of {file}: it has "
            f"{', '.join(columns)}",
        )
        text = text + _cell(columns[name])
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
