"""What `GET /metrics` shows, in the format of Prometheus."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from eqids.inference.engine.inference_engine import InferenceEngine
from eqids.inference.engine.values import EngineCounters
from eqids.inference.server.http_errors import OUTCOMES
from eqids.inference.server.served_catalog import ServedCatalog

_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0
)  # fmt: skip


class ServerMetrics:
    """Counts requests; the engine counts everything else."""

    def __init__(
        self,
        engine: Callable[[], InferenceEngine | None],
        catalog: Callable[[], ServedCatalog | None],
        max_batch: int,
    ):
        """Starts at zero, in a registry of its own.

        Args:
            engine: returns the engine, once there is one.
            catalog: returns what is served, once there is a model.
            max_batch: most histories of a batch.
        """
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "eqids_requests",
            "Requests to /v1 that are answered, by outcome",
            ["outcome"],
            registry=self._registry,
        )
        self._by_outcome = {
            name: self._requests.labels(name) for name in OUTCOMES.values()
        }
        self._seconds = Histogram(
            "eqids_request_seconds",
            "Seconds from the head of a request to /v1 until its answer is written",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(_EngineCollector(engine, catalog, max_batch))
        PlatformCollector(registry=self._registry)
        ProcessCollector(registry=self._registry)

    def answered(self, status: int, seconds: float) -> None:
        """Counts a request.

        Args:
            status: of the answer.
            seconds: that it took.
        """
        self._by_outcome[OUTCOMES[status]].inc()
        self._seconds.observe(seconds)

    def text(self) -> bytes:
        """Returns the metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    """Reads the engine's counters when they are scraped."""

    def __init__(
        self,
        engine: Callable[[], InferenceEngine | None],
        catalog: Callable[[], ServedCatalog | None],
        max_batch: int,
    ):
        self._engine, self._catalog = engine, catalog
        self._max_batch = max_batch

    def collect(self) -> Iterator[Metric]:
        catalog, engine = self._catalog(), self._engine()
        info = GaugeMetricFamily(
            "eqids_model_info",
            "The served model; its value is 1",
            labels=["checkpoint", "step", "catalog_id", "catalog_version"],
        )
        if catalog is not None:
            model = catalog.model
            version = str(model.catalog_version)
            info.add_metric(
                [model.checkpoint, str(model.step), model.catalog_id, version], 1
            )
        yield info
        if engine is not None:
            yield from _families(engine.counters(), self._max_batch)


def _families(counters: EngineCounters, max_batch: int) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "eqids_queue_depth", "Queries and calls that wait now", counters.queue_depth
    )
    yield _batch_sizes(counters.batches, max_batch)
    yield CounterMetricFamily(
        "eqids_device_seconds",
        "Seconds that the engine computed",
        counters.device_seconds,
    )
    yield CounterMetricFamily(
        "eqids_compilations_after_ready",
        "Programs compiled after the server was ready; 0 is wanted",
        counters.compilations_after_ready,
    )
    for name, what, by_tier in (
        ("hits", "Queries that a cache served", counters.cache_hits),
        ("misses", "Queries that a cache did not serve", counters.cache_misses),
    ):
        family = CounterMetricFamily(
            f"eqids_cache_{name}", f"{what}, by its tier", labels=["tier"]
        )
        for tier, count in by_tier.items():
            family.add_metric([tier], count)
        yield family


def _batch_sizes(batches: Mapping[int, int], max_batch: int) -> Metric:
    """Returns a histogram of batch sizes, with buckets of powers of two."""
    sizes = [1 << power for power in range((max_batch - 1).bit_length() + 1)]
    buckets: list[tuple[str, float]] = [
        (str(float(size)), sum(n for rows, n in batches.items() if rows <= size))
        for size in sizes
    ]
    buckets.append(("+Inf", sum(batches.values())))
    total = sum(rows * number for rows, number in batches.items())
    return HistogramMetricFamily(
        "eqids_batch_size", "Histories of a batch", buckets, total
    )
