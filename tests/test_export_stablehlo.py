"""Exports as StableHLO: jax alone answers as EqIDs does, and refuses damage."""

import functools
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, make_dataset
from exports import (
    close,
    export_to,
    jax_alone,
    plain_model,
    run_alone,
    started,
)
from jax.export import deserialize
from safetensors.numpy import load_file
from served import NOW, opened_model

from eqids.config import UserError
from eqids.data import Dataset
from eqids.export.jaxlib_dates import released, six_months_after
from eqids.inference.engine.host_arrays import history_arrays, mask_array
from eqids.inference.engine.served_model import ServedModel
from eqids.inference.engine.values import Query
from eqids.inference.histories import History
from eqids.inference.open import Opened
from eqids.inference.recommender import Recommender

K, ROWS = 6, 3
KINDS = ("ids", "request time", "texts", "prompt", "text columns")


def of_kind(dataset: Dataset, kind: str, seed: int = 0) -> Opened:
    """A model of noise; all but "ids" and "text columns" have counts and all times."""
    if kind in ("ids", "text columns"):
        return plain_model(dataset, seed, text_width=3 * (kind != "ids"))
    known = {"request time": "items", "texts": "text", "prompt": "prompt"}
    return opened_model(dataset, known[kind], seed=seed)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jax_alone(tmp_path_factory.mktemp("jax") / "alone")


@pytest.fixture(scope="module")
def export(
    dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Opened, Path]]:
    """A function that returns a model of a kind and its export, which it keeps."""
    folder = tmp_path_factory.mktemp("exports")

    @functools.cache
    def of(kind: str) -> tuple[Opened, Path]:
        opened, output = of_kind(dataset, kind), folder / kind.replace(" ", "-")
        lengths, rows = ((), (1, ROWS)) if kind == "ids" else ((24,), (ROWS,))
        export_to(output, opened, lengths=lengths, rows=rows)
        return opened, output

    return of


def random_histories(dataset: Dataset) -> list[History]:
    """Two short histories and one that is too long to be read whole."""
    rng = np.random.default_rng(5)
    slots = np.flatnonzero(dataset.item_valid.reshape(-1)).astype(np.int32)
    found = []
    for length in (1, 7, 40):
        times = 1_000_000 + np.cumsum(rng.integers(0, 900, length))
        found.append(History(length, rng.choice(slots, length), times, NOW))
    return found


def inputs_of(opened: Opened, histories: list[History], names: Any) -> dict[str, Any]:
    """What a program of `ROWS` rows and 24 positions reads."""
    served = ServedModel(opened)
    queries = [served.prepare(Query(one, K)) for one in histories]
    arrays, last = history_arrays(queries, ROWS, 24)
    allowed = mask_array(queries, ROWS).reshape(ROWS, -1)
    arrays = {**arrays, "last": last, "allowed": allowed}
    return {name: arrays[name] for name in names}


ANSWERS = """
import json, pathlib, runpy
import numpy as np
answers = {}
for folder, file, histories in json.loads(sys.argv[1]):
    folder = pathlib.Path(folder)
    model = runpy.run_path(folder / "loader.py")["ExportedModel"](folder)
    slots, log_probs = model.programs[3, 24](model.weights, dict(np.load(file)))
    rows = [[model.items[s][0] for s in row] for row in slots.tolist()]
    listed = [model.recommend(one, 6) for one in histories]
    answers[str(folder)] = rows, np.exp(log_probs).tolist(), listed
assert not [name for name in sys.modules if name.startswith(("eqids", "equinox"))]
print(json.dumps(answers))
"""


@pytest.mark.parametrize(
    "kinds",
    [
        ("prompt", "text columns"),
        pytest.param(("ids", "request time", "texts"), marks=pytest.mark.long),
    ],
)
def test_jax_alone_gives_the_same_answers(
    kinds: Sequence[str],
    export: Callable[[str], tuple[Opened, Path]],
    packages: Path,
    tmp_path: Path,
    dataset: Dataset,
) -> None:
    histories, cases = random_histories(dataset), []
    id_of = dict(dataset.items()[["slot", "item"]].itertuples(index=False))
    listed = [[id_of[slot] for slot in one.slots.tolist()] for one in histories]
    for kind in kinds:
        opened, folder = export(kind)
        manifest = json.loads((folder / "manifest.json").read_text())
        arrays = inputs_of(opened, histories, manifest["inputs"])
        np.savez(tmp_path / f"{folder.name}.npz", **arrays)
        cases.append((str(folder), str(tmp_path / f"{folder.name}.npz"), listed))
    done = run_alone(packages, tmp_path, ANSWERS, json.dumps(cases))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    for kind in kinds:
        opened, folder = export(kind)
        rows, probabilities, lists = found[str(folder)]
        recommender = Recommender(opened)
        wanted = recommender.recommend(histories, k=K)
        assert sum(rows, []) == wanted["item"].tolist(), kind
        close(sum(probabilities, []), wanted["probability"])
        wanted = recommender.recommend(listed, k=K)
        flat = [row for one in lists for row in one]
        assert [row[0] for row in flat] == wanted["item"].tolist(), kind
        assert [row[1] for row in flat] == wanted["title"].tolist()
        close([row[2] for row in flat], wanted["probability"])


@pytest.mark.long
def test_a_large_catalog_is_searched_best_first(packages: Path, tmp_path: Path) -> None:
    """Above 65,536 slots a CPU visits clusters, other platforms score all items."""
    sizes = {"num_clusters": 260, "cluster_size": 256, "num_items": 3000}
    large = make_dataset(tmp_path / "data", **sizes)
    opened = opened_model(large, "items")
    export_to(tmp_path / "out", opened, lengths=(24,), rows=(1,))
    (history, *_) = random_histories(large)[1:]
    id_of = dict(large.items()[["slot", "item"]].itertuples(index=False))
    ids = [id_of[slot] for slot in history.slots.tolist()]
    loader = tmp_path / "out/loader.py"
    said = started(packages, tmp_path, loader, ",".join(ids), "--k", "6")
    assert said.returncode == 0, said.stderr
    lines = [line.split("\t") for line in said.stdout.splitlines()]
    wanted = Recommender(opened).recommend([ids], k=6)
    assert [line[0] for line in lines] == wanted["item"].tolist()
    close([float(line[2]) for line in lines], wanted["probability"])


def test_equal_sizes_have_equal_programs(
    dataset: Dataset, export: Callable[[str], tuple[Opened, Path]], tmp_path: Path
) -> None:
    _, first = export("prompt")
    export_to(
        tmp_path / "other", of_kind(dataset, "prompt", 1), lengths=(24,), rows=(ROWS,)
    )
    was, now = (
        json.loads((folder / "manifest.json").read_text())["files"]
        for folder in (first, tmp_path / "other")
    )
    changed = {name for name in was if was[name] != now[name]}
    # The texts of items are random too.
    assert changed == {"weights.safetensors", "items.json"}
    (program,) = (first / name for name in was if name.endswith(".stablehlo"))
    assert b".py" not in program.read_bytes()


def test_the_manifest_describes_the_export(
    export: Callable[[str], tuple[Opened, Path]],
) -> None:
    opened, folder = export("prompt")
    manifest = json.loads((folder / "manifest.json").read_text())
    names = {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert names == manifest["files"].keys()
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    weights = load_file(folder / "weights.safetensors")
    held = {n: [list(x.shape), str(x.dtype)] for n, x in weights.items()}
    assert held == {n: [*x.values()] for n, x in manifest["weights"].items()}
    gate = opened.model.successors
    assert gate is not None and weights["successors.gate"] == gate.gate
    assert {"prefix.keys", "llama.blocks.wq", "softmax.table"} <= weights.keys()
    (program,) = manifest["programs"]
    read = deserialize(bytearray((folder / program["file"]).read_bytes()))
    assert read.platforms == ("cpu", "cuda", "tpu")
    # The program reads every array that is written.
    assert len(read.module_kept_var_idx) == len(weights) + len(manifest["inputs"])
    items = pq.read_table(folder / "items.parquet").to_pandas()
    assert items["slot"].is_monotonic_increasing
    rows = json.loads((folder / "items.json").read_text())
    listed = [(slot, row[0], row[1]) for slot, row in enumerate(rows) if row]
    assert listed == [*items[["slot", "item", "title"]].itertuples(index=False)]
    assert manifest["catalog_id"] == opened.dataset.info.catalog_id
    source = (ROOT / "eqids/export/loader.py").read_text()
    assert (folder / "loader.py").read_text() == source
    code = [x for x in source.splitlines() if x and not x.strip().startswith('"""')]
    assert len(code) <= 60


def test_six_months_end_on_a_day_that_exists() -> None:
    assert six_months_after(date(2026, 6, 17)) == date(2026, 12, 17)
    assert six_months_after(date(2026, 8, 31)) == date(2027, 2, 28)
    assert six_months_after(date(2026, 7, 1)) == date(2027, 1, 1)
    assert released("0.10.2") == date(2026, 6, 17)
    assert released("99", "2030-01-02") == date(2030, 1, 2)
    with pytest.raises(UserError, match="jaxlib is 99, .* --jaxlib_released YYYY"):
        released("99")
    with pytest.raises(UserError, match="--jaxlib_released is 'May', wanted a date"):
        released("99", "May")


BROKEN = """
import json, pathlib, runpy
made = runpy.run_path(sys.argv[1])["ExportedModel"]
for folder in sys.argv[2:]:
    try:
        made(pathlib.Path(folder))
        print("accepted", folder)
    except (OSError, LookupError, TypeError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")
"""
"""Opens folders by the loader, and prints why it refuses each."""


def changed(folder: Path, **values: Any) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, **values}))


def test_broken_exports_are_refused_in_a_sentence(
    export: Callable[[str], tuple[Opened, Path]], packages: Path, tmp_path: Path
) -> None:
    _, whole = export("text columns")
    manifest = json.loads((whole / "manifest.json").read_text())
    (program,) = (name for name in manifest["files"] if name.endswith(".stablehlo"))
    other = {**manifest["jax"], "jax": "0.9.0"}
    wanted: dict[Path, str] = {}

    def broken(says: str) -> Path:
        folder = tmp_path / f"broken{len(wanted)}"
        shutil.copytree(whole, folder)
        wanted[folder] = says
        return folder

    for name in ("weights.safetensors", program, "items.json"):
        data = (whole / name).read_bytes()
        flipped = bytes([*data[:-9], data[-9] ^ 1, *data[-8:]])
        (broken(f"{name} is not the file") / name).write_bytes(flipped)
        (broken(f"{name} is not the file") / name).write_bytes(data[:-1])
        (broken(f"No such file .*{re.escape(name)}") / name).unlink()
    (broken("No such file .*manifest") / "manifest.json").unlink()
    text = (whole / "manifest.json").read_text()
    (broken("Expecting|Unterminated") / "manifest.json").write_text(
        text[: len(text) // 2]
    )
    says = r"expired on 2020-02-02, wanted jax [\d.]+ or a new export: python"
    changed(broken(says), expires="2020-02-02", jax=other)
    changed(broken("accepted"), expires="2020-02-02")
    (tmp_path / "secret").write_bytes(b"x")
    for name in ("../secret", str(tmp_path / "secret"), "a/../items.json"):
        secret = hashlib.sha256(b"x").hexdigest()
        folder = broken("No such file|is not the file")
        changed(folder, files={**manifest["files"], name: secret})
    changed(broken("NoneType"), files=None)
    changed(broken(program), files={"items.json": manifest["files"]["items.json"]})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    loader, names = str(whole / "loader.py"), map(str, wanted)
    done = run_alone(packages, tmp_path, BROKEN, loader, *names)
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.splitlines()
    assert len(said) == len(wanted)
    for line, (folder, says) in zip(said, wanted.items(), strict=True):
        assert re.search(says, line), (folder, says, line)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
