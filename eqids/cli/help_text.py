"""What --help and --version print."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, NoReturn, get_type_hints

from eqids.cli.flags import Flag, flags_of
from eqids.config import GROUPS, group_of, negation_of

_HELP = ("--help", "-h")
_COMPLETION = "--tyro-"
"""Start of tyro's flags that write completions for a shell."""


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether a command line asks for help, in any of the usual ways."""
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
        words: the words of the command line.
        command: what the user typed, `python -m eqids.train`.
        description: the first text.
        positional: whether required fields are positional.
    """
    import tyro  # late, because it takes long and only help needs it

    classes = {name: _for_tyro(kind, positional) for name, kind in kinds.items()}
    shown = [word for word in words if word in kinds][:1]
    shown += [word for word in words if word.startswith(_COMPLETION)] or ["--help"]
    markers = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
    more = (tyro.conf.PositionalRequiredArgs,) if positional else ()
    show: Any = tyro.extras.subcommand_cli_from_dict
    what: Any = classes
    if list(kinds) == [""]:
        show, what = tyro.cli, classes[""]
    show(
        what,
        args=shown,
        prog=command,
        description=description,
        use_underscores=True,
        config=(*markers, *more),
    )
    raise SystemExit(0)


def show_version() -> NoReturn:
    """Prints the installed version, and exits."""
    try:
        found = version("eqids")
    except PackageNotFoundError:
        found = "is not installed: this is a folder with its source"
    print(f"eqids {found}")
    raise SystemExit(0)


def help_of(kind: type[Any]) -> dict[str, str]:
    """Returns the help of each flag: the text under its field in the class's source."""
    found: dict[str, str] = {}
    for hint in get_type_hints(kind).values():
        if dataclasses.is_dataclass(hint):
            found |= help_of(hint)  # type: ignore[arg-type]
    for one in reversed(kind.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(said))),
                ):
                    found[name] = " ".join(said.split())
    return found


def _for_tyro(kind: type[Any], positional: bool) -> type[Any]:
    """Returns a class that tyro shows as the help of a config's class.

    tyro gives each nested class a box of its own: those are the groups of flags.
    """
    import tyro

    flags, helps = flags_of(kind, positional), help_of(kind)
    members: dict[str | None, list[tuple[str, Any, Any]]] = {None: []}
    for flag in flags:
        group = group_of(flag.declared)
        members.setdefault(group, []).append(_field(flag, helps[flag.field]))
    for group, sentence in GROUPS.items():
        if group in members:
            name = group.replace(" ", "_")
            box: Any = dataclasses.make_dataclass(name, members[group], kw_only=True)
            box.__doc__ = sentence
            named = Annotated[box, tyro.conf.arg(name=group)]
            members[None].append((name, named, dataclasses.field()))
    shown = dataclasses.make_dataclass(kind.__name__, members[None], kw_only=True)
    shown.__doc__ = kind.__doc__
    return shown


def _field(flag: Flag, text: str) -> tuple[str, Any, Any]:
    """Returns a flag as a field of a class for tyro: its name, type and default.

    A positional value is shown by the field's name, not its type's. The flag against a
    default, `--no_NAME`, has its own help.
    """
    import tyro

    extra = tyro.conf.arg(
        help=negation_of(flag.declared) or text,
        metavar=flag.name if flag.positional else None,
        help_behavior_hint="(default: False)" if flag.switch is False else None,
    )
    declared = flag.declared
    if flag.switch is False:
        return flag.field, Annotated[bool, extra], dataclasses.field(default=True)
    default = dataclasses.field(
        default=declared.default, default_factory=declared.default_factory
    )
    return flag.field, Annotated[flag.hint, extra], default
