"""`prepare --engine spark` writes the folder that DuckDB writes, to the byte.

Spark takes long to start, so all tests of this file share one session.
"""

import contextlib
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plays import write_csv

from eqids.config import PrepareConfig, UserError
from eqids.data import Dataset
from eqids.data.preparation import prepare

pytest.importorskip("pyspark", reason="Spark's tests need the extra eqids[spark]")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java 17"),
    pytest.mark.filterwarnings("default"),
]


def made(folder: Path, engine: str, source: str, **flags: Any) -> tuple[Dataset, list]:
    said: list[str] = []
    out = folder / engine / "out"
    config = PrepareConfig(source=source, data_dir=out, engine=engine, **flags)  # type: ignore[arg-type]
    return prepare(config, said.append), said


def assert_same(folder: Path, source: str, **flags: Any) -> Dataset:
    """Prepares a source with both engines, and compares all bytes and messages."""
    ours, said = made(folder, "duckdb", source, **flags)
    other, spark_said = made(folder, "spark", source, **flags)
    files = {file.name for file in ours.path.iterdir()}
    assert files == {file.name for file in other.path.iterdir()}
    for name in sorted(files):
        same = (ours.path / name).read_bytes() == (other.path / name).read_bytes()
        assert same, f"{name} differs"
    kept = [line for line in said if "duckdb" not in line]
    assert kept == [line for line in spark_said if "/spark/" not in line]
    return ours


def plays(ids: str, seed: int, sorted_ties: bool = False) -> pa.Table:
    """600 events with ties, repeated rows, and ids of a type."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 40, 600), rng.zipf(1.5, 600) % 90
    time = 1_600_000_000 + 3_600 * rng.integers(0, 12, 600)
    if sorted_ties:
        order = np.lexsort((item, time, user))
        user, item, time = user[order], item[order], time[order]
    names: dict[str, Any] = {
        "int": lambda x: pa.array(x * 7 - 50, pa.int32()),
        "unsigned": lambda x: pa.array(x.astype(np.uint64) + 2**63, pa.uint64()),
        "text": lambda x: pa.array([f"Ä{n:04x}" for n in x.tolist()]),
        "uuid": lambda x: pa.array(
            [uuid.UUID(int=n * 2**70 + 5).bytes for n in x.tolist()], pa.uuid()
        ),
        "date": lambda x: pa.array(x.astype(np.int32), pa.date32()),
        "moment": lambda x: pa.array(x * 1_000_003 - 7, pa.timestamp("us", "UTC")),
    }
    table = pa.table({"user_id": names[ids](user), "item_id": names[ids](item)})
    table = table.append_column("timestamp", pa.array(time))
    return pa.concat_tables([table, table.slice(100, 30)])


@pytest.mark.parametrize("ids", ["int", "unsigned", "text", "uuid", "date", "moment"])
def test_ids_of_every_type(spark: Any, tmp_path: Path, ids: str) -> None:
    path = tmp_path / "plays.parquet"
    pq.write_table(plays(ids, seed=1), path, row_group_size=200)
    dataset = assert_same(tmp_path, f"parquet:{path}", num_clusters=4)
    assert dataset.info.counts.duplicates_dropped >= 30
    assert dataset.info.counts.tied_neighbours > 20


def test_a_core_and_a_split_by_time(spark: Any, tmp_path: Path) -> None:
    path = tmp_path / "plays.parquet"
    pq.write_table(plays("int", seed=2), path)
    dataset = assert_same(tmp_path, f"parquet:{path}", core=5, split="temporal")
    assert dataset.info.counts.rare_dropped > 0
    assert dataset.info.protocol.min_item_interactions == 5
    # The core of a brute force: nobody in it has fewer, nobody outside could enter.
    table = plays("int", seed=2).to_pandas().drop_duplicates()
    while True:
        sizes = [table.groupby(n)[n].transform("size") for n in ("user_id", "item_id")]
        kept = table[(sizes[0] >= 5) & (sizes[1] >= 5)]
        if len(kept) == len(table):
            break
        table = kept
    assert dataset.info.num_events == len(table)
    assert set(dataset.users()["user"]) == set(table["user_id"])


def test_every_rule_of_ties(spark: Any, tmp_path: Path) -> None:
    path = tmp_path / "sorted.parquet"
    table = plays("text", seed=3, sorted_ties=True)
    rank = pa.array(np.arange(len(table))[::-1].astype(np.float64) / 2)
    pq.write_table(table.append_column("rank", rank), path)
    hashed = assert_same(tmp_path / "hash", f"parquet:{path}")
    assert hashed.info.protocol.ties == "seeded_hash"
    source = f"parquet:{path}"
    by_rank = assert_same(
        tmp_path / "rank", source, order_column="rank", time_column=None
    )
    assert by_rank.times is None
    rows = assert_same(tmp_path / "rows", source, time_column=None)
    assert rows.info.protocol.duplicates == "kept"
    with contextlib.ExitStack() as both:
        errors = [both.enter_context(pytest.raises(UserError)) for _ in range(1)]
        made(tmp_path / "contrary", "spark", source, order_column="rank")
    with pytest.raises(UserError) as error:
        made(tmp_path / "contrary", "duckdb", source, order_column="rank")
    assert str(error.value) == str(errors[0].value)
    assert "falls in row" in str(error.value)


@pytest.mark.parametrize(
    "kind", ["milli", "float", "zoned", "local", "date", "nano", "text"]
)
def test_times_of_other_types(spark: Any, tmp_path: Path, kind: str) -> None:
    """Spark reads dates and timestamps; DuckDB reads texts and nanoseconds for it."""
    table = plays("int", seed=4)
    seconds = table["timestamp"].to_numpy()
    micros = seconds * 1_000_000 - 1_700_000_000_123_457
    day = (seconds // 3_600 % 9).astype(np.int32)
    column = {
        "zoned": lambda: pa.array(micros, pa.timestamp("us", "UTC")),
        "local": lambda: pa.array(micros // 1000, pa.timestamp("ms")),
        "nano": lambda: pa.array(micros * 1000 + 999, pa.timestamp("ns")),
        "date": lambda: pa.array(day - 4, pa.date32()),
        "text": lambda: pa.array([f"2024-01-0{1 + n} 12:00:00+02" for n in day]),
        "milli": lambda: pa.array(seconds * 1000 + 999),
        "float": lambda: pa.array(seconds + 0.25),
    }[kind]()
    path = tmp_path / "plays.parquet"
    pq.write_table(table.append_column("at", column), path)
    found = assert_same(tmp_path, f"parquet:{path}", time_column="at")
    assert found.times is not None and found.times.min() != found.times.max()


def test_a_folder_of_parts(spark: Any, tmp_path: Path) -> None:
    """Files are in the order of their paths; hidden ones are no part of the data."""
    table, folder = plays("text", seed=5), tmp_path / "plays"
    for n, name in enumerate(("b/part-0.parquet", "a.parquet", "b/part-1.parquet")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(n * 210, 210), folder / name)
    (folder / "_SUCCESS.parquet").write_text("no part")
    parts = assert_same(tmp_path, f"parquet:{folder}")
    joined = pa.concat_tables([table.slice(210, 210), table.slice(0, 210)])
    pq.write_table(pa.concat_tables([joined, table.slice(420)]), tmp_path / "one.pq")
    one, _ = made(tmp_path / "one", "duckdb", f"parquet:{tmp_path / 'one.pq'}")
    assert one.info.files == parts.info.files

    corrupt = folder / "b" / "part-1.parquet"
    data = bytearray(corrupt.read_bytes())
    data[50:400] = b"\xab" * 350
    corrupt.write_bytes(data)
    with pytest.raises(UserError, match=r"b/part-1\.parquet cannot be read by Spark: "):
        made(tmp_path / "corrupt", "spark", f"parquet:{folder}")
    assert not (tmp_path / "corrupt" / "spark" / "out").exists()
    pq.write_table(table.rename_columns(["user_id", "item", "timestamp"]), corrupt)
    for engine in ("duckdb", "spark"):
        with pytest.raises(UserError, match="wanted the same in all files"):
            made(tmp_path / "corrupt", engine, f"parquet:{folder}")


def test_a_table_has_no_order_of_rows(spark: Any, tmp_path: Path) -> None:
    """Its ties are ordered by the hash, so that the order of its rows is no matter."""
    path = tmp_path / "sorted.parquet"
    pq.write_table(plays("text", seed=3, sorted_ties=True), path)
    spark.read.parquet(str(path)).orderBy("timestamp").createOrReplaceGlobalTempView(
        "plays"
    )
    table, _ = made(tmp_path, "spark", "table:global_temp.plays")
    file, _ = made(tmp_path, "duckdb", f"parquet:{path}")
    assert table.info.protocol.ties == file.info.protocol.ties == "seeded_hash"
    assert table.info.dataset_hash == file.info.dataset_hash
    assert table.info.files == file.info.files
    with pytest.raises(UserError, match="TABLE_OR_VIEW_NOT_FOUND"):
        made(tmp_path / "no", "spark", "table:nothing")
    with pytest.raises(UserError, match="no order of rows"):
        made(tmp_path / "no", "spark", "table:global_temp.plays", time_column=None)


def test_text_files_and_refusals(spark: Any, tmp_path: Path) -> None:
    rows = [(f"u{n % 9}", n * n % 17, 1_600_000_000 + n // 3) for n in range(200)]
    path = write_csv(tmp_path / "plays.csv", rows)
    titles = write_csv(
        tmp_path / "titles.csv", [(n, f"Film {n}") for n in range(17)],
        ["item_id", "title"],
    )  # fmt: skip
    found = assert_same(tmp_path, f"csv:{path}", items=titles)
    assert found.items()["title"].str.startswith("Film").all()
    damaged = pa.table({"user_id": [1, 2, None], "item_id": [5, None, 7]})
    damaged = damaged.append_column("timestamp", pa.array([1, 2, 3]))
    bad = tmp_path / "bad.parquet"
    pq.write_table(damaged, bad)
    said = []
    for engine in ("duckdb", "spark"):
        with pytest.raises(UserError) as error:
            made(tmp_path / "bad", engine, f"parquet:{bad}")
        said.append(str(error.value))
    assert said[0] == said[1] and "'user_id' is empty in 1 of 3 rows" in said[0]
    assert_same(tmp_path / "ml", "ml-100k")


def test_flags_of_spark(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is for --engine spark"):
        PrepareConfig(spark_master="local[1]")
    with pytest.raises(UserError, match="needs --spark_dir"):
        PrepareConfig(engine="spark", spark_master="spark://h:7077")
    with pytest.raises(UserError, match="wanted --engine spark too"):
        PrepareConfig(source="table:plays")
    with pytest.raises(UserError, match="contradict each other"):
        PrepareConfig(core=3, min_user_interactions=4)
    settings = ("spark.sql.session.timeZone=CET",)
    with pytest.raises(UserError, match="changes what values mean"):
        made(tmp_path, "spark", "ml-100k", spark_conf=settings)
