"""The names that `from sharding import ...` finds; importing this module imports
jax."""

from sharding.alignment import aligned as aligned
from sharding.axis_words import Words as Words, words as words
from sharding.joining import initialize as initialize
from sharding.layout import (
    LAYOUT_NAMES as LAYOUT_NAMES,
    Layout as Layout,
    LayoutError as LayoutError,
    abstract_mesh as abstract_mesh,
    make_mesh as make_mesh,
    mesh_shape_named as mesh_shape_named,
    mesh_shapes as mesh_shapes,
    named_layout as named_layout,
)
from sharding.lazy_array import LazyArray as LazyArray, Slices as Slices
from sharding.ops import (
    axes_of as axes_of,
    gathered as gathered,
    like as like,
    lookup as lookup,
    per_shard as per_shard,
    replicated as replicated,
)
from sharding.placements import (
    ONE_DEVICE as ONE_DEVICE,
    Placement as Placement,
    beside as beside,
    place as place,
    placement as placement,
)
from sharding.processes import (
    barrier as barrier,
    beside_others as beside_others,
    exchange as exchange,
    is_first as is_first,
    leave as leave,
    lost_peer as lost_peer,
)
from sharding.rendezvous import ProcessesError as ProcessesError
from sharding.shards import TableShards as TableShards, num_shards as num_shards
