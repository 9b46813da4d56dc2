"""Files under any name, in any compression, with columns of any name."""

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st
from plays import HEADER, item_histories, prepared, write_csv

from eqids.config import PrepareConfig, UserError
from eqids.data.catalog.named_items import read_items
from eqids.data.ids import Ids
from eqids.data.raw.engine import Engine, engine
from eqids.data.raw.tables import table_of_file

pytestmark = pytest.mark.filterwarnings(
    "ignore:fetch_arrow_table:DeprecationWarning",
)

_SPECIAL = st.sampled_from(list("[]*?{}!^-~$%&'\"\\=:;,#|<>() \n\t.@+éß漢😀"))
_LETTERS = st.sampled_from(list("abxyz01"))
NAMES = st.lists(_SPECIAL | _LETTERS, min_size=1, max_size=12).map("".join)


def _file_names() -> st.SearchStrategy[str]:
    return NAMES.filter(lambda name: name not in (".", ".."))


def _decoys(name: str) -> set[str]:
    """Names that `name` matches where it is taken for a pattern."""
    inside = re.sub(r"\[!?\^?(.)[^]]*\]", r"\1", name)
    return {
        inside,
        re.sub(r"\[[^]]*\]", "x", name).replace("*", "").replace("?", "x"),
        inside.replace("*", "abc").replace("?", "q"),
        name.replace("*", "").replace("?", "a"),
        re.sub(r"\\(.)", r"\1", name),
        re.sub(r"\{([^,}]*)[^}]*\}", r"\1", name),
    } - {name, "", ".", ".."}


def _values(reader: Engine, path: Path) -> list:
    read = table_of_file(reader, path, ["value"])
    return read.table.select(value=read["value"]).to_pyarrow()["value"].to_pylist()


@pytest.fixture(scope="module")
def reader() -> Engine:
    with engine() as found:
        yield found


@given(folder=_file_names(), name=_file_names(), parquet=st.booleans())
@settings(max_examples=60)
def test_a_name_is_that_of_one_file(
    tmp_path_factory: pytest.TempPathFactory,
    reader: Engine,
    folder: str,
    name: str,
    parquet: bool,
) -> None:
    root = tmp_path_factory.mktemp("names")

    def write(path: Path, value: str) -> None:
        path.parent.mkdir(exist_ok=True)
        if parquet:
            pq.write_table(pa.table({"value": [value]}), path)
        else:
            path.write_text(f"value\n{value}\n")

    for decoy in _decoys(name):
        write(root / folder / decoy, "decoy")
    for decoy in _decoys(folder):
        write(root / decoy / name, "decoy")
    write(root / folder / name, "own")
    read = table_of_file(reader, root / folder / name, ["value"])
    assert read.columns == ("value",)
    assert _values(reader, root / folder / name) == ["own"]


def test_a_browsers_second_download(tmp_path: Path) -> None:
    own, other = [("a", n, n) for n in "xyz"], [("a", n, n) for n in "uvw"]
    own, other = ([(u, i, n) for n, (u, i, _) in enumerate(r)] for r in (own, other))
    path = write_csv(tmp_path / "plays[1].csv", own)
    write_csv(tmp_path / "plays1.csv", other)
    items = write_csv(tmp_path / "items[1].csv", [("x", "X!")], ["item_id", "title"])
    write_csv(tmp_path / "items1.csv", [("x", "no")], ["item_id", "title"])
    dataset = prepared(tmp_path, f"csv:{path}", items=items)
    assert item_histories(dataset) == {"a": ["x", "y", "z"]}
    assert set(dataset.items()["title"]) == {"X!", "y", "z"}
    known = Ids(pa.chunked_array([["y", "z"]]))
    found = read_items(items, known, "item_id")
    assert found.table["title"].to_pylist() == ["X!"]


def test_folder_names_add_no_columns(tmp_path: Path) -> None:
    folder = tmp_path / "user_id=7" / "year=2024"
    folder.mkdir(parents=True)
    rows = {"user_id": [1, 1, 1], "item_id": [1, 2, 3], "timestamp": [1, 2, 3]}
    pq.write_table(pa.table(rows), folder / "a.parquet")
    dataset = prepared(tmp_path, f"parquet:{folder / 'a.parquet'}")
    assert item_histories(dataset) == {1: [1, 2, 3]}


def _zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress, "zst": _zstd, "bz2": bz2.compress, "xz": lzma.compress,
}  # fmt: skip


def _csv(num_rows: int) -> bytes:
    rows = [f"u{n % 7},{n % 11},{n}" for n in range(num_rows)]
    return "\n".join([",".join(HEADER), *rows, ""]).encode()


@pytest.mark.parametrize("kind", COMPRESSIONS)
@pytest.mark.parametrize("suffix", ["", ".csv", ".csv.{}"])
def test_compressed_text_reads_as_the_plain_one(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    compress, data = COMPRESSIONS[kind], _csv(1000)
    half = data.index(b"\n", len(data) // 2) + 1
    (tmp_path / "plain").write_bytes(data)
    path = tmp_path / ("packed" + suffix.format(kind))
    # Tools that add to a file write a second stream behind the first.
    path.write_bytes(compress(data[:half]) + compress(data[half:]))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    plain = prepared(tmp_path / "one", f"csv:{tmp_path / 'plain'}")
    packed = prepared(tmp_path / "two", f"csv:{path}")
    assert item_histories(packed) == item_histories(plain)
    assert packed.info.num_events == 1000


@pytest.mark.parametrize("kind", COMPRESSIONS)
@given(cut=st.floats(0.1, 0.99))
@settings(max_examples=5)
def test_a_compressed_file_that_is_cut_off_is_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, cut: float
) -> None:
    packed = COMPRESSIONS[kind](_csv(20_000))
    folder = tmp_path_factory.mktemp("cut")
    path = folder / f"a.csv.{kind}"
    path.write_bytes(packed[: int(cut * len(packed))])
    with pytest.raises(UserError, match="cut off or damaged|is empty"):
        prepared(folder, f"csv:{path}")
    assert [file.name for file in folder.iterdir()] == [path.name]


def test_a_flipped_bit_in_a_gzip_file_is_found(tmp_path: Path) -> None:
    deflate = zlib.compressobj(0, zlib.DEFLATED, 31)  # stored, so that it reads on
    packed = bytearray(deflate.compress(_csv(1000)) + deflate.flush())
    at = packed.index(b"u3,3,")
    packed[at + 3] ^= 1
    path = tmp_path / "a.csv.gz"
    path.write_bytes(packed)
    with pytest.raises(UserError, match="cut off or damaged"):
        prepared(tmp_path, f"csv:{path}")


@pytest.mark.parametrize(
    ("begin", "message"),
    [
        (b"PK\x03\x04", "zip archive or a spreadsheet; unpack"),
        (b"PAR1", "a Parquet file, not text; give it as parquet:"),
        (b"SQLite format 3\0", "SQLite database; export"),
        (b"ARROW1\0\0", "Arrow file; save it as Parquet"),
        (b"ORC", "ORC file; save it as Parquet"),
        (b"\x89HDF\r\n", "HDF5 file"),
        (b"Obj\x01avro", "an Avro file"),
        (b"FEA1", "a Feather file"),
        (b"\x93NUMPY\x01", "an array of NumPy"),
        (b"\x80\x04\x95", "a pickle; save it"),
        (b"\x04\x22\x4d\x18", "packed as lz4"),
        (b'{"user_id": 1}\n', "JSON; save it"),
        (b'[{"user_id": 1}]', "JSON; save it"),
        (b"a" * 257 + b"ustar", "a tar archive; unpack it"),
        (gzip.compress(gzip.compress(b"user_id\n", mtime=0), mtime=0), "packed twice"),
        (
            gzip.compress(b"PAR1", mtime=0),
            "packed, and what is in it is a Parquet file",
        ),
        (b"<!DOCTYPE html><html>", "a web page"),
        ("\ufeffuser_id".encode("utf-32-le"), "UTF-32"),
        ("\ufeffuser_id".encode("utf-16-le"), "UTF-16; save it as UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_other_kinds_of_files_are_named(
    tmp_path: Path, begin: bytes, message: str
) -> None:
    (tmp_path / "a.csv").write_bytes(begin)
    for source in ("csv", "recbole"):
        with pytest.raises(UserError, match=message):
            prepared(tmp_path, f"{source}:{tmp_path / 'a.csv'}")


_RESERVED = st.sampled_from(
    "file_row_number FILE_ROW_NUMBER filename file_index rowid row eqids_row select "
    "order group c0 c1 C1 user item time Title title TITLE t when rank".split()
)
_COLUMN = _RESERVED | NAMES | st.just("") | st.text(max_size=5).filter(str.isprintable)


@given(
    columns=st.lists(_COLUMN, min_size=3, max_size=7, unique=True),
    more=st.lists(_COLUMN, max_size=2),
    kind=st.sampled_from(["csv", "parquet"]),
)
@settings(max_examples=60)
def test_columns_of_any_name(
    tmp_path_factory: pytest.TempPathFactory,
    reader: Engine,
    columns: list[str],
    more: list[str],
    kind: str,
) -> None:
    # Names that repeat are no trouble as long as nobody asks for them.
    names = columns + [name for name in more if name in columns[1:]]
    path = tmp_path_factory.mktemp("columns") / "a"
    cells = [[f"{n}:{row}" for row in range(3)] for n in range(len(names))]
    if kind == "csv":
        write_csv(path, list(zip(*cells, strict=True)), names)
    else:
        pq.write_table(pa.Table.from_arrays(list(map(pa.array, cells)), names), path)
    read = table_of_file(reader, path, columns)
    assert read.columns == tuple(names)
    for n, name in enumerate(columns):
        if names.count(name) > 1:
            with pytest.raises(UserError, match="times, wanted it once"):
                read[name]
            continue
        found = read.table.order_by(read.row).select(value=read[name]).to_pyarrow()
        assert found["value"].to_pylist() == cells[n]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_prepare_takes_columns_that_the_engine_calls_its_own(
    tmp_path: Path, kind: str
) -> None:
    names = ("file_row_number", "Select", "select", "eqids_row", "", "a.b c")
    rows = [("u", "x", 1, "n", "e", 5), ("u", "y", 2, "n", "e", 6), ("u", "z", 3, "n",
            "e", 7)]  # fmt: skip
    if kind == "csv":
        write_csv(tmp_path / "a", rows, names)
    else:
        columns = map(pa.array, zip(*rows, strict=True))
        pq.write_table(pa.Table.from_arrays(list(columns), names), tmp_path / "a")
    dataset = prepared(
        tmp_path,
        f"{kind}:{tmp_path / 'a'}",
        user_column="file_row_number",
        item_column="select" if kind == "csv" else "Select",
        time_column="a.b c",
    )
    wanted = ["1", "2", "3"] if kind == "csv" else ["x", "y", "z"]
    assert list(map(str, item_histories(dataset)["u"])) == wanted
    assert dataset.times is not None and dataset.times.tolist() == [5, 6, 7]


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        ("csv:a/plays.csv", "plays"),
        ("csv:plays.csv.gz", "plays"),
        ("csv:plays.zst", "plays"),
        ("parquet:my.plays.parquet", "my.plays"),
        ("ml-1m:ml.zip", "ml-1m"),
    ],
)
def test_the_default_folder_is_called_as_the_source(source: str, folder: str) -> None:
    assert PrepareConfig(source=source).folder == Path("data") / folder
