"""Figures that others have published, or that their code has given here.

All of them rank the full catalog, and the last item of each history is the test.
"""

from collections.abc import Mapping
from dataclasses import dataclass

_RERUN = "rerun, github.com/blondered/transformer_benchmark"
_RECTOOLS = "RecTools 0.19 on our split, measured for this project"
_LLAMAREC = (
    "figure of LlamaRec's paper; 22,332 users and 12,086 items: without untitled ones"
)
_RECALL, _NDCG, _RECALL_50, _NDCG_50 = "recall@10", "ndcg@10", "recall@50", "ndcg@50"


@dataclass(frozen=True)
class PublishedFigure:
    """One model's figures on one data set.

    Attributes:
        data: the data set, as `--data` names it.
        model: the model.
        metrics: means over users by metric.
        source: where the figures were read, and what differs.
        request_time: whether the model knows when it is asked.
    """

    data: str
    model: str
    metrics: Mapping[str, float]
    source: str
    request_time: bool = False


def _figure(
    data: str,
    model: str,
    values: tuple[float, ...],
    source: str,
    request_time: bool = False,
) -> PublishedFigure:
    """A row: Recall@10 and NDCG@10, or these and Recall@50 and NDCG@50."""
    names = (_RECALL, _NDCG, _RECALL_50, _NDCG_50)
    metrics = dict(zip(names, values, strict=False))
    return PublishedFigure(data, model, metrics, source, request_time)


PUBLISHED: tuple[PublishedFigure, ...] = (
    _figure("ml-100k", "SASRec (RecTools)", (0.175, 0.087, 0.437, 0.144),
            f"{_RECTOOLS}, 3 seeds"),
    _figure("ml-100k", "eSASRec (RecTools)", (0.168, 0.084, 0.450, 0.146),
            f"{_RECTOOLS}, 2 seeds"),
    _figure("ml-100k", "HSTU (RecTools)", (0.174, 0.087, 0.459, 0.150),
            f"{_RECTOOLS}, 3 seeds"),
    _figure("ml-100k", "SASRec (RecBole)", (0.177, 0.089, 0.431, 0.143),
            "RecBole's network on our split, measured for this project, 1 seed"),
    _figure("ml-100k", "HSTU with time (RecTools)", (0.188, 0.098, 0.478, 0.161),
            f"{_RECTOOLS}, 2 seeds (best run: NDCG@10 .110)", request_time=True),
    _figure("beauty", "SASRec, one negative", (0.0605, 0.0318), "S3-Rec's table"),
    _figure("beauty", "TIGER", (0.0648, 0.0384), "TIGER's tables 1 and 8"),
    _figure("beauty", "LIGER", (0.0745, 0.0402), "second-hand"),
    _figure("beauty", "LC-Rec (7B Llama)", (0.0788, 0.0420), "HG-Rec's table 1"),
    _figure("beauty", "ActionPiece", (0.0775, 0.0424), "a replication's README"),
    _figure("beauty", "HSTU", (0.0788, 0.0439), _RERUN),
    _figure("beauty", "SASRec, sampled softmax", (0.0921, 0.0531), _RERUN),
    _figure("beauty", "eSASRec", (0.0928, 0.0523), _RERUN),
    _figure("beauty", "SASRec (LlamaRec's)", (0.0844, 0.0481), _LLAMAREC),
    _figure("beauty", "LRURec", (0.0916, 0.0533), _LLAMAREC),
    _figure("beauty", "LlamaRec (7B Llama)", (0.0971, 0.0554), _LLAMAREC),
    _figure("ml-1m", "SASRec, sampled softmax", (0.2929, 0.1684), _RERUN),
    _figure("ml-1m", "HSTU", (0.3037, 0.1719), _RERUN),
    _figure("ml-1m", "eSASRec", (0.3133, 0.1772), _RERUN),
    _figure("ml-1m", "FuXi-α", (0.3164, 0.1813), _RERUN),
    _figure("ml-1m", "HSTU-large", (0.3294, 0.1893),
            "generative-recommenders' README"),
    _figure("ml-1m", "HSTU with the request's time", (0.364, 0.216), "RecTools' rerun",
            request_time=True),
)  # fmt: skip
"""Every figure, by data set."""


def published(data: str, request_time: bool) -> list[PublishedFigure]:
    """Returns the figures for one table.

    Args:
        data: the data set.
        request_time: whether the table is of models that know when they are asked.
    """
    return [one for one in PUBLISHED
            if (one.data, one.request_time) == (data, request_time)]  # fmt: skip
