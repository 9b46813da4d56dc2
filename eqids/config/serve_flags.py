"""The flags of `python -m eqids.serve`."""

from dataclasses import dataclass
from pathlib import Path

from eqids.config.bounds import (
    ABOVE_ZERO,
    FINITE,
    ONE_OR_MORE,
    ZERO_OR_MORE,
    check_flags,
)
from eqids.config.errors import require
from eqids.config.flag_fields import grouped, on_unless
from eqids.config.inference_flags import OpenConfig


@dataclass(frozen=True, kw_only=True)
class ServeConfig(OpenConfig):
    """The flags of `python -m eqids.serve`."""

    host: str = grouped("server", "127.0.0.1")
    """Address to listen at; 0.0.0.0 for all of this machine."""
    port: int = grouped("server", 8000)
    """Port to listen at; 0 for any that is free."""
    api_key_file: Path | None = grouped("server")
    """Answer requests to /v1 only if they have a key of this file (Authorization:
    Bearer KEY). One key a line; empty lines and lines that begin with # are ignored."""
    tls_cert: Path | None = grouped("server")
    """Certificate in PEM format, for HTTPS (with --tls_key)."""
    tls_key: Path | None = grouped("server")
    """Private key of the certificate, in PEM format."""
    events: Path | None = grouped("server")
    """SQLite file to which POST /v1/events writes; users' histories are those of the
    dataset and these events. It is made if it does not exist."""
    filters: Path | None = grouped("server")
    """JSON file of named lists of item ids, {"in stock": [1, 2, 3]}, which requests
    name in place of `allow`. It is read again whenever it changes."""
    watch: Path | None = grouped("server")
    """A run's DIR: whenever it has a new best step, that is served."""
    watch_every: float = grouped("server", 10.0)
    """Seconds between two looks at --watch and --filters."""
    compare: Path | None = grouped("server")
    """Another checkpoint (DIR/STEP or a run's DIR), whose answers the page shows beside
    those of the served one, and POST /v1/compare returns."""
    access_log: bool = on_unless("Write no line for each request.", "server")
    """Write a line of JSON for each request to standard error."""
    log_histories: bool = grouped("server", False)
    """Write the bodies of requests to the access log too."""
    no_compilation_cache: bool = grouped("server", False)
    """Compile all programs anew. Otherwise JAX keeps them in the folder programs of
    $EQIDS_CACHE or ~/.cache/eqids, or in $JAX_COMPILATION_CACHE_DIR."""
    max_batch: int = grouped("limits", 64)
    """Most histories that go through the model together, and of one request."""
    max_queue: int = grouped("limits", 1024)
    """Most histories that wait; more are answered 429."""
    max_k: int = grouped("limits", 1000)
    """Most items of an answer."""
    answer_cache_mb: int = grouped("limits", 64)
    """Memory for answers that are kept for equal requests, in MiB; 0 keeps none."""
    cache_mb: int | None = grouped("limits")
    """Memory for Llama's keys and values of histories in MiB, so that one more event
    costs one position; by default 256, or what 4 histories take if that is more; 0
    keeps none."""
    timeout: float = grouped("limits", 2.0)
    """Seconds after which a request that is not answered is answered 504."""
    max_body_mb: int = grouped("limits", 4)
    """Largest body of a request in MiB; larger ones are answered 413."""
    max_connections: int = grouped("limits", 512)
    """Most open connections; one more closes the one that is idle longest."""
    read_timeout: float = grouped("limits", 10.0)
    """Seconds within which a client must have sent its request."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(
            self, "max_batch max_queue max_k max_body_mb max_connections", ONE_OR_MORE
        )
        check_flags(self, "timeout read_timeout watch_every", ABOVE_ZERO)
        check_flags(self, "timeout read_timeout watch_every", FINITE)
        check_flags(self, "port answer_cache_mb cache_mb", ZERO_OR_MORE)
        require(self.port < 2**16, f"--port is {self.port}, wanted a port: 0 to 65535")
        require(
            (self.tls_cert is None) == (self.tls_key is None),
            "--tls_cert and --tls_key go together: a certificate and its private key",
        )
