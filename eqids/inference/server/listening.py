"""Binds the socket of the server, and reads its certificate."""

import errno
import socket
import ssl
from pathlib import Path

import uvicorn

from eqids.config import ServeConfig, UserError, require


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


def load_certificate(server: uvicorn.Config, config: ServeConfig) -> None:
    """Loads what uvicorn reads before it listens.

    Args:
        server: uvicorn's config.
        config: the command's flags.

    Raises:
        UserError: the certificate or its key cannot be read, or they are no pair.
    """
    if config.tls_cert is not None and config.tls_key is not None:
        _check_pair(config.tls_cert, config.tls_key)
    server.load()


def _check_pair(certificate: Path, key: Path) -> None:
    """Requires files that TLS can use."""
    _check_pem("--tls_cert", certificate, "BEGIN CERTIFICATE", "a certificate")
    _check_pem("--tls_key", key, "PRIVATE KEY", "a private key")

    def no_password() -> str:  # otherwise OpenSSL would ask on the terminal
        raise UserError(f"--tls_key {key} is encrypted, wanted a key without password")

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UserError(
                f"--tls_key {key} is not the key of --tls_cert {certificate}"
            ) from None
        raise UserError(
            f"--tls_cert {certificate} and --tls_key {key} cannot be used: {error}"
        ) from None


def _check_pem(flag: str, path: Path, mark: str, wanted: str) -> None:
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be read: {error.strerror}") from None
    require(mark in text, f"{flag} {path} holds no {mark}, wanted {wanted} in PEM form")
