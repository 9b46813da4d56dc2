"""Divides queries into batches, so that little is computed for padding."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import jax

from eqids.inference.engine.prepared_query import PreparedQuery
from eqids.inference.engine.shapes import Shapes, bucket
from eqids.inference.engine.values import SlotFilter

_BATCH_COST = 64
"""The cost of one more batch on a CPU, as a number of positions that take as long."""
_BATCH_COST_ACCELERATED = 4096
"""The same on other devices, which compute many positions at a time."""


@dataclass(frozen=True)
class BatchPlan:
    """One batch.

    Attributes:
        members: which queries it has; at most `rows`.
        rows: rows of the arrays.
        length: positions of a row; 0 if popularity answers.
        continues: whether rows continue kept pages, whose positions `length` leaves
            out.
        k: number of items to find.
        width: slots that each row leaves out by a list, and all share a filter; none if
            each row has a mask.
    """

    members: Sequence[int]
    rows: int
    length: int
    k: int
    width: int | None
    continues: bool = False


def plan(
    queries: Sequence[PreparedQuery],
    shapes: Shapes,
    num_known: Sequence[int] | None = None,
) -> list[BatchPlan]:
    """Divides queries into batches, the batch with the first query first.

    A batch has queries with the same bucket of k and, if they leave slots out by lists,
    the same filter. Queries that share their filters with no other have masks, so that
    one batch may have many. Among batches of consecutive lengths, these take the fewest
    positions, padding included.

    Args:
        queries: the queries.
        shapes: the shapes of the programs.
        num_known: how many positions of each are kept, by default none. A query whose
            rest is longer than any of `shapes.continued` is computed whole.
    """
    groups: dict[tuple[bool, int, SlotFilter | None], list[int]] = defaultdict(list)
    known = [0] * len(queries) if num_known is None else num_known
    longest = max(shapes.continued, default=0)
    left = [query.length for query in queries]
    for i, kept in enumerate(known):
        if kept and left[i] - kept <= longest:
            left[i] -= kept
    uses = Counter(query.allow for query in queries if query.length)
    alone = sum(number == 1 for number in uses.values())
    popular = []
    for i, query in enumerate(queries):
        if not query.length:
            popular.append(i)
            continue
        k, continues = bucket(shapes.ks, query.k), left[i] < query.length
        listed = bool(shapes.widths) and len(query.left_out) <= shapes.widths[-1]
        listed &= alone <= 1 or uses[query.allow] > 1
        groups[continues, k, query.allow if listed else None].append(i)
    plans = [BatchPlan(popular, len(popular), 0, 0, None)] if popular else []
    for (*_, shared), members in groups.items():
        plans += _plan_group(queries, left, members, shapes, shared is not None)
    return sorted(plans, key=lambda batch: min(batch.members))


def _plan_group(
    queries: Sequence[PreparedQuery],
    left: Sequence[int],
    members: Sequence[int],
    shapes: Shapes,
    listed: bool,
) -> list[BatchPlan]:
    """Returns batches of queries that may share one.

    Args:
        queries: all queries.
        left: how many positions of each are to be computed.
        members: which queries they are.
        shapes: the shapes of the programs.
        listed: whether they share a filter, and leave slots out by lists.
    """
    k = bucket(shapes.ks, queries[members[0]].k)
    continues = left[members[0]] < queries[members[0]].length
    members = sorted(members, key=lambda i: left[i])
    sizes = shapes.continued if continues else shapes.lengths
    lengths = [bucket(sizes, left[i]) for i in members]
    plans = []
    for part, rows in cheapest(lengths, shapes.rows if listed else shapes.masked_rows):
        own = members[part]
        most = max(len(queries[i].left_out) for i in own)
        width = bucket(shapes.widths, most) if listed else None
        length = lengths[part.stop - 1]
        plans.append(BatchPlan(own, rows, length, k, width, continues))
    return plans


def cheapest(lengths: Sequence[int], rows: Sequence[int]) -> list[tuple[slice, int]]:
    """Divides rows into consecutive batches at the least cost.

    The cost of a batch is its positions, padding included, and a constant.

    Args:
        lengths: positions of each row, ascending.
        rows: allowed sizes of a batch.

    Returns:
        For each batch the rows that it has, and its size.
    """
    on_cpu = jax.default_backend() == "cpu"
    batch_cost = _BATCH_COST if on_cpu else _BATCH_COST_ACCELERATED
    cost, sizes = [0], [0]
    for stop, length in enumerate(lengths, start=1):
        options = [
            (cost[max(0, stop - size)] + size * length + batch_cost, size)
            for size in rows
        ]
        least, size = min(options)
        cost.append(least)
        sizes.append(size)
    found, stop = [], len(lengths)
    while stop > 0:
        start = max(0, stop - sizes[stop])
        found.append((slice(start, stop), sizes[stop]))
        stop = start
    return found
