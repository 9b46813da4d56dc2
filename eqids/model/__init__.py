"""The model: pure PyTrees and functions, no files and no optimizer.

One meaning a word, in every annotation of the project:

| word | axis |
|---|---|
| `batch`, `seq` | rows of a batch, positions in a row |
| `width` | Llama's residual stream |
| `heads`, `kv_heads`, `head` | query heads, key and value heads, size of one |
| `ffn`, `vocab`, `layer` | Llama's feed-forward size, word tokens, stacked blocks |
| `item_width` | an item's vector |
| `cluster`, `place` | clusters of the catalog, places in one |
| `target` | flattened positions that predict an item |
| `active` | clusters that a batch has items or targets in |
| `query`, `user` | rows that are asked for items |
| `chunk`, `piece`, `row` | what a loop treats at a time |
| `opening`, `keys` | words that every sequence begins with; these and the sequence |
| `hidden` | inside an adapter |
| `rank` | between the two matrices of a low-rank change (LoRA) |
| `gaps` | buckets of the time between items |
"""

from eqids.model.adapter import (
    LinearAdapter as LinearAdapter,
    MlpAdapter as MlpAdapter,
)
from eqids.model.attention import PrefixCache as PrefixCache
from eqids.model.eqids import Batch as Batch, EqIDs as EqIDs
from eqids.model.likelihood import ActiveClusters as ActiveClusters
from eqids.model.llama import Llama as Llama
from eqids.model.search import TopK as TopK
from eqids.model.softmax import HierarchicalSoftmax as HierarchicalSoftmax
