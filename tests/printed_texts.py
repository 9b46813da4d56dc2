"""The texts in a Python file, with the values in them left open."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

LEAST_LITERAL = 20
"""Fewest characters that a pattern must say itself, so that it matches one message."""


def patterns(path: Path) -> list[re.Pattern[str]]:
    """Returns a pattern for each text of a file: f-strings match any values."""
    tree = ast.parse(path.read_text())
    names = _constants(tree)
    return [re.compile(one, re.S) for one in _patterns(tree, names)]


def _constants(tree: ast.AST) -> dict[str, str]:
    """The texts that names stand for in f-strings: `login = "set HF_TOKEN"`."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(
                targets=[ast.Name(id=name)], value=ast.Constant(value=str(v))
            ):
                found[name] = v
            case ast.Assign(
                targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)
            ):
                for target, value in zip(targets, values, strict=True):
                    match target, value:
                        case ast.Name(id=name), ast.Constant(value=str(v)):
                            found[name] = v
    return found


def _patterns(tree: ast.AST, names: dict[str, str]) -> Iterator[str]:
    for node in ast.walk(tree):
        literal, pattern = "", ""
        match node:
            case ast.Constant(value=str(text)):
                literal, pattern = text, re.escape(text)
            case ast.JoinedStr(values=values):
                for value in values:
                    match value:
                        case ast.Constant(value=str(text)):
                            literal, pattern = literal + text, pattern + re.escape(text)
                        case ast.FormattedValue(value=ast.Name(id=name)) if (
                            name in names
                        ):
                            literal += names[name]
                            pattern += re.escape(names[name])
                        case _:
                            pattern += ".*?"
        if len(literal) >= LEAST_LITERAL:
            yield pattern
