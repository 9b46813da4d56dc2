"""Raw interactions to a dataset folder, and the folder to batches."""

from eqids.data.dataset import Dataset as Dataset
from eqids.data.info import (
    ClustersInfo as ClustersInfo,
    Counts as Counts,
    DatasetInfo as DatasetInfo,
    Protocol as Protocol,
)
from eqids.data.read import open_dataset as open_dataset
from eqids.data.write import write_dataset as write_dataset
