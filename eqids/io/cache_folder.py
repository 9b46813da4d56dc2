"""The folder on the user's machine for files that can be fetched or computed again."""

import os
from pathlib import Path

from eqids.config.errors import UserError


def cache_folder() -> Path:
    """Returns the cache: $EQIDS_CACHE, or ~/.cache/eqids; makes it if needed.

    Raises:
        UserError: the folder cannot be made.
    """
    given = os.environ.get("EQIDS_CACHE")
    # `expanduser` leaves the ~ if the user has no home; `Path.home` would raise.
    folder = Path(given or os.path.expanduser("~/.cache/eqids"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}, the cache, cannot be made ({error}): set EQIDS_CACHE to a "
            "folder that can be written to"
        ) from None
    return folder
