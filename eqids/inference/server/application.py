"""The ASGI application: routes, errors as JSON, metrics and the access log."""

import logging
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from eqids.inference.server.access_log import AccessLog, AccessRecord, now
from eqids.inference.server.bodies import ErrorAnswer
from eqids.inference.server.decode_bodies import ClientGone
from eqids.inference.server.endpoint import Endpoint
from eqids.inference.server.http_errors import MEANINGS, HttpError
from eqids.inference.server.openapi import openapi_document
from eqids.inference.server.operations import OPERATIONS
from eqids.inference.server.page_files import page_routes
from eqids.inference.server.service import Service

_LOGGER = logging.getLogger("eqids.serve")


class Application:
    """Answers every request, the refused ones in one sentence of JSON."""

    def __init__(self, service: Service, keys: Sequence[bytes], log: AccessLog | None):
        """Makes the routes.

        Args:
            service: the state of the server.
            keys: see `Endpoint`.
            log: receives a record of each request.
        """
        self._service = service
        self._log = log
        document = openapi_document(OPERATIONS, _version())

        async def openapi(request: Request) -> Response:
            return Response(document, media_type="application/json")

        async def metrics(request: Request) -> Response:
            text = service.metrics.text()
            return Response(text, media_type="text/plain; version=0.0.4")

        routes = [
            Route(
                # The id of a user may hold slashes.
                one.path.replace("}", ":path}"),
                Endpoint(service, one, keys),
                methods=[one.method],
            )
            for one in OPERATIONS
        ]
        routes += [Route("/openapi.json", openapi), Route("/metrics", metrics)]
        routes += page_routes()
        self._router = Router(routes, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, counts it, and writes its record."""
        if scope["type"] != "http":
            return
        # Starlette raises HTTPException for unknown paths if there is an application.
        scope["app"] = self
        started, status, error = time.perf_counter(), 499, ""

        async def recording(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._router(scope, receive, recording)
        except ClientGone:
            pass
        except Exception as raised:
            refusal = _refusal(raised)
            error = refusal.sentence
            await _refuse(refusal)(scope, receive, recording)
        seconds = time.perf_counter() - started
        if scope["path"].startswith("/v1/"):
            self._service.metrics.answered(status, seconds)
        if self._log is not None:
            self._log.add(self._record(scope, status, seconds, error))

    def _record(
        self, scope: Scope, status: int, seconds: float, error: str
    ) -> AccessRecord:
        operation, client = scope.get("operation"), scope.get("client")
        histories = self._service.config.log_histories
        body = scope.get("body", b"") if histories else b""
        path = scope["path"][:200] if operation is None else operation.path
        return AccessRecord(
            time=now(),
            client=client[0] if client else "",
            method=scope["method"],
            path=path,
            status=status,
            seconds=round(seconds, 6),
            # The sentences of these name items of a history.
            error=error if histories or status not in (400, 404) else "",
            body=body.decode(errors="replace"),
        )


def _refusal(error: Exception) -> HttpError:
    """Returns the answer to a request that raised an error."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, HTTPException):
        sentences: Mapping[int, str] = {
            404: "there is no such path, see /openapi.json",
            405: "the path has no such method, see /openapi.json",
        }
        sentence = sentences.get(error.status_code, error.detail)
        return HttpError(error.status_code, sentence, error.headers or {})
    _LOGGER.error("a request failed", exc_info=error)
    return HttpError(500, MEANINGS[500])


def _refuse(refusal: HttpError) -> Response:
    body = msgspec.json.encode(ErrorAnswer(refusal.sentence))
    return Response(
        body, refusal.status, dict(refusal.headers), media_type="application/json"
    )


def _version() -> str:
    try:
        return version("eqids")
    except PackageNotFoundError:
        return "0"
