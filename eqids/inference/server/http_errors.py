"""Errors of requests: a status, and a sentence that says what to change."""

from collections.abc import Mapping
from types import MappingProxyType

OUTCOMES: Mapping[int, str] = MappingProxyType(
    {
        200: "ok",
        400: "bad_request",
        401: "unauthorized",
        403: "forbidden",
        404: "not_found",
        405: "bad_method",
        408: "too_slow",
        409: "refused",
        413: "too_large",
        429: "queue_full",
        499: "cancelled",
        500: "error",
        503: "unavailable",
        504: "deadline",
    }
)
"""What the metrics call each status; 499 is a client that went away."""

MEANINGS: Mapping[int, str] = MappingProxyType(
    {
        400: "The request is malformed.",
        401: "The key is missing or wrong.",
        403: "A page of another site sent the request.",
        404: "There is no such user or item.",
        405: "The path has no such method.",
        408: "The body did not arrive in time.",
        409: "The checkpoint is refused, and the served one stays.",
        413: "The body is too large.",
        429: "The queue is full; see the header Retry-After.",
        500: "A mistake of the server, which its log describes.",
        503: "No model is ready, or the server is shutting down.",
        504: "There was no answer in time.",
    }
)
"""What the OpenAPI document says of each status."""


class HttpError(Exception):
    """A request that is not answered as the client wants."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] = {}):  # noqa: B006
        """Records the answer.

        Args:
            status: the HTTP status.
            sentence: what is wrong, and what was wanted.
            headers: of the answer.
        """
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = headers


def expect(condition: bool, status: int, sentence: str) -> None:
    """Raises `HttpError` unless `condition` holds."""
    if not condition:
        raise HttpError(status, sentence)
