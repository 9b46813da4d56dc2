"""Generated listeners: each follows the tracks of an album, and sometimes skips."""

import numpy as np
import pandas as pd

STYLES = ("ambient", "blues", "choral", "dub", "electro", "folk")
_START, _HOUR = 1_700_000_000, 3600


def listening(
    num_listeners: int = 300, num_tracks: int = 240, num_plays: int = 24, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns plays (listener, track, played_at) and tracks (track, name, style).

    An album has ten tracks. A listener plays the next track of an album with
    probability 0.8, and otherwise begins another album of a favourite style.
    """
    rng = np.random.default_rng(seed)
    track = np.arange(num_tracks)
    style = (track // 10) % len(STYLES)
    rows = []
    for listener in range(num_listeners):
        favourite = np.flatnonzero(style == rng.choice(np.unique(style)))
        now = rng.choice(favourite)
        for play in range(num_plays):
            rows.append((f"listener {listener}", now, _START + play * _HOUR))
            follows = rng.random() < 0.8 and (now + 1) % 10 and now + 1 < num_tracks
            now = now + 1 if follows else rng.choice(favourite)
    plays = pd.DataFrame(rows, columns=["listener", "track", "played_at"])
    styles = [STYLES[s] for s in style]
    names = [f"{s} album {t // 10}, track {t % 10}" for t, s in enumerate(styles)]
    return plays, pd.DataFrame({"track": track, "name": names, "style": styles})
