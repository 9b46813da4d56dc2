"""The model: PyTrees and pure functions; no files, no optimizer.

Every annotation of an array names its axes. A word has one meaning in the whole
project:

| word | axis |
|---|---|
| `batch`, `seq` | rows of a batch, positions of a row |
| `width` | Llama's hidden states |
| `heads`, `kv_heads`, `head` | query heads, key and value heads, size of one head |
| `ffn`, `vocab`, `layer` | Llama's feed-forward layer, text tokens, stacked blocks |
| `item_width` | an item's vector |
| `learned_width`, `text_width` | its columns that train, and those of its text |
| `encoding` | a Llama's encoding of a text |
| `cluster`, `place` | clusters of the catalog, places of a cluster |
| `slot` | places of all clusters, cluster by cluster |
| `target` | positions of a batch, flattened, that predict an item |
| `active` | clusters that have items or targets of a batch |
| `query`, `user` | queries to the softmax, users of a chunk |
| `chunk`, `row` | clusters or targets that a loop computes at a time |
| `prefix`, `keys` | tokens before every sequence; these and the sequence |
| `hidden` | hidden layer of an adapter |
| `rank` | between the two matrices of a low-rank change (LoRA) |
| `gaps` | buckets of the time between items, or between an item and a request |
| `recent` | last items of a history, newest first |
| `successor` | successors of an item in the table of counts |
| `support` | distinct successors of the recent items |
"""

from eqids.model.adapter import (
    LinearAdapter as LinearAdapter,
    MlpAdapter as MlpAdapter,
)
from eqids.model.attention import PrefixCache as PrefixCache
from eqids.model.batch import Batch as Batch
from eqids.model.counts import (
    SuccessorCounts as SuccessorCounts,
    recent_items as recent_items,
)
from eqids.model.eqids import EqIDs as EqIDs
from eqids.model.item_vectors import TextFeatures as TextFeatures
from eqids.model.likelihood import ActiveClusters as ActiveClusters
from eqids.model.llama import Llama as Llama
from eqids.model.mixture import Mixture as Mixture
from eqids.model.search import TopK as TopK
from eqids.model.softmax import HierarchicalSoftmax as HierarchicalSoftmax
