"""What every door shares: how a mistake of the user ends the program."""

import sys
from collections.abc import Callable

from eqids.config import UserError


def run(main: Callable[[], None]) -> None:
    """Runs a door's `main`: a user's mistake is one sentence and exit code 2.

    Interrupted, it exits with 130, as shells expect; anything else is a fault of
    ours and stays a traceback.
    """
    try:
        main()
    except ValueError as error:
        if not _is_users(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _is_users(error: ValueError) -> bool:
    # Doors that shard nothing should not pay for importing jax.
    sharding = sys.modules.get("sharding")
    return isinstance(error, UserError) or (
        sharding is not None and isinstance(error, sharding.LayoutError)
    )
