"""Keeps answers, so that a repeated query is not computed again."""

import dataclasses
import hashlib
import threading
from collections import OrderedDict

from eqids.inference.engine.prepared_query import PreparedQuery
from eqids.inference.engine.values import Recommendations

_OVERHEAD = 512
"""Bytes that an answer takes besides its arrays."""


def answer_key(serial: int, query: PreparedQuery) -> bytes:
    """Returns a digest of all that an answer depends on.

    Items that are too old to be read and exact times do not count.

    Args:
        serial: of the served model.
        query: the query.
    """
    digest = hashlib.blake2b(f"{serial} {query.k}".encode())
    for array in (*vars(query.row).values(), query.left_out):
        if array is not None:
            digest.update(b";%d;" % array.nbytes + array.tobytes())
    digest.update(query.allow.digest)
    return digest.digest()


class AnswerCache:
    """Answers by their keys; forgets the least recently used. Threads may share it."""

    def __init__(self, max_bytes: int):
        """Starts empty.

        Args:
            max_bytes: memory of the answers; 0 keeps none.
        """
        self._max_bytes = max_bytes
        self._bytes = 0
        self._answers: OrderedDict[bytes, Recommendations] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Recommendations | None:
        """Returns the answer with this key, or None."""
        with self._lock:
            if key not in self._answers:
                return None
            self._answers.move_to_end(key)
            return dataclasses.replace(self._answers[key], cached=True)

    def put(self, key: bytes, answer: Recommendations) -> None:
        """Adds an answer."""
        with self._lock:
            if key not in self._answers:
                self._bytes += _size(answer)
            self._answers[key] = answer
            while self._bytes > self._max_bytes:
                _, oldest = self._answers.popitem(last=False)
                self._bytes -= _size(oldest)

    def clear(self) -> None:
        """Forgets all answers."""
        with self._lock:
            self._answers.clear()
            self._bytes = 0


def _size(answer: Recommendations) -> int:
    return answer.slots.nbytes + answer.probabilities.nbytes + _OVERHEAD
