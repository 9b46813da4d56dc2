"""Makes texts of items from a template: `{title} ({year}), {genres}`.

`prepare` and `catalog add` make every text of an item with this module.

**Empty cells.** A cell is empty if it holds only spaces and control characters, or
nothing. An empty field is removed together with the text that belongs to it: the
brackets or quotation marks around it, and the text before it from the last mark on. A
mark is a comma, semicolon, bar, line break, or a dash, slash or dot between spaces.
Without a mark, all text since the previous field belongs to it. Text before the mark
belongs to the previous field. The first field that remains has no text before it,
unless it is the first of the template:

    {title} by {author}, {year}         Heat, 1995           no author
    {title} ({year}), {genres}          Heat, Crime          no year
    {title}, {minutes} min, {genres}    Heat, Crime          no minutes
    {title} by {author}, {year}         Mann, 1995           no title
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ibis

from eqids.config import require

_WANTED = "wanted names of columns in braces, such as '{title}, {genres}'"
_TOKEN = re.compile(r"\{\{|\}\}|\{(?:[^{}\\]|\\.)*\}|[^{}]|[{}]", re.DOTALL)
_MARK = re.compile(r"\s*[,;|\n]|\s+[-–—/·•](?=\s)")
_CLOSING = {"(": ")", "[": "]", "{": "}", '"': '"', "“": "”", "«": "»"}
# Engines agree on these classes of Unicode, but not on \s.
_VISIBLE = r"[^\p{Z}\p{Cc}]"


class _Field(NamedTuple):
    name: str


class _Group(NamedTuple):
    open_mark: str
    inside: list[Any]
    close_mark: str


@dataclass(frozen=True)
class _Part:
    """A field or a group in brackets, with the text that belongs to it."""

    before: str
    inside: "str | Sequence[_Part]"
    brackets: tuple[str, str]
    after: str


def field(name: str) -> str:
    """Returns the template of one column; braces in its name are escaped."""
    return "{" + re.sub(r"([\\{}])", r"\\\1", name) + "}"


def text_of(
    template: str, file: Path, columns: Mapping[str, Any], said: str = "--text"
) -> Any:
    """Returns the column of texts that a template makes from other columns.

    Args:
        template: a text with names of columns in braces; `{{` is a brace.
        file: the file of the columns, for messages.
        columns: the columns of the items, by name.
        said: where the template comes from, for messages.

    Raises:
        UserError: the template is malformed, or names a column that does not exist or
            holds no texts.
    """
    cells = {}
    nodes = _nested(_tokens(template, said))
    for name in _names(nodes):
        require(
            name in columns,
            f"{said} {template!r} names {name!r}, which is no column of {file}: it has "
            f"{', '.join(columns)}; add the column, or give another --text",
        )
        cells[name] = cell_of(file, name, columns[name])
    return _filled(_parts(nodes), cells)[0]


def cell_of(file: Path, name: str, column: Any) -> Any:
    """Returns a column as texts; an empty cell is an empty text.

    Values of lists are joined by commas. Numbers are written as they are read, without
    the .0 that integers have in a column with empty cells.

    Args:
        file: the file of the column, for messages.
        name: the name of the column, for messages.
        column: a column of text, numbers, truth values, times, or lists of them.

    Raises:
        UserError: the column holds other values.
    """
    kind = column.type()
    inside = kind.value_type if kind.is_array() else kind
    require(
        not (inside.is_nested() or inside.is_binary()),
        f"{file}: column {name!r} is {kind}, wanted text, numbers, or lists of them",
    )
    if kind.is_array():
        shown = column.map(_shown).filter(lambda value: value != "")
        return _shown(ibis.literal(", ").join(shown))
    return _shown(column)


def _shown(value: Any) -> Any:
    text = value.cast("string")
    if value.type().is_floating():
        # Integers with empty cells are read as floats.
        text = text.re_replace(r"\.0$", "")
        text = ibis.ifelse(value.isnan(), "", text)
    text = text.fill_null("")
    return ibis.ifelse(text.re_search(_VISIBLE), text, "")


def _tokens(template: str, said: str) -> Iterator[str | _Field]:
    """The characters of a template, and its fields."""
    tokens: list[str | _Field] = []
    for token in _TOKEN.findall(template):
        require(
            token not in ("{", "}"),
            f"{said} is {template!r} (a single brace), {_WANTED}",
        )
        if token in ("{{", "}}"):
            tokens.append(token[0])
        elif token[0] == "{":
            tokens.append(_Field(re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL)))
        else:
            tokens.append(token)
    has_field = any(isinstance(token, _Field) for token in tokens)
    require(has_field, f"{said} is {template!r}, {_WANTED}")
    return iter(tokens)


def _nested(tokens: Iterator[str | _Field]) -> list[Any]:
    """Characters, fields, and groups of them between brackets."""
    open_: list[tuple[str, list[Any]]] = [("", [])]
    for token in tokens:
        open_mark, inside = open_[-1]
        if isinstance(token, str) and token == _CLOSING.get(open_mark):
            open_.pop()
            group = any(not isinstance(node, str) for node in inside)
            plain = [open_mark, *inside, token]
            found = [_Group(open_mark, inside, token)] if group else plain
            open_[-1][1].extend(found)
        elif isinstance(token, str) and token in _CLOSING:
            open_.append((token, []))
        else:
            inside.append(token)
    # A bracket that is never closed is an ordinary character.
    return [node for open_mark, inside in open_ for node in (*open_mark, *inside)]


def _names(nodes: Sequence[Any]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, _Field):
            yield node.name
        elif isinstance(node, _Group):
            yield from _names(node.inside)


def _parts(nodes: Sequence[Any]) -> list[_Part]:
    """Divides the text between fields and groups among them."""
    texts, units = [""], []
    for node in nodes:
        if isinstance(node, str):
            texts[-1] += node
        else:
            units.append(node)
            texts.append("")
    between = [_divided(text) for text in texts[1:-1]]
    before = [texts[0], *(second for _, second in between)]
    after = [*(first for first, _ in between), texts[-1]]
    return [
        _Part(first, unit.name, ("", ""), second)
        if isinstance(unit, _Field)
        else _Part(
            first, _parts(unit.inside), (unit.open_mark, unit.close_mark), second
        )
        for first, unit, second in zip(before, units, after, strict=True)
    ]


def _divided(text: str) -> tuple[str, str]:
    """Divides text between two fields: the part of the first, and of the second."""
    mark = _MARK.search(text)
    at = 0 if mark is None else mark.start()
    return text[:at], text[at:]


def _filled(parts: Sequence[_Part], cells: Mapping[str, Any]) -> tuple[Any, Any]:
    """The text of parts, and whether any field is not empty."""
    text: Any = ibis.literal("")
    some: Any = None
    for part in parts:
        if isinstance(part.inside, str):
            inside = cells[part.inside]
            there = inside != ""
        else:
            inside, there = _filled(part.inside, cells)
        open_mark, close_mark = part.brackets
        before = part.before if some is None else ibis.ifelse(some, part.before, "")
        whole = ibis.literal(open_mark) + inside + (close_mark + part.after)
        text = text + ibis.ifelse(there, before + whole, "")
        some = there if some is None else some | there
    return text, some
