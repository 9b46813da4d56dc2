"""Read JSON objects that others wrote, strictly and in bounded memory."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eqids.config import UserError, check_content, require

_MOST_BYTES = 64 << 20
"""The largest index on the hub is a few MB."""


def read_object(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
        UserError: the file is not a JSON object, is larger than 64 MiB, or an object
            in it has a name twice.
    """
    check_content(path)
    size = path.stat().st_size
    require(
        size <= _MOST_BYTES,
        f"{path} has {size:,} bytes, wanted at most {_MOST_BYTES:,} of JSON",
    )

    def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, value in pairs:
            require(name not in values, f"{path} has {name!r} twice in one object")
            values[name] = value
        return values

    data = path.read_bytes()
    require(
        data[:2] not in (b"\xff\xfe", b"\xfe\xff"),
        f"{path} is written in UTF-16, wanted UTF-8: save it again as UTF-8",
    )
    try:
        values = json.loads(data.decode("utf-8-sig"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    require(isinstance(values, dict), f"{path} holds no JSON object")
    return values
