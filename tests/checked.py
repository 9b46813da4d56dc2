"""The type checker of the tests: beartype, once for each signature."""

from collections.abc import Callable
from typing import Any

import beartype as checker

_FOUND: dict[Any, Callable[..., Any]] = {}
"""Checked functions by all that beartype reads of a signature."""


def beartype(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with its annotations checked at every call.

    jaxtyping calls this with functions that it makes: each has a signature and no other
    content. It does so whenever a function inside a function is defined, and beartype
    takes milliseconds for each.
    """
    if "<locals>" not in function.__qualname__:
        return checker.beartype(function)
    if function.__defaults__ or function.__kwdefaults__:
        return checker.beartype(function)
    code = function.__code__
    names = code.co_posonlyargcount, code.co_argcount, code.co_flags, code.co_varnames
    annotations = tuple(function.__annotations__.items())
    key = function.__module__, function.__qualname__, names, annotations
    try:
        found = _FOUND.get(key)
    except TypeError:  # an annotation that has no hash
        return checker.beartype(function)
    if found is None:
        found = _FOUND[key] = checker.beartype(function)
    return found
