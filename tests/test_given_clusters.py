"""Clusters by the user's file."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eqids.config import PrepareConfig, UserError
from eqids.config.slots import cluster_of
from eqids.data.clustering.given_clusters import read_clusters
from eqids.data.preparation import prepare

CLUSTERS = {"a": 4, "b": 0, "c": 4, "d": 2, "e": 4}
"""Of different sizes; no item is in clusters 1 and 3."""


def _config(folder: Path, lines: str, **more: object) -> PrepareConfig:
    rng = np.random.default_rng(0)
    events = "".join(
        f"u{user},{'abcde'[n]},{user + time}\n"
        for user in range(20)
        for time, n in enumerate(rng.permutation(5))
    )
    (folder / "plays.csv").write_text(f"user_id,item_id,timestamp\n{events}")
    (folder / "clusters.csv").write_text(f"item_id,cluster\n{lines}")
    return PrepareConfig(
        source=f"csv:{folder / 'plays.csv'}",
        data_dir=folder / "data",
        cluster_file=folder / "clusters.csv",
        **more,  # type: ignore[arg-type]
    )


def test_items_get_the_clusters_of_the_file(tmp_path: Path) -> None:
    lines = "".join(f"{item},{number}\n" for item, number in CLUSTERS.items())
    dataset = prepare(_config(tmp_path, f"{lines}other,9\n,7\n"), lambda text: None)
    assert dataset.info.clusters.method == "file"
    assert (dataset.info.num_clusters, dataset.info.cluster_size) == (3, 3)
    slots = dataset.slot_of(list(CLUSTERS))
    found = cluster_of(slots, dataset.info.cluster_size).tolist()
    assert found == [{0: 0, 2: 1, 4: 2}[number] for number in CLUSTERS.values()]
    assert len(set(slots.tolist())) == len(slots)


def test_a_row_without_an_id_is_empty_in_any_type(tmp_path: Path) -> None:
    table = pa.table({"item": [3.0, float("nan"), None], "cluster": [1, 2, 3]})
    pq.write_table(table, tmp_path / "items.parquet")
    ids, cluster = read_clusters(tmp_path / "items.parquet", "item")
    assert ids.to_pylist() == [3.0, None, None]
    assert cluster is not None and cluster.tolist() == [1, -1, -1]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("a,0\nb,0\nc,0\nd,0\n", "no row for 1 of 5 items, the first of which is 'e'"),
        ("a,0\nb,0\nc,0\nd,0\ne,x\n", "is no column of whole numbers"),
        ("a,0\nb,0\nc,0\nd,0\ne,-1\n", "row 5: 'cluster' is"),
        ("a,0\nb,0\nc,0\nd,0\ne,\n", "row 5: 'cluster' is"),
        ("a,0\nb,0\nc,0\nd,0\ne,0\na,1\n", "item 'a' has another row"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, lines: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        prepare(_config(tmp_path, lines), lambda text: None)
    assert not (tmp_path / "data").exists()


def test_flags_that_make_clusters_contradict_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--num_clusters and --cluster_file"):
        _config(tmp_path, "", num_clusters=2)
    with pytest.raises(UserError, match="--clusters and --cluster_file"):
        _config(tmp_path, "", clusters="random")
    with pytest.raises(UserError, match="is not a file that exists"):
        PrepareConfig(cluster_file=tmp_path / "none.csv")
