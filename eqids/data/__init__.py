"""Raw interactions to a dataset folder, and the folder to batches."""

from typing import TYPE_CHECKING

from eqids.io.lazy_names import lazy_names

if TYPE_CHECKING:
    from eqids.data.dataset import Dataset as Dataset
    from eqids.data.info import (
        ClustersInfo as ClustersInfo,
        Counts as Counts,
        DatasetInfo as DatasetInfo,
        Protocol as Protocol,
    )
    from eqids.data.read import open_dataset as open_dataset
    from eqids.data.write import write_dataset as write_dataset
else:
    _FILES = {
        "Dataset": "dataset",
        "ClustersInfo": "info",
        "Counts": "info",
        "DatasetInfo": "info",
        "Protocol": "info",
        "open_dataset": "read",
        "write_dataset": "write",
    }
    # Batches need neither pandas nor pyarrow.
    __getattr__ = lazy_names(__name__, _FILES)
