"""Binds the socket of the server, and reads its certificate."""

import errno
import socket
from pathlib import Path

import uvicorn

from eqids.config import ServeConfig, UserError


def bound_socket(config: ServeConfig) -> socket.socket:
    """Returns a socket that is bound to `--host` and `--port`.

    Raises:
        UserError: there is no such address, or another process listens there.
    """
    host, port = config.host, config.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--host {host} is no address of this machine: {error}"
        ) from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"--port {port} is in use on {host}, wanted another --port or 0 for "
                "any that is free"
            ) from None
        raise UserError(
            f"--host {host} and --port {port} cannot be listened at: {error.strerror}"
        ) from None
    return listener


def url_of(config: ServeConfig, listener: socket.socket) -> str:
    """Returns the address of the server for a browser."""
    scheme = "http" if config.tls_cert is None else "https"
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"{scheme}://{host}:{listener.getsockname()[1]}"


def load_certificate(server: uvicorn.Config, certificate: Path | None) -> None:
    """Loads what uvicorn reads before it listens.

    Args:
        server: uvicorn's config.
        certificate: the file of `--tls_cert`, for messages.

    Raises:
        UserError: the certificate or its key cannot be read.
    """
    try:
        server.load()
    except OSError as error:  # ssl.SSLError is one
        raise UserError(
            f"--tls_cert {certificate} or --tls_key {server.ssl_keyfile} cannot be "
            f"read: {error}"
        ) from None
