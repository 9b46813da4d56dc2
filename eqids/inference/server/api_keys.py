"""The keys that requests must have, from a file."""

import hmac
from collections.abc import Sequence
from pathlib import Path

from eqids.config import UserError, require


def read_keys(path: Path) -> list[bytes]:
    """Returns the keys of a file.

    Args:
        path: one key a line; empty lines and lines that begin with # are ignored.

    Raises:
        UserError: the file cannot be read or holds no key, or a key has spaces or
            characters that a header cannot hold.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api_key_file {path} cannot be read: {error}") from None
    keys: list[bytes] = []
    for number, line in enumerate(lines, start=1):
        key = line.strip()
        if key and not key.startswith("#"):
            good = key.isascii() and key.isprintable() and " " not in key
            # The key itself is never shown.
            require(good, f"{path}: line {number} is no key, wanted ASCII, no spaces")
            keys.append(key.encode())
    require(bool(keys), f"--api_key_file {path} holds no key, wanted one a line")
    return keys


def has_key(authorization: bytes, keys: Sequence[bytes]) -> bool:
    """Returns whether a header has one of the keys.

    All keys are compared, each in a time that does not depend on its content.

    Args:
        authorization: the value of the header Authorization.
        keys: see `read_keys`.
    """
    scheme, _, given = authorization.partition(b" ")
    given = given.strip()
    same = [hmac.compare_digest(given, key) for key in keys]
    return scheme.lower() == b"bearer" and any(same)
