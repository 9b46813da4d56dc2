"""A value that is computed once, when a request first needs it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

Shared = TypeVar("Shared")


class SharedResult(Generic[Shared]):
    """Requests that come while it is computed wait for the same computation.

    It goes on if a client goes away. An error goes to all that wait, and the next
    request starts again.
    """

    def __init__(self) -> None:
        """Computes nothing yet."""
        self._task: asyncio.Task[Shared] | None = None

    async def get(self, compute: Callable[[], Coroutine[Any, Any, Shared]]) -> Shared:
        """Returns the value.

        Args:
            compute: called if there is no value, and none is being computed.
        """
        if self._task is None:
            self._task = asyncio.create_task(compute())
            self._task.add_done_callback(self._forget_errors)
        return await asyncio.shield(self._task)

    def _forget_errors(self, task: "asyncio.Task[Shared]") -> None:
        if task.cancelled() or task.exception() is not None:
            self._task = None
