"""A Hugging Face hub with one repository, on a free port of this machine."""

import base64
import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub_constants
import pytest
import yaml

from convert.hub import REPOSITORIES

LLAMA = REPOSITORIES["1b"]
TOKEN = "hf_of-somebody"


@dataclass
class Hub:
    """What the server has, what it does, and what it was asked.

    Attributes:
        folder: the files of its repository.
        name: of the repository.
        revision: its commit.
        exists: whether the repository was created.
        private: whether it is private.
        url: of the server.
        token: what requests must have, or any.
        error: a status and a code of the hub, with which it answers.
        error_at: a part of the paths that are answered so.
        cut: bytes after which the next download of weights is interrupted.
        asked: method and path of every request.
        ranges: the byte ranges of downloads.
        objects: large files that were uploaded, by SHA-256.
        summaries: of the commits.
    """

    folder: Path
    name: str = LLAMA.name
    revision: str = LLAMA.revision
    exists: bool = True
    private: bool = False
    url: str = ""
    token: str | None = None
    error: tuple[int, str] | None = None
    error_at: str = ""
    cut: int | None = None
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    summaries: list[str] = field(default_factory=list)


@contextmanager
def serving_hub(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> Iterator[Hub]:
    """Serves a hub, with an empty cache on the side of its user."""
    address = ("127.0.0.1", 0)
    with http.server.ThreadingHTTPServer(address, _handler(hub)) as server:
        serve = functools.partial(server.serve_forever, poll_interval=0.02)
        threading.Thread(target=serve, daemon=True).start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        use_hub(monkeypatch, hub.url, cache)
        yield hub
        server.shutdown()


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Sets what HF_ENDPOINT and HF_HOME set, which are read at import."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(cache / "token"),
        # Its storage needs servers of its own; without it, files go by Git LFS.
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(hub_constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)


def _handler(hub: Hub) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            api = f"/api/models/{hub.name}"
            if self._refused(path):
                return
            if path.startswith(api) and not hub.exists:
                self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif path.startswith(f"{api}/tree/{hub.revision}"):
                self._json([self._entry(one) for one in sorted(hub.folder.iterdir())])
            elif path in (
                api,
                f"{api}/revision/main",
                f"{api}/revision/{hub.revision}",
            ):
                names = sorted(one.name for one in hub.folder.iterdir())
                files = [{"rfilename": name} for name in names]
                about = {"id": hub.name, "sha": hub.revision, "siblings": files}
                self._json({**about, "private": hub.private})
            else:
                self._file(hub.folder / path.split("/")[-1])

        def do_PUT(self) -> None:
            data, digest = self._body(), self.path.split("/")[-1]
            assert hashlib.sha256(data).hexdigest() == digest
            hub.objects[digest] = data
            self._json({})

        def do_POST(self) -> None:
            path, body = self.path.split("?")[0], self._body()
            if self._refused(path):
                return
            api = f"/api/models/{hub.name}"
            if path == "/api/repos/create":
                self._create(json.loads(body))
            elif path == "/api/validate-yaml":
                errors = _card_errors(json.loads(body)["content"])
                self._json({"errors": errors, "warnings": []}, 400 if errors else 200)
            elif path == f"{api}/preupload/main":
                files = json.loads(body)["files"]
                self._json({"files": [_upload_mode(one["path"]) for one in files]})
            elif path == f"/{hub.name}.git/info/lfs/objects/batch":
                self._json({"objects": [*map(_upload_to, json.loads(body)["objects"])]})
            elif path == f"{api}/commit/main":
                lines = [json.loads(line) for line in body.splitlines()]
                if lines[0]["value"]["parentCommit"] != hub.revision:
                    self._json({}, 412)
                    return
                hub.revision = _commit(hub, lines)
                url = f"{hub.url}/{hub.name}/commit/{hub.revision}"
                self._json({"commitUrl": url, "commitOid": hub.revision})
            else:
                self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})

        def _refused(self, path: str) -> bool:
            """Answers a request that the hub refuses."""
            hub.asked.append(f"{self.command} {path}")
            given = self.headers.get("Authorization")
            if hub.error is not None and hub.error_at in path:
                status, code = hub.error
                self._answer(status, b"{}", {"X-Error-Code": code} if code else {})
            elif hub.token is not None and given != f"Bearer {hub.token}":
                code = "GatedRepo" if self.command in ("GET", "HEAD") else ""
                self._answer(401, b"{}", {"X-Error-Code": code} if code else {})
            else:
                return False
            return True

        def _create(self, asked: dict[str, Any]) -> None:
            assert f"{asked['organization']}/{asked['name']}" == hub.name
            if not hub.exists:
                hub.private = asked.get("visibility") == "private"
            self._json({"url": f"{hub.url}/{hub.name}"}, 409 if hub.exists else 200)
            hub.exists = True

        def _body(self) -> bytes:
            if "Content-Length" in self.headers:
                return self.rfile.read(int(self.headers["Content-Length"]))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _entry(self, path: Path) -> dict[str, Any]:
            data = path.read_bytes()
            entry = {"type": "file", "path": path.name, "size": len(data)}
            entry["oid"] = hashlib.sha1(data).hexdigest()
            if path.suffix == ".safetensors":
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 9}
            return entry

        def _file(self, path: Path) -> None:
            data = path.read_bytes()
            large = path.suffix == ".safetensors"
            claimed = hub.folder.parent / f"{path.name}.claimed"
            digest = (hashlib.sha256 if large else hashlib.sha1)(data).hexdigest()
            if claimed.exists():
                digest = claimed.read_text()
            headers = {"X-Repo-Commit": hub.revision, "ETag": f'"{digest}"'}
            status, span = 200, self.headers.get("Range")
            if span is not None:
                hub.ranges.append(span)
                start = int(span.removeprefix("bytes=").split("-")[0])
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                status, data = 206, data[start:]
            cut = None
            if large and self.command == "GET" and hub.cut is not None:
                cut, hub.cut = hub.cut, None
            self._answer(status, data, headers, cut)

        def _json(self, values: Any, status: int = 200) -> None:
            self._answer(status, json.dumps(values).encode(), {})

        def _answer(
            self,
            status: int,
            data: bytes,
            headers: dict[str, str],
            cut: int | None = None,
        ) -> None:
            self.send_response(status)
            headers = {"Content-Length": str(len(data)), **headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[:cut])
            if cut is not None:
                self.close_connection = True

    def _upload_to(one: dict[str, Any]) -> dict[str, Any]:
        return {**one, "actions": {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}}

    return Handler


def _upload_mode(path: str) -> dict[str, Any]:
    large = path.endswith(".safetensors")
    return {
        "path": path, "uploadMode": "lfs" if large else "regular",
        "shouldIgnore": False, "oid": None,
    }  # fmt: skip


def _card_errors(card: str) -> list[dict[str, str]]:
    """What the hub finds wrong with a card's metadata."""
    _, front, _ = card.split("---\n", 2)
    values = yaml.safe_load(front)
    wrong = [name for name in ("license", "tags") if not values.get(name)]
    for model in values.get("model-index", []):
        for one in model["results"]:
            wrong += [] if one["task"]["type"] and one["dataset"]["name"] else ["task"]
            wrong += [m for m in one["metrics"] if not isinstance(m["value"], float)]
    return [{"message": f"{name} is invalid"} for name in wrong]


def _commit(hub: Hub, lines: list[dict[str, Any]]) -> str:
    """Changes the repository by a commit, and returns its new revision."""
    for line in lines:
        value = line["value"]
        match line["key"]:
            case "header":
                hub.summaries.append(value["summary"])
            case "file":
                data = base64.b64decode(value["content"])
                (hub.folder / value["path"]).write_bytes(data)
            case "lfsFile":
                (hub.folder / value["path"]).write_bytes(hub.objects[value["oid"]])
            case "deletedFile":
                (hub.folder / value["path"]).unlink()
    return hashlib.sha1(hub.revision.encode()).hexdigest()
