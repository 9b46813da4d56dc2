"""Answers the requests to one operation: key, body, function, answer."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eqids.inference.server.api_keys import has_key
from eqids.inference.server.decode_bodies import (
    ClientGone,
    convert_parameters,
    decode,
    read_body,
)
from eqids.inference.server.http_errors import HttpError, expect
from eqids.inference.server.operations import Operation
from eqids.inference.server.service import Service


class _Several(Struct):
    """Says whether a body holds several requests."""

    requests: Raw | UnsetType = UNSET


class Endpoint:
    """An ASGI application for one operation."""

    def __init__(self, service: Service, operation: Operation, keys: Sequence[bytes]):
        """Makes the decoders.

        Args:
            service: the state of the server.
            operation: the endpoint.
            keys: one of them is needed below /v1; none is needed if there are none.
        """
        self._service = service
        self._operation = operation
        self._keys = keys
        self._decoders = [msgspec.json.Decoder(kind) for kind in operation.takes]
        self._several = msgspec.json.Decoder(_Several)
        self._encode = msgspec.json.Encoder().encode

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request.

        Raises:
            HttpError: it is refused.
            ClientGone: the client closed its connection.
        """
        scope["operation"] = self._operation
        headers = {name: value for name, value in scope["headers"]}
        if self._operation.path.startswith("/v1/"):
            self._check_caller(headers)
        asked = await self._read(scope, headers, receive)
        with self._service.accepted():
            async with _cancelled_with_client(receive):
                answer = await self._operation.function(self._service, asked)
            body = self._encode(answer)
            response = Response(body, media_type="application/json")
            await response(scope, receive, send)

    def _check_caller(self, headers: dict[bytes, bytes]) -> None:
        """Requires a key, if there are keys, and no page of another site."""
        given = headers.get(b"authorization", b"")
        if self._keys and not has_key(given, self._keys):
            raise HttpError(
                401,
                "wanted the header Authorization: Bearer KEY with a valid key",
                {"www-authenticate": "Bearer"},
            )
        site = headers.get(b"sec-fetch-site", b"none")
        expect(
            site in (b"none", b"same-origin"),
            403,
            "a page of another site sent this request, wanted one of this server's",
        )

    async def _read(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive
    ) -> Any:
        """Returns the request in its type."""
        if self._operation.method == "GET":
            query = QueryParams(scope["query_string"])
            expect(len(query.multi_items()) == len(query), 400, "a parameter repeats")
            (kind,) = self._operation.takes
            return convert_parameters({**query, **scope["path_params"]}, kind)
        config = self._service.config
        body = await read_body(
            receive,
            headers.get(b"content-length"),
            config.max_body_mb * 2**20,
            config.read_timeout,
        )
        scope["body"] = body
        one, *several = self._decoders
        try:
            return decode(body, one)
        except HttpError:
            # Long lists are not read twice: only a body that is no request may be
            # several.
            if several and decode(body, self._several).requests is not UNSET:
                return decode(body, several[0])
            raise


@asynccontextmanager
async def _cancelled_with_client(receive: Receive) -> AsyncIterator[None]:
    """Cancels what runs inside when the client closes its connection.

    Raises:
        ClientGone: it did.
    """
    answering = asyncio.current_task()
    assert answering is not None

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        answering.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if watching.done():
            answering.uncancel()
            raise ClientGone from None
        raise
    finally:
        watching.cancel()
