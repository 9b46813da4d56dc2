"""Reads bodies and parameters of requests into types, within limits."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from starlette.types import Receive

from eqids.inference.server.http_errors import HttpError

Taken = TypeVar("Taken")

_WHERE = re.compile(r"(.*?)(?: - at `(?:key in )?\$\.?(.*)`)?", re.DOTALL)


class ClientGone(Exception):
    """The client closed its connection."""


async def read_body(
    receive: Receive, length: bytes | None, most: int, seconds: float
) -> bytes:
    """Reads the body of a request.

    Args:
        receive: ASGI's function.
        length: the value of the header Content-Length, if there is one.
        most: most bytes.
        seconds: within which the whole body must arrive.

    Raises:
        HttpError: 413 as soon as the body is known to be too large, 408 if it does not
            arrive in time.
        ClientGone: the client closed its connection.
    """
    if length is not None and (len(length) > 18 or int(length) > most):
        raise _too_large(most)
    try:
        async with asyncio.timeout(seconds):
            parts: list[bytes] = []
            size = 0
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                parts.append(message["body"])
                size += len(message["body"])
                if size > most:
                    raise _too_large(most)
                if not message["more_body"]:
                    return b"".join(parts)
    except TimeoutError:
        raise HttpError(
            408,
            f"the body did not arrive within {seconds:g} seconds, see --read_timeout",
            {"connection": "close"},
        ) from None


def decode(body: bytes, decoder: "msgspec.json.Decoder[Taken]") -> Taken:
    """Returns the value of a JSON body.

    Raises:
        HttpError: 400 with the field, and what was wanted.
    """
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise HttpError(400, _sentence(str(error), "the body")) from None
    except RecursionError:
        raise HttpError(400, "the body is nested too deeply") from None


def convert_parameters(given: Mapping[str, str], kind: type[Taken]) -> Taken:
    """Returns the parameters of a query string, and those in the path, as a type.

    Raises:
        HttpError: 400 with the parameter, and what was wanted.
    """
    try:
        return msgspec.convert(dict(given), kind, strict=False)
    except msgspec.ValidationError as error:
        raise HttpError(400, _sentence(str(error), "the query")) from None


def _sentence(said: str, whole: str) -> str:
    """Returns msgspec's message as a sentence that begins with the field."""
    match = _WHERE.fullmatch(said)
    assert match is not None
    what, where = match[1].replace("`", ""), match[2] or whole
    if "UTF-8" in what or "utf-8" in what:
        return f"{whole} is not UTF-8"
    return f"{where}: {what[:1].lower()}{what[1:]}"


def _too_large(most: int) -> HttpError:
    size: Any = most // 2**20
    return HttpError(
        413, f"the body is larger than {size} MiB, the limit by --max_body_mb"
    )
