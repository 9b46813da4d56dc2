"""Where the processes of a run connect, and the lines of JSON that they exchange."""

import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_LONGEST_LINE = 4096
"""Most bytes of a message."""


class ProcessesError(ValueError):
    """The processes of a run cannot connect; the message names the missing ones."""


@dataclass(frozen=True)
class Rendezvous:
    """Where the processes of a run connect, and how long each waits for the others."""

    address: str
    """HOST:PORT, where process 0 listens."""
    num_processes: int
    """The number of processes."""
    timeout: float
    """Seconds that each process waits for the others."""

    @property
    def host(self) -> str:
        """The host, without the brackets of IPv6."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port."""
        return int(self.address.rpartition(":")[2])

    def named(self, processes: list[int]) -> str:
        """Returns processes as messages name them, such as 'processes 1, 3 of 4'."""
        numbers = ", ".join(map(str, processes[:20]))
        more = f" and {len(processes) - 20} more" if len(processes) > 20 else ""
        word = "process" if len(processes) == 1 else "processes"
        return f"{word} {numbers}{more} of {self.num_processes}"


def is_own(host: str) -> bool:
    """Returns whether a name or an address belongs to this machine."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return False
    for family, kind, protocol, _, address in found:
        # A socket binds to addresses of its own machine only.
        with suppress(OSError), socket.socket(family, kind, protocol) as tried:
            tried.bind(address)
            return True
    return False


class Connection:
    """A connection that carries lines of JSON; it never blocks."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket, self._data = connection, b""

    def read(self) -> list[Mapping[str, Any]] | None:
        """Returns the messages received so far; None once the other side has ended."""
        try:
            data = self.socket.recv(_LONGEST_LINE)
        except BlockingIOError:
            return []
        except OSError:
            return None
        *lines, self._data = (self._data + data).split(b"\n")
        try:
            found = [json.loads(line) for line in lines]
        except ValueError:
            return None
        sound = all(isinstance(message, dict) for message in found)
        whole = data and len(self._data) <= _LONGEST_LINE
        return found if sound and (whole or found) else None

    def write(self, message: Mapping[str, Any]) -> None:
        """Sends a message; does nothing if the other side has ended."""
        with suppress(OSError):
            self.socket.send(json.dumps(message).encode() + b"\n")
