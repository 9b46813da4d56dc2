"""What --help and --version print."""

import dataclasses
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, NoReturn, get_type_hints

from eqids.config import negation_of

_HELP = ("--help", "-h")
_COMPLETION = "--tyro-"
"""How tyro's flags begin that write completions for a shell."""


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether a command line asks for help, in any of the ways that people do."""
    if words and words[0] == "help":
        return True
    return any(
        word.partition("=")[0] in _HELP or word.startswith(_COMPLETION)
        for word in words
    )


def show_help(
    kinds: Mapping[str, type[Any]],
    words: Sequence[str],
    command: str,
    description: str,
    positional: bool,
) -> NoReturn:
    """Prints the help of a command, or of the subcommand in the words, and exits.

    Args:
        kinds: by the subcommand's name, the class of its config; the name of a command
            without subcommands is empty.
        words: of the command line.
        command: what the user typed, `python -m eqids.train`.
        description: the first text.
        positional: whether required fields are given by their place.
    """
    import tyro  # only who reads help waits for it

    classes = {name: _described(kind, positional) for name, kind in kinds.items()}
    asked = [word for word in words if word in kinds][:1]
    asked += [word for word in words if word.startswith(_COMPLETION)] or ["--help"]
    markers = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
    more = (tyro.conf.PositionalRequiredArgs,) if positional else ()
    show: Any = tyro.extras.subcommand_cli_from_dict
    what: Any = classes
    if list(kinds) == [""]:
        show, what = tyro.cli, classes[""]
    show(
        what,
        args=asked,
        prog=command,
        description=description,
        use_underscores=True,
        config=(*markers, *more),
    )
    raise SystemExit(0)


def show_version() -> NoReturn:
    """Prints the version that is installed, and exits."""
    try:
        found = version("eqids")
    except PackageNotFoundError:
        found = "is not installed: this is a folder with its source"
    print(f"eqids {found}")
    raise SystemExit(0)


def _described(kind: type[Any], positional: bool) -> type[Any]:
    """Returns the class with what tyro does not know of its fields.

    A value that is given by its place has the field's name, not its type's; a flag
    against a default says what it does.
    """
    import tyro

    hints, described = get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        negation = negation_of(field)
        required = (
            field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        )
        if negation is not None:
            extra = tyro.conf.arg(help=negation, help_behavior_hint="(default: False)")
        elif positional and required:
            extra = tyro.conf.arg(metavar=field.name.upper())
        else:
            continue
        described[field.name] = Annotated[hints[field.name], extra]
    space = {"__doc__": kind.__doc__, "__annotations__": described}
    return type(kind.__name__, (kind,), space)
