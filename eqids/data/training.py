"""Which events are for training."""

import numpy as np
from jaxtyping import Bool, Int64, Integer


def in_training(
    offsets: Int64[np.ndarray, " user_plus_one"],
    train_length: Integer[np.ndarray, " user"],
) -> Bool[np.ndarray, " event"]:
    """Returns whether each event is for training.

    Args:
        offsets: where each history starts and ends.
        train_length: how many of the first events of each history are for training.
    """
    # Sums of bytes, because there may be more events than memory holds as integers.
    change = np.zeros(offsets[-1] + 1, np.int8)
    np.add.at(change, offsets[:-1], 1)
    np.subtract.at(change, offsets[:-1] + train_length, 1)
    return np.cumsum(change[:-1], dtype=np.int8).view(np.bool_)
