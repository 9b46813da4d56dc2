"""Fetching MovieLens, from a server on this machine with small archives."""

import functools
import http.server
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plays import item_histories, prepared

from eqids.config import UserError
from eqids.data.raw import fetch

# Ibis 12 calls what DuckDB 2 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

_EVENTS = [
    (2, 31, 5, 978300760), (2, 7, 3, 978300761), (1, 7, 4, 978300000),
    (1, 31, 1, 978300001), (1, 40, 2, 978299999), (2, 31, 4, 978300900),
]  # fmt: skip
_HISTORIES = {1: [40, 7, 31], 2: [31, 7, 31]}


def _lines(separator: str) -> str:
    return "\n".join(separator.join(map(str, event)) for event in _EVENTS) + "\n"


def _u_item() -> bytes:
    flags = {7: [5], 31: [1, 16], 40: []}
    titles = {7: "Amélie (2001)", 31: 'The "X" (1999)', 40: "Odd (1950)"}
    lines = []
    for item, title in titles.items():
        genres = ["1" if flag in flags[item] else "0" for flag in range(19)]
        lines.append("|".join([str(item), title, "01-Jan-1995", "", "", *genres]))
    return ("\n".join(lines) + "\n").encode("latin-1")


def _archives(folder: Path) -> None:
    movies = '7::Amélie (2001)::Comedy\n31::The "X" (1999)::Action|Thriller\n'
    with zipfile.ZipFile(folder / "ml-1m.zip", "w") as archive:
        archive.writestr("__MACOSX/ml-1m/ratings.dat", "not this")
        archive.writestr("ml-1m/ratings.dat", _lines("::"))
        archive.writestr("ml-1m/movies.dat", movies.encode("latin-1"))
        archive.writestr("ml-1m/users.dat", "1::F::1::10::48067\n")
    movies = (
        'movieId,title,genres\n7,Amélie (2001),Comedy\n31,"The ""X"", a (1999)",'
        "Action|Thriller\n40,Odd (1950),(no genres listed)\n"
    )
    with zipfile.ZipFile(folder / "ml-20m.zip", "w") as archive:
        head = "userId,movieId,rating,timestamp\n"
        archive.writestr("ml-20m/ratings.csv", head + _lines(","))
        archive.writestr("ml-20m/movies.csv", movies)
    with zipfile.ZipFile(folder / "ml-100k.zip", "w") as archive:
        archive.writestr("ml-100k/u.data", _lines("\t"))
        archive.writestr("ml-100k/u.item", _u_item())


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that plays GroupLens; pip finds nothing and the cache is empty."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setenv("EQIDS_GROUPLENS_URL", url)
        monkeypatch.setenv("EQIDS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        yield folder
        server.shutdown()


_TITLES = {
    "ml-100k": ('The "X" (1999)', 'The "X" (1999), Action, Thriller'),
    "ml-1m": ('The "X" (1999)', 'The "X" (1999), Action, Thriller'),
    "ml-20m": ('The "X", a (1999)', 'The "X", a (1999), Action, Thriller'),
}


@pytest.mark.parametrize("name", ["ml-100k", "ml-1m", "ml-20m"])
def test_movielens_is_fetched_once_and_read(
    tmp_path: Path, served: Path, name: str
) -> None:
    _archives(served)
    said: list[str] = []
    dataset = prepared(tmp_path, name, said=said)
    assert item_histories(dataset) == _HISTORIES
    table = dataset.items().set_index("item")
    assert tuple(table.loc[31, ["title", "text"]]) == _TITLES[name]
    assert table.loc[7, "text"] == "Amélie (2001), Comedy"
    assert table.loc[40, "title"] == ("40" if name == "ml-1m" else "Odd (1950)")
    assert table.loc[40, "text"] == ("" if name == "ml-1m" else "Odd (1950)")
    assert any("do not redistribute" in sentence for sentence in said)
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [f"{name}.zip"]
    (served / f"{name}.zip").unlink()
    prepared(tmp_path, name, overwrite=True)


@pytest.mark.parametrize("name", ["ml-100k", "ml-1m", "ml-20m"])
@pytest.mark.parametrize("kind", ["zip", "folder", "above"])
def test_movielens_from_a_local_path(tmp_path: Path, name: str, kind: str) -> None:
    _archives(tmp_path)
    path = tmp_path / f"{name}.zip"
    if kind != "zip":
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tmp_path / "there")
        path = tmp_path / "there" / (name if kind == "folder" else "")
    dataset = prepared(tmp_path, f"{name}:{path}", min_rating=2.0)
    assert dataset.info.source == f"{name}:{path}"
    assert dataset.info.counts.rated_lower == 1
    assert item_histories(dataset)[2] == _HISTORIES[2]


def test_what_cannot_be_reached_is_named_with_the_way_out(
    tmp_path: Path, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"ml-1m\.zip could not be reached \(File not"):
        prepared(tmp_path, "ml-1m")
    for url in ("http://127.0.0.1:9", "nowhere"):
        monkeypatch.setenv("EQIDS_GROUPLENS_URL", url)
        with pytest.raises(
            UserError,
            match=rf"{url}/ml-100k\.zip could not be reached .* --source ml-100k:PATH",
        ):
            prepared(tmp_path, "ml-100k")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_broken_archive_is_not_kept(tmp_path: Path, served: Path) -> None:
    _archives(served)
    archive = served / "ml-1m.zip"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-40])
    with pytest.raises(UserError, match=r"ml-1m\.zip is not a whole zip file"):
        prepared(tmp_path, "ml-1m")
    place = whole.index(b"978300760")
    archive.write_bytes(whole[:place] + b"1" + whole[place + 1 :])
    with pytest.raises(UserError, match=r"ratings\.dat is damaged"):
        prepared(tmp_path, "ml-1m")
    assert list((tmp_path / "cache").iterdir()) == []
    archive.write_bytes(whole)
    assert item_histories(prepared(tmp_path, "ml-1m")) == _HISTORIES


def test_an_archive_cut_off_on_the_way_is_not_kept(
    tmp_path: Path, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _archives(served)
    send = _Quiet.copyfile

    def half(self: _Quiet, source: Any, output: Any) -> None:
        output.write(source.read()[:100])

    monkeypatch.setattr(_Quiet, "copyfile", half)
    with pytest.raises(UserError, match=r"stopped after 100 of \d+ bytes"):
        prepared(tmp_path, "ml-20m")
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setattr(_Quiet, "copyfile", send)
    assert item_histories(prepared(tmp_path, "ml-20m")) == _HISTORIES


def test_a_damaged_wheel_in_the_cache_is_not_used(tmp_path: Path, served: Path) -> None:
    _archives(served)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / fetch.WHEEL).write_bytes(b"damaged")
    assert item_histories(prepared(tmp_path, "ml-100k")) == _HISTORIES


def test_a_cache_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EQIDS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="set EQIDS_CACHE"):
        prepared(tmp_path, "ml-1m")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = tmp_path / "ml-1m.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml-1m/ratings.dat", bytes(20_000_000))
        archive.writestr("ml-1m/movies.dat", b"1::A::B")
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(UserError, match=r"ml-1m\.zip unpacks to 20,000,007 bytes"):
        fetch.unpack(bomb, [["ratings.dat", "movies.dat"]], into)
    assert list(into.iterdir()) == []
