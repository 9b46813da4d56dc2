"""Serve: `python -m eqids.serve`."""

import importlib.util
import sys
from collections.abc import Sequence

from eqids.cli import (
    Counted,
    loading,
    parse,
    run_as_process,
    say,
    warn,
)
from eqids.config import ServeConfig, require

DESCRIPTION = """Answer requests for recommendations over HTTP.

A request has a user of the dataset or a history, and gets the answer of
`eqids.recommend`. The server is ready when it says so in one line:

    python -m eqids.serve --checkpoint runs/ml-100k-nano-all-seed0
    curl -d '{"user": 1, "k": 5}' http://127.0.0.1:8000/v1/recommend

docs/serving.md has all endpoints, and GET /openapi.json describes them.
"""

_COMPILING = "compiling all that requests may need"
_NEEDED = ("starlette", "uvicorn", "msgspec", "prometheus_client")


def main(argv: Sequence[str] | None = None) -> None:
    """Serves until a signal."""
    config = parse(ServeConfig, argv, "eqids.serve", DESCRIPTION)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    require(
        not missing,
        f"eqids.serve needs {', '.join(missing)}: pip install 'eqids[serve]'",
    )
    # Imported here: --help and a mistyped flag do not wait for jax.
    with loading():
        from eqids.inference.server.web_server import ServerOutput, serve

    counted = Counted(_COMPILING, 0, "programs")

    def compiled(done: int, of: int) -> None:
        nonlocal counted
        if done < counted.done:  # those of the model of --compare
            counted = Counted(_COMPILING, of, "programs")
        counted.advance(done - counted.done, of)

    serve(config, ServerOutput(_say_now, warn, compiled, _log))


def _say_now(text: str) -> None:
    """Prints a line at once, also into a pipe."""
    say(text)
    sys.stdout.flush()


def _log(lines: str) -> None:
    sys.stderr.write(lines)
    sys.stderr.flush()


if __name__ == "__main__":
    run_as_process(main)
