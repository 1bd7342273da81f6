"""What a set of a laboratory's own format most likely means: its state, action and cameras, by shape and usual name.

These formats do not say which of their arrays are which, nor at what rate they were recorded. A recipe has to; the
commands that only look at data take these guesses, and any setting written behind the path wins.
"""

from pathlib import Path

from trivium.data.source.hdf5 import Hdf5Config
from trivium.data.source.hdf5_read import attribute, child, members, open_file, rehearse
from trivium.data.source.rlds import RldsConfig
from trivium.data.source.rlds_meta import read_info
from trivium.data.source.zarr_array import open_array
from trivium.data.source.zarr_set import ZarrConfig
from trivium.data.source.zarr_store import Store

UNKNOWN = "unknown"
"""Embodiment of a robot that the set does not name."""
PICTURE_RANK = 4
"""Axes of an array of pictures: frame, height, width, channel."""


def guess_hdf5(path: Path) -> Hdf5Config | None:
    """Guess from the first demonstration of the first file: pictures by their four axes, all other arrays the state."""
    files = [path] if path.is_file() else sorted(path.glob("*.hdf5")) + sorted(path.glob("*.h5"))
    rehearse(files[:1], _look)
    ranks, upside_down = _look(files[0])
    state = tuple(key for key, rank in ranks.items() if rank == 2)
    if not state:
        return None
    views = tuple(key for key, rank in ranks.items() if rank == PICTURE_RANK)
    return Hdf5Config(
        path=str(path),
        views=views,
        horizon=1,
        state=state,
        action=("actions",),
        fps=20.0,  # robomimic's and LIBERO's control rate
        embodiment=UNKNOWN,
        flip="rows" if upside_down else "none",
    )


def _look(path: Path) -> tuple[dict[str, int], bool]:
    """Return the axes of each array of an observation, and whether pictures are stored upside down."""
    where = str(path)
    with open_file(path) as file:
        data = child(where, file, "data")
        demos = sorted(members(where, data))
        obs = child(where, data, f"{demos[0]}/obs") if demos else None
        ranks = {key: len(getattr(child(where, obs, key), "shape", ())) for key in members(where, obs)}
        return ranks, data is not None and attribute(where, data, "macros_image_convention") == "opengl"


def guess_zarr(path: Path) -> ZarrConfig | None:
    """Guess from the arrays of a ReplayBuffer: "action", pictures by their four axes, all other arrays the state."""
    store = Store(path)
    arrays = {key: open_array(store, f"data/{key}") for key in store.children("data")}
    ranks = {key: len(array.shape) for key, array in arrays.items() if array is not None}
    # Push-T has keypoints beside "state", which say the same again.
    state = ("state",) if ranks.get("state") == 2 else tuple(k for k, r in ranks.items() if r == 2 and k != "action")
    if not state or "action" not in ranks:
        return None
    views = tuple(key for key, rank in ranks.items() if rank == PICTURE_RANK)
    common = {"horizon": 1, "state": state, "action": ("action",), "fps": 10.0, "embodiment": UNKNOWN}
    return ZarrConfig(path=str(path), views=views, **common)


def guess_rlds(path: Path) -> RldsConfig | None:
    """Guess from features.json: numbers of the observation are the state, what begins with "action" the action."""
    features = read_info(path, "train").features
    numbers = {key: what for key, what in features.items() if what.kind == "tensor" and what.dtype.startswith("float")}
    state = tuple(key.removeprefix("observation/") for key in numbers if key.startswith("observation/"))
    action = tuple(key for key in numbers if key == "action" or key.startswith("action/"))
    if not state or not action:
        return None
    views = tuple(
        key.removeprefix("observation/")
        for key, what in features.items()
        if what.kind == "image" and key.startswith("observation/")
    )
    words = [key for key, what in features.items() if what.kind == "text" and "instruction" in key]
    return RldsConfig(
        path=str(path),
        views=views,
        horizon=1,
        state=state,
        action=action,
        fps=10.0,
        embodiment=UNKNOWN,
        instruction=words[0] if words else "",
    )
