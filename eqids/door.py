"""What every door shares: reading flags, and ending at a mistake of the user."""

import dataclasses
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, get_type_hints

import tyro
from tqdm import tqdm

from eqids.config import Stopped, UserError, require

Config = TypeVar("Config")


def parse(
    kind: type[Config],
    argv: Sequence[str] | None,
    module: str,
    description: str,
    defaults: Mapping[str, Any] | None = None,
    *,
    pairs: bool = False,
) -> Config:
    """Reads flags into a config; help and mistakes are told in the terminal.

    Args:
        kind: the config's class, whose fields are the flags.
        argv: the words of the command line, by default the process's own.
        module: what the user typed after `python -m`.
        description: the first text of `--help`.
        defaults: what flags are that are not given, by name, in place of the class's.
        pairs: whether a switch has two spellings, --x and --no_x, whatever its default
            is.

    Raises:
        UserError: flags that contradict each other, or a value out of range.
    """
    unchecked = _unchecked(kind)
    read = tyro.cli(
        unchecked,
        default=unchecked(**(defaults or {})),
        args=argv,
        prog=f"python -m {module}",
        description=description,
        use_underscores=True,
        config=(
            tyro.conf.OmitArgPrefixes,
            *(() if pairs else (tyro.conf.FlagCreatePairsOff,)),
        ),
    )
    return _checked(kind, read)


def parse_command(
    kinds: Mapping[str, type[Config]],
    argv: Sequence[str] | None,
    module: str,
    description: str,
    *,
    positional: bool = False,
) -> Config:
    """Reads a command and its flags; see `parse`.

    Args:
        kinds: by the command's name, the config's class.
        argv: the words of the command line, by default the process's own.
        module: what the user typed after `python -m`.
        description: the first text of `--help`.
        positional: whether what must be given is told by its place, without a flag.

    Raises:
        UserError: flags that contradict each other, or a value out of range.
    """
    unchecked = {name: _unchecked(kind, positional) for name, kind in kinds.items()}
    more = (tyro.conf.PositionalRequiredArgs,) if positional else ()
    read = tyro.extras.subcommand_cli_from_dict(
        unchecked,  # type: ignore[arg-type]
        args=argv,
        prog=f"python -m {module}",
        description=description,
        use_underscores=True,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes, *more),
    )
    (name,) = (name for name, kind in unchecked.items() if type(read) is kind)
    return _checked(kinds[name], read)


def _unchecked(kind: type[Config], positional: bool = False) -> type[Config]:
    """The same flags without `__post_init__`, whose errors tyro would rephrase.

    What a command is told by its place is called by its name, and not by its type.
    """
    hints = get_type_hints(kind)
    named = {
        field.name: Annotated[
            hints[field.name],
            tyro.conf.arg(metavar=field.name.upper()),
        ]
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        if positional and field.default is dataclasses.MISSING
    }
    space = {
        "__doc__": kind.__doc__,
        "__post_init__": lambda self: None,
        "__annotations__": named,
    }
    return type(kind.__name__, (kind,), space)


def _checked(kind: type[Config], read: Any) -> Config:
    names = [field.name for field in dataclasses.fields(read)]
    return kind(**{name: getattr(read, name) for name in names})


def check_output(path: Path | None, flag: str) -> None:
    """Requires that a file can be written, before what takes long is done.

    Args:
        path: the file, or None where there will be none.
        flag: that names it.

    Raises:
        UserError: it is a folder, or its folder is not there or cannot be written to.
    """
    if path is None:
        return
    require(not path.is_dir(), f"{flag} {path} is a folder, wanted a file to write")
    folder = path.parent
    require(
        folder.is_dir() and os.access(folder, os.W_OK | os.X_OK),
        f"{flag} {path} cannot be written: {folder} is not a folder that exists and "
        "can be written to",
    )


def say(text: str) -> None:
    """Prints a text; of the processes of a run, the first one does."""
    sharding = _sharding()
    if sharding is None or sharding.is_first():
        print(text)


def warn(text: str) -> None:
    """Prints what a user must know, beside a progress bar; the first process does."""
    sharding = _sharding()
    if sharding is None or sharding.is_first():
        tqdm.write(f"warning: {text}", file=sys.stderr)


def run(main: Callable[[], None]) -> None:
    """Runs a door's `main`: a user's mistake is one sentence and exit code 2.

    Interrupted, it exits with 130, as shells expect, and a run that a signal stopped
    and that is saved with 128 and the signal's number (143 for SIGTERM); where another
    process of the run is gone, with 1; where nobody reads its output any more, as
    behind `| head`, with 141; anything else is a fault of ours and stays a traceback.
    """
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is left to print goes nowhere, or Python would complain at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        _exit(130, "interrupted", together=False)
    except Stopped as stopped:
        _exit(128 + stopped.signal, str(stopped))
    except Exception as error:
        sharding = _sharding()
        if _is_users(error):
            _exit(2, f"error: {error}")
        if sharding is not None and sharding.lost_peer(error):
            _exit(
                1,
                "error: another process of this run has ended or cannot be reached, "
                f"its own output says why ({str(error).splitlines()[0]}); the same "
                "command in all processes goes on from the last checkpoint",
                together=False,
            )
        if sharding is not None and sharding.beside_others():
            _exit(1, traceback.format_exc(), together=False)
        raise


def _exit(code: int, text: str, *, together: bool = True) -> NoReturn:
    """Ends with a text; `together` with the processes beside this one, see `leave`."""
    print(text, file=sys.stderr)
    sharding = _sharding()
    if sharding is not None:
        sharding.leave(code, together=together)
    sys.exit(code)


def _is_users(error: Exception) -> bool:
    sharding = _sharding()
    return isinstance(error, UserError) or (
        sharding is not None
        and isinstance(error, sharding.LayoutError | sharding.ProcessesError)
    )


def _sharding() -> Any:
    """The room that knows devices, if it is in use: importing jax takes long."""
    return sys.modules.get("sharding")
