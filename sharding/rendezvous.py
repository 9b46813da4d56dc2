"""Processes find one another before jax joins them, so that a missing one is named.

jax's own start is silent for minutes and then aborts the process. So process 0 listens
at the coordinator's address first, and the others connect and say which they are. Once
all have come it says so, leaves the port to jax, and all go on. Messages are lines of
JSON: {"process", "of", "who"} of a process that comes, and {"here"}, {"awaited"},
{"go"} or {"error"} of process 0.
"""

import errno
import json
import os
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_REPORT_AFTER = 10.0
"""Seconds after which it is said who is awaited."""
_BETWEEN_TRIES = 0.2
"""Seconds until an address is tried again."""
_ANSWER_WITHIN = 10.0
"""Seconds in which process 0 answers, or something else listens there."""
_REFUSES_FOR = 1.0
"""Seconds in which process 0 still tells why the processes will not meet."""
_STRANGER = "what listens there is not process 0 of this run"
_LONGEST_LINE = 4096
"""Bytes of a message, at most."""

Report = Callable[[str], None]


class ProcessesError(ValueError):
    """Processes that cannot find one another."""


@dataclass(frozen=True)
class Rendezvous:
    """Where and for how long the processes of a run wait for one another."""

    address: str
    """HOST:PORT, where process 0 listens."""
    num_processes: int
    """How many there are."""
    timeout: float
    """Seconds that each waits for the others."""

    @property
    def host(self) -> str:
        """The host, without the brackets of IPv6."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port."""
        return int(self.address.rpartition(":")[2])

    def meet(self, process_id: int, report: Report) -> None:
        """Returns once all processes have come.

        Args:
            process_id: which of them this is; 0 listens, the others connect.
            report: hears after ten seconds who is awaited, and where.

        Raises:
            ProcessesError: some did not come in time (it names them), two came with one
                number, or the port is in use.
        """
        if process_id == 0:
            _Listener(self, report).gather()
        else:
            _Comer(self, process_id, report).join()

    def named(self, processes: list[int]) -> str:
        """How messages name processes: 'process 1 of 2', 'processes 1, 3 of 4'."""
        numbers = ", ".join(map(str, processes[:20]))
        more = f" and {len(processes) - 20} more" if len(processes) > 20 else ""
        word = "process" if len(processes) == 1 else "processes"
        return f"{word} {numbers}{more} of {self.num_processes}"


def is_own(host: str) -> bool:
    """Returns whether a name or an address is one of this machine."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return False
    for family, kind, protocol, _, address in found:
        # Only addresses of this machine can be bound.
        with suppress(OSError), socket.socket(family, kind, protocol) as tried:
            tried.bind(address)
            return True
    return False


class _Line:
    """A connection that lines of JSON come from; it never blocks."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket, self._data = connection, b""

    def read(self) -> list[Mapping[str, Any]] | None:
        """Returns the messages that have come; None where there will be no more."""
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
        """Sends a message; one that is gone does not hear it."""
        with suppress(OSError):
            self.socket.send(json.dumps(message).encode() + b"\n")


class _Listener:
    """Process 0, which the others come to."""

    def __init__(self, place: Rendezvous, report: Report) -> None:
        self._place, self._report = place, report
        self._come: dict[int, tuple[_Line, str]] = {}
        self._awaited = ""

    def gather(self) -> None:
        """Returns once all have come."""
        begun = time.monotonic()
        with selectors.DefaultSelector() as selector, self._listen() as server:
            server.setblocking(False)
            selector.register(server, selectors.EVENT_READ)
            try:
                while missing := self._missing():
                    waited = time.monotonic() - begun
                    self._check_time(waited, missing)
                    for key, _ in selector.select(0.1):
                        if key.fileobj is server:
                            self._accept(server, selector)
                        elif not self._hear(key.data):
                            selector.unregister(key.fileobj)
                            key.data.socket.close()
                self._tell({"go": True})
            except ProcessesError as error:
                self._refuse(str(error), server, selector)
                raise
            finally:
                for key in [*selector.get_map().values()]:
                    if key.data is not None:
                        key.data.socket.close()

    def _listen(self) -> socket.socket:
        # What jax binds afterwards.
        bound = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", f":{self._place.port}")
        host, _, port = bound.rpartition(":")
        host = "" if host in ("", "[::]") else host.strip("[]")
        both = not host and socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both or ":" in host else socket.AF_INET
        try:
            return socket.create_server(
                (host, int(port)), family=family, dualstack_ipv6=both
            )
        except OSError as error:
            why = f"cannot be listened at ({error.strerror})"
            if error.errno == errno.EADDRINUSE:
                why = "is in use, by another program or another process 0"
            raise ProcessesError(
                f"port {port} of this machine {why}, wanted a free one for process 0, "
                "see --coordinator"
            ) from error

    def _missing(self) -> list[int]:
        others = range(1, self._place.num_processes)
        return [number for number in others if number not in self._come]

    def _check_time(self, waited: float, missing: list[int]) -> None:
        place = self._place
        if waited >= place.timeout:
            raise ProcessesError(
                f"{place.named(missing)} did not come to {place.address} within "
                f"{place.timeout:g} s (--join_timeout){self._elsewhere()}; start all "
                "of them with the same --coordinator and --num_processes, or one alone "
                "with --num_processes 1"
            )
        if waited >= _REPORT_AFTER:
            named = place.named(missing)
            if not self._awaited:
                left = place.timeout - waited
                self._report(
                    f"waiting for {named} at {place.address}, for {left:.0f} s more "
                    f"(--join_timeout){self._elsewhere()}"
                )
            if named != self._awaited:
                self._awaited = named
                self._tell({"awaited": named})

    def _elsewhere(self) -> str:
        """Says that the address is another machine's, where it seems to be."""
        host = self._place.host
        if is_own(host):
            return ""
        return (
            f"; process 0 listens on this machine, {socket.gethostname()}, and {host} "
            "of --coordinator is no name or address of it"
        )

    def _accept(self, server: socket.socket, selector: selectors.BaseSelector) -> None:
        with suppress(OSError):
            connection, _ = server.accept()
            selector.register(connection, selectors.EVENT_READ, _Line(connection))

    def _hear(self, line: _Line) -> bool:
        """Takes in what one says; returns whether it is still there."""
        messages = line.read()
        if messages is None:
            self._come = {k: v for k, v in self._come.items() if v[0] is not line}
            return False
        for message in messages:
            number, of = message.get("process"), message.get("of")
            if not isinstance(number, int) or not isinstance(of, int):
                return False
            self._enter(number, of, str(message.get("who")), line)
        return True

    def _enter(self, number: int, of: int, who: str, line: _Line) -> None:
        size = self._place.num_processes
        seen = self._come.setdefault(number, (line, who))
        if of != size:
            raise ProcessesError(
                f"process {number} ({who}) was started with --num_processes {of}, and "
                f"process 0 with {size}; wanted the same"
            )
        if not 0 < number < size or seen[0] is not line:
            first = "process 0" if number == 0 else seen[1]
            raise ProcessesError(
                f"two processes were started with --process_id {number}: {first} and "
                f"{who}; wanted 0 to {size - 1}, each once"
            )
        line.write({"here": True})
        if self._awaited:
            line.write({"awaited": self._awaited})

    def _refuse(
        self, why: str, server: socket.socket, selector: selectors.BaseSelector
    ) -> None:
        """Tells all why they will not meet, and those that come in the next moment."""
        begun, told = time.monotonic(), set[_Line]()
        while time.monotonic() - begun < _REFUSES_FOR:
            for key, _ in selector.select(0.1):
                if key.fileobj is server:
                    self._accept(server, selector)
                elif key.data.read() is None:
                    selector.unregister(key.fileobj)
                    key.data.socket.close()
            for key in selector.get_map().values():
                if key.data is not None and key.data not in told:
                    told.add(key.data)
                    key.data.write({"error": why})

    def _tell(self, message: Mapping[str, Any]) -> None:
        for line, _ in self._come.values():
            line.write(message)


class _Comer:
    """One of the others, which comes to process 0."""

    def __init__(self, place: Rendezvous, process_id: int, report: Report) -> None:
        self._place, self._report = place, report
        who = f"process {os.getpid()} of {socket.gethostname()}"
        self._hello = {"process": process_id, "of": place.num_processes, "who": who}
        self._begun, self._reported = time.monotonic(), False
        self._why = "it does not answer"

    def join(self) -> None:
        """Returns once process 0 says that all have come."""
        place = self._place
        while True:
            try:
                left = place.timeout - (time.monotonic() - self._begun)
                connection = socket.create_connection(
                    (place.host, place.port), timeout=min(5.0, max(left, 0.1))
                )
            except socket.gaierror:
                self._awaited(f"the name {place.host!r} is not known here")
            except ConnectionRefusedError:
                self._awaited("nothing listens there")
            except OSError as error:
                self._awaited(error.strerror or "it does not answer")
            else:
                with connection:
                    # A try from the very port that it goes to meets itself.
                    itself = connection.getsockname() == connection.getpeername()
                    if not itself and self._wait(_Line(connection)):
                        return
            time.sleep(_BETWEEN_TRIES)

    def _wait(self, line: _Line) -> bool:
        """Returns whether process 0 says that all have come; else it is gone."""
        if self._why != _STRANGER:
            self._why = "it does not answer"
        line.write(self._hello)
        begun, here = time.monotonic(), False
        with selectors.DefaultSelector() as selector:
            selector.register(line.socket, selectors.EVENT_READ)
            while True:
                selector.select(0.1)
                messages = line.read()
                late = time.monotonic() - begun > _ANSWER_WITHIN
                if messages is None or (late and not here):
                    self._awaited("it was there and ended" if here else _STRANGER)
                    return False
                for message in messages:
                    if "error" in message:
                        raise ProcessesError(str(message["error"]))
                    if "awaited" in message:
                        named = message["awaited"]
                        self._report(f"process 0 is there; waiting for {named}")
                    if "go" in message:
                        return True
                    here = here or "here" in message
                if not here:
                    self._awaited(self._why)

    def _awaited(self, why: str) -> None:
        """Reports once that process 0 is awaited, and ends when time is up."""
        self._why = why
        place, waited = self._place, time.monotonic() - self._begun
        if waited >= place.timeout:
            raise ProcessesError(
                f"process 0 of {place.num_processes} was not found at {place.address} "
                f"within {place.timeout:g} s (--join_timeout): {why}; start it with "
                "the same --coordinator and --num_processes"
            )
        if waited >= _REPORT_AFTER and not self._reported:
            self._reported = True
            self._report(
                f"waiting for process 0 of {place.num_processes} at {place.address} "
                f"({why}), for {place.timeout - waited:.0f} s more (--join_timeout)"
            )
