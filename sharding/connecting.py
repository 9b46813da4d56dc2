"""Connects the processes of a run before jax does, to name those that are missing.

jax's own start waits for minutes without a message and then aborts the process. So
process 0 listens at the coordinator's address first, and the others connect and send
their numbers. Once all have connected, process 0 sends "go" and closes the port, which
jax then opens. Messages are lines of JSON. A process that connects sends {"process",
"of", "who"}; process 0 sends {"here"}, {"awaited"}, {"go"} or {"error"}.
"""

import errno
import os
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from sharding.rendezvous import Connection, ProcessesError, Rendezvous, is_own

_REPORT_AFTER = 10.0
"""Seconds after which a process reports whom it waits for."""
_BETWEEN_TRIES = 0.2
"""Seconds between two attempts to connect."""
_ANSWER_WITHIN = 10.0
"""Seconds in which process 0 answers; if no answer comes, another program listens."""
_REFUSES_FOR = 1.0
"""Seconds in which process 0 still sends its error to processes that connect."""
_STRANGER = "what listens there is not process 0 of this run"


def connect(place: Rendezvous, process_id: int, report: Callable[[str], None]) -> None:
    """Returns once all processes have connected.

    Args:
        place: where to connect, and the number of processes.
        process_id: the number of this process; 0 listens, the others connect.
        report: receives, after ten seconds, the missing processes and the address.

    Raises:
        ProcessesError: some did not connect in time (the message names them), two have
            the same number, or the port is in use.
    """
    if process_id == 0:
        _Listener(place, report).gather()
    else:
        _Joiner(place, process_id, report).join()


class _Listener:
    """Process 0, to which the others connect."""

    def __init__(self, place: Rendezvous, report: Callable[[str], None]) -> None:
        self._place, self._report = place, report
        self._joined: dict[int, tuple[Connection, str]] = {}
        self._awaited = ""

    def gather(self) -> None:
        """Returns once all have connected."""
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
                        elif not self._receive(key.data):
                            selector.unregister(key.fileobj)
                            key.data.socket.close()
                self._send_all({"go": True})
            except ProcessesError as error:
                self._refuse(str(error), server, selector)
                raise
            finally:
                for key in [*selector.get_map().values()]:
                    if key.data is not None:
                        key.data.socket.close()

    def _listen(self) -> socket.socket:
        # The address that jax binds afterwards.
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
            why = f"cannot be used ({error.strerror})"
            if error.errno == errno.EADDRINUSE:
                why = "is in use, by another program or another process 0"
            raise ProcessesError(
                f"port {port} of this machine {why}, wanted a free one for process 0, "
                "see --coordinator"
            ) from error

    def _missing(self) -> list[int]:
        others = range(1, self._place.num_processes)
        return [number for number in others if number not in self._joined]

    def _check_time(self, waited: float, missing: list[int]) -> None:
        place = self._place
        if waited >= place.timeout:
            raise ProcessesError(
                f"{place.named(missing)} did not connect to {place.address} within "
                f"{place.timeout:g} s (--join_timeout){self._elsewhere()}; start all "
                "of them with the same --coordinator and --num_processes, or a single "
                "one with --num_processes 1"
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
                self._send_all({"awaited": named})

    def _elsewhere(self) -> str:
        """Returns a hint if the address seems to be another machine's."""
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
            selector.register(connection, selectors.EVENT_READ, Connection(connection))

    def _receive(self, peer: Connection) -> bool:
        """Reads what a process sent; returns whether to keep its connection."""
        messages = peer.read()
        if messages is None:
            self._joined = {k: v for k, v in self._joined.items() if v[0] is not peer}
            return False
        for message in messages:
            number, of = message.get("process"), message.get("of")
            if not isinstance(number, int) or not isinstance(of, int):
                return False
            self._enter(number, of, str(message.get("who")), peer)
        return True

    def _enter(self, number: int, of: int, who: str, peer: Connection) -> None:
        size = self._place.num_processes
        seen = self._joined.setdefault(number, (peer, who))
        if of != size:
            raise ProcessesError(
                f"process {number} ({who}) was started with --num_processes {of}, and "
                f"process 0 with {size}; wanted the same"
            )
        if not 0 < number < size or seen[0] is not peer:
            first = "process 0" if number == 0 else seen[1]
            raise ProcessesError(
                f"two processes were started with --process_id {number}: {first} and "
                f"{who}; wanted 0 to {size - 1}, each once"
            )
        peer.write({"here": True})
        if self._awaited:
            peer.write({"awaited": self._awaited})

    def _refuse(
        self, why: str, server: socket.socket, selector: selectors.BaseSelector
    ) -> None:
        """Sends the error to all, and to those that connect within a second."""
        begun, informed = time.monotonic(), set[Connection]()
        while time.monotonic() - begun < _REFUSES_FOR:
            for key, _ in selector.select(0.1):
                if key.fileobj is server:
                    self._accept(server, selector)
                elif key.data.read() is None:
                    selector.unregister(key.fileobj)
                    key.data.socket.close()
            for key in selector.get_map().values():
                if key.data is not None and key.data not in informed:
                    informed.add(key.data)
                    key.data.write({"error": why})

    def _send_all(self, message: Mapping[str, Any]) -> None:
        for peer, _ in self._joined.values():
            peer.write(message)


class _Joiner:
    """A process that connects to process 0."""

    def __init__(
        self, place: Rendezvous, process_id: int, report: Callable[[str], None]
    ) -> None:
        self._place, self._report = place, report
        who = f"process {os.getpid()} of {socket.gethostname()}"
        self._hello = {"process": process_id, "of": place.num_processes, "who": who}
        self._begun, self._reported = time.monotonic(), False
        self._why = "it does not answer"

    def join(self) -> None:
        """Returns once process 0 has sent that all are connected."""
        place = self._place
        while True:
            try:
                left = place.timeout - (time.monotonic() - self._begun)
                connection = socket.create_connection(
                    (place.host, place.port), timeout=min(5.0, max(left, 0.1))
                )
            except socket.gaierror:
                self._awaited(f"the name {place.host!r} cannot be resolved")
            except ConnectionRefusedError:
                self._awaited("nothing listens there")
            except OSError as error:
                self._awaited(error.strerror or "it does not answer")
            else:
                with connection:
                    # A connection from this same port would be one of the process to
                    # itself.
                    itself = connection.getsockname() == connection.getpeername()
                    if not itself and self._wait(Connection(connection)):
                        return
            time.sleep(_BETWEEN_TRIES)

    def _wait(self, peer: Connection) -> bool:
        """Returns whether all are connected; False if process 0 has ended."""
        if self._why != _STRANGER:
            self._why = "it does not answer"
        peer.write(self._hello)
        begun, here = time.monotonic(), False
        with selectors.DefaultSelector() as selector:
            selector.register(peer.socket, selectors.EVENT_READ)
            while True:
                selector.select(0.1)
                messages = peer.read()
                late = time.monotonic() - begun > _ANSWER_WITHIN
                if messages is None or (late and not here):
                    self._awaited(
                        "it ended before all had connected" if here else _STRANGER
                    )
                    return False
                for message in messages:
                    if "error" in message:
                        raise ProcessesError(str(message["error"]))
                    if "awaited" in message:
                        named = message["awaited"]
                        self._report(f"process 0 answers; waiting for {named}")
                    if "go" in message:
                        return True
                    here = here or "here" in message
                if not here:
                    self._awaited(self._why)

    def _awaited(self, why: str) -> None:
        """Reports once that it waits for process 0; raises after the timeout."""
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
