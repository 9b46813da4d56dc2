"""Answers `GET /v1/map`, and says why items are recommended."""

import asyncio
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float16, Int

from eqids.config.slots import cluster_of
from eqids.inference.engine.inference_engine import InferenceEngine
from eqids.inference.item_directions import (
    directions,
    map_clusters,
    map_positions,
    nearest_in_history,
)
from eqids.inference.server.bodies import MapAnswer, NearItem, NothingMore
from eqids.inference.server.device_calls import device_call
from eqids.inference.server.served_catalog import ServedCatalog
from eqids.inference.server.service import Service

_MOST = 100_000
"""Items on the map."""
_CLUSTERS = 24
"""Clusters that are made for the map."""
_NEAR = 3
"""Items of the history that a recommended one comes with."""


async def item_map(service: Service, asked: NothingMore) -> MapAnswer:
    """Returns the map of the catalog; the first request after a reload computes it."""
    engine, catalog = service.ready()

    async def compute() -> MapAnswer:
        vectors = await _directions(service, engine, catalog)
        return await asyncio.to_thread(_map, catalog, vectors)

    return await catalog.map.get(compute)


async def near_items(
    service: Service,
    engine: InferenceEngine,
    catalog: ServedCatalog,
    slots: Int[np.ndarray, " item"],
    history: Int[np.ndarray, " event"],
) -> Sequence[list[NearItem]]:
    """Returns the items of a history that are nearest to each recommended one.

    Args:
        service: the state of the server.
        engine: computes.
        catalog: has the items.
        slots: of the recommended items.
        history: slots of the history; it may be empty.
    """
    vectors = await _directions(service, engine, catalog)
    found = await asyncio.to_thread(nearest_in_history, vectors, slots, history, _NEAR)
    names = catalog.names
    return [
        [NearItem(names.item(near), names.title(near), cosine) for near, cosine in row]
        for row in found
    ]


async def _directions(
    service: Service, engine: InferenceEngine, catalog: ServedCatalog
) -> Float16[np.ndarray, "slot item_width"]:
    async def compute() -> Float16[np.ndarray, "slot item_width"]:
        vectors = await device_call(
            engine, catalog.served.item_vectors, service.config.timeout
        )
        return await asyncio.to_thread(directions, vectors)

    return await catalog.directions.get(compute)


def _map(
    catalog: ServedCatalog, vectors: Float16[np.ndarray, "slot item_width"]
) -> MapAnswer:
    names, info = catalog.names, catalog.served.dataset.info
    slots = names.search("", len(names))
    shown = slots[:_MOST]
    positions = map_positions(vectors, slots, shown).astype("<u2")
    if info.num_clusters > 1:
        cluster = cluster_of(shown, info.cluster_size)
    else:
        cluster = map_clusters(vectors, shown, _CLUSTERS)
    return MapAnswer(
        catalog.model,
        num_items=len(slots),
        items=[names.item(slot) for slot in shown.tolist()],
        titles=[names.title(slot) for slot in shown.tolist()],
        x=positions[:, 0].tobytes(),
        y=positions[:, 1].tobytes(),
        cluster=cluster.astype("<i4").tobytes(),
        clusters_of="model" if info.num_clusters > 1 else "map",
    )
