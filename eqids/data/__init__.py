"""Raw interactions to a dataset folder, and the folder to batches."""

import importlib
from typing import TYPE_CHECKING, Any

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

    def __getattr__(name: str) -> Any:
        """Imports a name on first use: batches need neither pandas nor pyarrow."""
        if name not in _FILES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"eqids.data.{_FILES[name]}"), name)
