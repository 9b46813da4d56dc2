"""Exports as ONNX: onnxruntime alone answers as EqIDs does."""

import functools
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import ROOT
from exports import run_alone
from onnx_exports import KINDS, GraphKind, export_graph, graph_model, onnxruntime_alone
from safetensors.numpy import load_file
from served import NOW, left, oracle

from eqids.data import Dataset
from eqids.export.onnx_graph.recommender_graph import recommender_graph
from eqids.export.verified_graph import graph_arrays
from eqids.inference.engine.prepared_query import prepare_query
from eqids.inference.engine.values import Query, SlotFilter
from eqids.inference.histories import History
from eqids.inference.open import Opened
from eqids.inference.recommender import Recommender

K = 6
LONG = [
    pytest.param(kind, marks=pytest.mark.long) for kind in KINDS if kind != "prompt"
]
Exported = Callable[[GraphKind], tuple[Opened, Path, Any]]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnxruntime_alone(tmp_path_factory.mktemp("onnxruntime") / "alone")


@pytest.fixture(scope="module")
def graph(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A function that returns a model of a kind, its export and its tokens."""
    folder = tmp_path_factory.mktemp("exports")

    @functools.cache
    def of(kind: GraphKind) -> tuple[Opened, Path, Any]:
        opened, stored = graph_model(dataset, kind)
        output = folder / kind.replace(" ", "-")
        export_graph(output, opened, stored, k=K, triton=kind == "prompt")
        return opened, output, stored.tokens

    return of


def session_of(folder: Path) -> Any:
    """The graph of an export in onnxruntime, in this process."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return onnxruntime.InferenceSession(
        str(folder / manifest["graph"]), providers=["CPUExecutionProvider"]
    )


def random_queries(dataset: Dataset) -> list[Query]:
    """Histories of all lengths with times, some with filters of their own."""
    rng = np.random.default_rng(5)
    slots = np.flatnonzero(dataset.item_valid.reshape(-1)).astype(np.int32)
    found = []
    for length in (1, 2, 7, 24, 40):
        times = 1_000_000 + np.cumsum(rng.integers(0, 900, length))
        history = History(length, rng.choice(slots, length), times, NOW)
        some = SlotFilter.of(rng.choice(slots, 15), dataset.item_valid)
        deny = rng.choice(slots, 3).astype(np.int32)
        found.append(Query(history, K))
        found.append(Query(history, K, filter_seen=False, allow=some))
        found.append(Query(history, K, deny=deny))
    # Fewer items may be returned than k.
    few = SlotFilter.of(slots[:2], dataset.item_valid)
    return [*found, Query(found[0].history, K, allow=few)]


@pytest.mark.parametrize("kind", [*LONG, "prompt"])
def test_the_graph_answers_as_a_sorted_catalog(
    kind: GraphKind, graph: Exported, dataset: Dataset
) -> None:
    opened, folder, tokens = graph(kind)
    queries, log_probs_of = random_queries(dataset), oracle(opened)
    every = SlotFilter(dataset.item_valid)
    prepared = [prepare_query(one, opened, every, 30) for one in queries]
    arrays = dict(graph_arrays(prepared, opened, tokens))
    allowed = [one.allow.allowed.reshape(-1) for one in prepared]
    arrays["allowed"] = np.stack(allowed)
    session = session_of(folder)
    names = {one.name for one in session.get_inputs()}
    slots, log_probs = session.run(
        ["slots", "log_probs"], {name: arrays[name] for name in names}
    )
    for row, query in enumerate(queries):
        log_prob = np.where(left(query, dataset), log_probs_of(query.history), -np.inf)
        order = np.argsort(-log_prob, kind="stable")[:K]
        best = log_prob[order]
        wanted = np.where(best > -np.inf, order, -1)
        assert slots[row].tolist() == wanted.tolist(), (kind, row)
        np.testing.assert_allclose(log_probs[row], best, rtol=0, atol=1e-4)


ANSWERS = """
import json, pathlib, runpy
answers = {}
for folder in sys.argv[2:]:
    made = runpy.run_path(folder + "/onnx_loader.py")["OnnxRecommender"]
    model = made(pathlib.Path(folder))
    answers[folder] = [model.recommend(one, 6) for one in json.loads(sys.argv[1])]
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"eqids", "jax", "equinox", "onnx", "safetensors"}, loaded
print(json.dumps(answers))
"""


@pytest.mark.long
def test_onnxruntime_alone_recommends(
    graph: Exported, packages: Path, tmp_path: Path, dataset: Dataset
) -> None:
    id_of = dict(dataset.items()[["slot", "item"]].itertuples(index=False))
    rng = np.random.default_rng(3)
    slots = [rng.choice([*id_of], length) for length in (1, 7, 40)]
    lists = [[id_of[slot] for slot in one] for one in slots]
    # Other kinds read times, which the loader does not.
    kinds: tuple[GraphKind, ...] = ("ids", "text columns", "prompt")
    folders = {str(graph(kind)[1]): kind for kind in kinds}
    done = run_alone(packages, tmp_path, ANSWERS, json.dumps(lists), *folders)
    assert done.returncode == 0, done.stderr[-3000:]
    for folder, answers in json.loads(done.stdout).items():
        opened = graph(folders[folder])[0]
        histories = [History(0, one.astype(np.int32)) for one in slots]
        wanted = Recommender(opened).recommend(histories, k=K)
        flat = [row for one in answers for row in one]
        assert [row[0] for row in flat] == wanted["item"].tolist(), folder
        assert [row[1] for row in flat] == wanted["title"].tolist()
        probabilities = [row[2] for row in flat]
        np.testing.assert_allclose(probabilities, wanted["probability"], atol=1e-6)


def test_the_table_of_the_docs_has_the_operators_of_all_graphs(
    dataset: Dataset,
) -> None:
    used = set[str]()
    for kind in KINDS:
        _, stored = graph_model(dataset, kind)
        graph = recommender_graph(stored, K, allowed=True)
        used |= {node.operator for node in graph.nodes}
        names = [name for node in graph.nodes for name in node.outputs]
        assert len(names) == len(set(names))
        for node in graph.nodes:
            # The parser of TensorRT knows no reduction, and wants constants here.
            assert "reduction" not in node.attributes
            if node.operator in ("TopK", "Slice", "Squeeze", "Unsqueeze"):
                at = 3 if node.operator == "Slice" else 1
                assert node.inputs[at] in graph.constants
    page = (ROOT / "docs/onnx.md").read_text()
    table = page.split("## Operators")[1].split("\n## ")[0]
    rows = set(re.findall(r"^\| ([A-Z]\w+) \|", table, re.MULTILINE))
    assert used == rows


def test_the_manifest_describes_the_export(graph: Exported) -> None:
    opened, folder, tokens = graph("prompt")
    manifest = json.loads((folder / "manifest.json").read_text())
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert names == {*manifest["files"], "manifest.json"}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    model = onnx.load(folder / manifest["graph"], load_external_data=False)
    assert (model.opset_import[0].version, model.ir_version) == (18, 8)
    inputs = {
        one.name: [d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim]
        for one in model.graph.input
    }
    slots = opened.dataset.num_slots
    assert inputs == {
        name: [slots if axis == "slots" else axis for axis in one["shape"]]
        for name, one in manifest["inputs"].items()
    }
    assert manifest["prompt"] == tokens.prompt.tolist()
    assert manifest["seq_len"] == 24 + len(tokens.prompt)
    weights = load_file(folder / "eqids/1/weights.safetensors")
    external = [one for one in model.graph.initializer if one.external_data]
    assert {one.name for one in external} == weights.keys()
    ours = opened.model.llama.blocks.w_up[1].T
    assert np.array_equal(weights["llama.1.mlp.up.weight"], ours)
    inline = sum(len(one.raw_data) for one in model.graph.initializer)
    assert inline < 10_000
    source = (ROOT / "eqids/export/onnx_loader.py").read_text()
    assert (folder / "onnx_loader.py").read_text() == source
    code = [x for x in source.splitlines() if x and not x.strip().startswith('"""')]
    assert len(code) <= 65
