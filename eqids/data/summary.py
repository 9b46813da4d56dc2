"""The numbers of a dataset, as `prepare` prints them."""

from eqids.data.dataset import Dataset
from eqids.data.info import DatasetInfo
from eqids.data.raw.times import span

_TIES = {"file_order": "file's order", "seeded_hash": "a seeded hash"}


def summary(dataset: Dataset) -> str:
    """Returns one line of numbers for each aspect of a dataset."""
    info, counts = dataset.info, dataset.info.counts
    density = info.num_events / (info.num_users * info.num_items)
    rows = {
        "users": f"{info.num_users:,} ({counts.users_dropped:,} dropped as rare)",
        "items": f"{info.num_items:,} ({counts.items_dropped:,} dropped as rare, "
        f"{counts.items_untrained:,} in no training event)",
        "events": f"{info.num_events:,} of {counts.rows_read:,} rows, density "
        f"{density:.2%} ({counts.missing_dropped:,} without a value, "
        f"{counts.rated_lower:,} rated lower, {counts.duplicates_dropped:,} with the "
        f"user, item and time of another, {counts.rare_dropped:,} rare)",
        "times": _times(dataset),
        "ties": f"{counts.tied_neighbours:,} neighbours with equal times, ordered by "
        f"{_TIES[info.protocol.ties]}",
        "split": f"{info.protocol.split}: {counts.users_valid:,} users for validation, "
        f"{counts.users_test:,} for test, {counts.short_users:,} for training only",
        "clusters": _clusters(info),
        "dataset": info.dataset_hash[:16],
    }
    return "\n".join(f"{name:<9} {text}" for name, text in rows.items())


def _times(dataset: Dataset) -> str:
    info, times = dataset.info, dataset.times
    if times is None:
        by = info.protocol.order_column
        return "none, in the order of " + ("rows" if by is None else f"column {by!r}")
    return f"{span(int(times.min()), int(times.max()))} (from {info.time_unit})"


def _clusters(info: DatasetInfo) -> str:
    clusters, places = info.clusters, info.num_clusters * info.cluster_size
    empty = f"{1 - info.num_items / places:.1%} of places empty"
    if info.num_clusters == 1:
        return f"1 of all items: the softmax has one level; {empty}"
    random = clusters.random_share
    expected = "" if random is None else f" (in random clusters {random:.1%})"
    of = f" of {clusters.vectors}" if clusters.method == "kmeans" else ""
    return (
        f"{info.num_clusters:,} of {clusters.smallest:,} to {clusters.largest:,} "
        f"items, by {clusters.method}{of}, {empty}; "
        f"{clusters.consecutive_share:.1%} of consecutive events share a cluster"
        f"{expected}"
    )
