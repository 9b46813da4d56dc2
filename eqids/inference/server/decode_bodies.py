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


def decode(
    body: bytes, decoder: "msgspec.json.Decoder[Taken]", field: str = ""
) -> Taken:
    """Returns the value of a JSON body, or of a field of it.

    Args:
        body: the JSON.
        decoder: of its type.
        field: the field's name.

    Raises:
        HttpError: 400 with the field, and what was wanted.
    """
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise HttpError(400, _sentence(str(error), field)) from None
    except RecursionError:
        raise HttpError(400, f"{field or 'the body'} is nested too deeply") from None


def convert_parameters(given: Mapping[str, str], kind: type[Taken]) -> Taken:
    """Returns the parameters of a query string, and those in the path, as a type.

    Raises:
        HttpError: 400 with the parameter, and what was wanted.
    """
    try:
        return msgspec.convert(dict(given), kind, strict=False)
    except msgspec.ValidationError as error:
        raise HttpError(400, _sentence(str(error), "", "the query")) from None


def _sentence(said: str, field: str, whole: str = "the body") -> str:
    """Returns msgspec's message as a sentence that begins with the field.

    Args:
        said: the message.
        field: the field that was read, or nothing for all of them.
        whole: what all of them are called.
    """
    match = _WHERE.fullmatch(said)
    assert match is not None
    what, where = match[1].replace("`", ""), field + (match[2] or "") or whole
    if "UTF-8" in what or "utf-8" in what:
        return f"{field or whole} is not UTF-8"
    return f"{where}: {what[:1].lower()}{what[1:]}"


def _too_large(most: int) -> HttpError:
    size: Any = most // 2**20
    return HttpError(
        413, f"the body is larger than {size} MiB, the limit by --max_body_mb"
    )
