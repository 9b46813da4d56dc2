"""The clustering bench on a small catalog, its figures against brute force."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.clusters import main, planted, topic_share, variance_inside


def test_figures_are_what_counting_gives() -> None:
    vectors, topic = planted(300, 5, 12, seed=0)
    assert vectors.dtype == np.float32 and set(topic) <= set(range(12))
    cluster = np.random.default_rng(0).integers(0, 7, 300)
    exact = vectors.astype(np.float64)
    inside = sum(
        ((exact[cluster == c] - exact[cluster == c].mean(axis=0)) ** 2).sum()
        for c in range(7)
    )
    whole = ((exact - exact.mean(axis=0)) ** 2).sum()
    assert variance_inside(vectors, cluster, 7) == pytest.approx(inside / whole)
    assert topic_share(topic, topic) == 1.0
    order = sorted(range(300), key=lambda item: topic[item])
    pairs = [
        cluster[a] == cluster[b]
        for a, b in zip(order, order[1:], strict=False)
        if topic[a] == topic[b]
    ]
    assert topic_share(cluster, topic) == pytest.approx(np.mean(pairs))


def test_the_bench_finds_planted_topics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clusters.json"
    main(["--items", "2000", "--width", "8", "--clusters", "40", "--json", str(path)])
    found = json.loads(path.read_text())
    assert found["largest"] == found["capacity"] == 50 and found["empty_share"] == 0
    assert found["variance_inside"] < 0.5 and found["topic_share"] > 0.3
    assert "2,000 items x 8 into 40 clusters" in capsys.readouterr().out
