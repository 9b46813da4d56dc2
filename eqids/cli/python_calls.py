"""Commands called from Python: their flags as arguments, their messages as values."""

import inspect
import os
import sys
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from types import ModuleType
from typing import Any

from eqids.cli.accelerators import choose_platform
from eqids.cli.command_line import Settings
from eqids.cli.flags import Flag, build, flags_of
from eqids.cli.printing import messages_to
from eqids.cli.suggest import answer
from eqids.config import UserError, require

_FUNCTION = "_called_as"


class _CallableModule(ModuleType):
    """A command's module, which Python code also calls as a function."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        return vars(self)[_FUNCTION](*given, **named)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(vars(self)[_FUNCTION])


def make_callable(name: str, function: Callable[..., Any]) -> None:
    """Lets a command's module be called as a function: `eqids.prepare(frame)`.

    `eqids.prepare` has to be the module of `python -m eqids.prepare`. A function of
    this name in `eqids/__init__.py` would be replaced by the module wherever somebody
    imports that, so that the meaning of `eqids.prepare` would depend on the order of
    imports. A module whose class has `__call__` is both, always.

    Args:
        name: the module's `__name__`.
        function: what the call does.

    References:
        Python's reference, 3.3.2.1, "Customizing module attribute access".
    """
    module = sys.modules[name]
    if name != "__main__":
        vars(module)[_FUNCTION] = function
        module.__class__ = _CallableModule


def config_of(
    kind: type[Settings],
    config: Settings | None,
    given: Mapping[str, Any],
    command: str,
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """Returns the config of a command from the arguments of a call.

    Args:
        kind: the config's class.
        config: a config whose values hold where `given` has none, or None.
        given: values by the names of flags. Paths may be texts.
        command: what to call the command in messages, `eqids.train`.
        defaults: defaults of flags by name, in place of the class's. A value of
            `config` holds against them if it is not the class's default.

    Raises:
        UserError: a flag is unknown, or a value has another type or is refused.
    """
    require(
        config is None or isinstance(config, kind),
        f"{command}: config is a {type(config).__name__}, wanted a {kind.__name__}",
    )
    flags = {flag.field: flag for flag in flags_of(kind)}
    silent = _flat(build(kind, {}))
    values = {} if config is None else _flat(config)
    values = {name: v for name, v in values.items() if v != silent[name]}
    for name, value in given.items():
        if name not in flags:
            raise UserError(
                answer(f"--{name}", f"python -m {command}", tuple(flags.values()))
            )
        values[name] = _value(flags[name], value)
    found: Settings = build(kind, {**(defaults or {}), **values})
    choose_platform(found)
    return found


def _flat(config: Any) -> dict[str, Any]:
    """The values of a config and of the configs in it, by field."""
    found: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        found |= _flat(value) if is_dataclass(value) else {field.name: value}
    return found


def _value(flag: Flag, value: Any) -> Any:
    """A value as its flag has it: of its type, and several of them as a tuple."""
    if value is None and (flag.optional or type(None) in typing.get_args(flag.hint)):
        return None
    if not flag.several:
        return _one(flag, value)
    require(
        not isinstance(value, str) and hasattr(value, "__iter__"),
        f"{flag.field} is {value!r}, wanted a list",
    )
    return tuple(_one(flag, one) for one in value)


def _one(flag: Flag, value: Any) -> Any:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if flag.kind is Path and isinstance(value, str | os.PathLike):
        require(str(value) != "", f"{flag.field} is empty, wanted a path")
        return Path(value)
    if flag.kind is int and isinstance(value, Integral) and is_number:
        return int(value)
    if flag.kind is float and is_number:
        require(value == value, f"{flag.field} is {value!r}, wanted {flag.wanted}")
        return float(value)
    right = value in flag.choices if isinstance(value, str) and flag.choices else False
    if flag.kind in (bool, str):
        right = isinstance(value, flag.kind)
    require(right, f"{flag.field} is {value!r}, wanted {flag.wanted}")
    return value


@contextmanager
def reported(
    report: Callable[[str], None] | None, progress: bool, depth: int = 2
) -> Iterator[None]:
    """Sends the messages of a call to a function, and shows bars if that is wanted.

    Without a function messages are dropped, but warnings become Python's warnings
    once the call has ended well.

    Args:
        report: receives each message.
        progress: whether to show progress bars on stderr.
        depth: calls between the user's line and this function: of a callable module
            two, and of a function one.
    """
    found: list[str] = []

    def keep(message: str) -> None:
        if message.startswith("warning: "):
            found.append(message.removeprefix("warning: "))

    with messages_to(keep if report is None else report, progress):
        yield
    for message in found:
        # This generator and contextlib come before those calls.
        warnings.warn(message, stacklevel=3 + depth)
