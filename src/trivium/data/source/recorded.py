"""What sets of episodes kept as plain arrays share: which arrays to read, and how they become numbers and pictures."""

import importlib
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image as Pillow
from PIL import UnidentifiedImageError
from pydantic import Field

from trivium.core.errors import DataError, SetupError
from trivium.data.source.episode import EpisodeConfig

MAX_PIXELS = 64_000_000
"""Largest picture that is decoded or allocated: 192 MB of RGB."""
MAX_NUMBERS = 1 << 30
"""Most numbers in one array of states or actions: 4 GB, or 100 M frames of 10 dimensions."""


class RecordedConfig(EpisodeConfig):
    """Episodes whose format names neither the robot nor which of its arrays are state and action."""

    state: tuple[str, ...] = Field(min_length=1)
    """Arrays of the observation that make the state, joined in this order: ("robot0_eef_pos", "robot0_gripper_qpos").
    A wrong name is answered with those that the set has."""
    action: tuple[str, ...] = Field(min_length=1)
    """Arrays of the step that make the action, joined in this order: ("actions",), or RLDS's ("action/world_vector",
    "action/rotation_delta")."""
    fps: float = Field(gt=0, le=1000)
    """Frames a second, which the format does not store: 5 to 50 as a rule. Times and resampling are wrong with it."""
    embodiment: str = Field(min_length=1)
    """Name of the robot, the same in all sets of it: statistics are kept by this name."""
    license: str = "unknown"
    """Licence of the set, where its own files name none."""
    cache_gb: float = Field(default=0.5, gt=0)
    """Decoded pictures that each process keeps, in GB: the memory is this times the workers."""


def library(name: str, purpose: str) -> Any:
    """Import a package that only some sets need.

    Raises:
        SetupError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SetupError(
            purpose, f"no package {name} ({error})", "it to be installed", "Install trivium[formats]."
        ) from error


def lacking(where: str, key: str, there: Sequence[str], field: str) -> DataError:
    """Build the error for an array that a set does not have."""
    return DataError(where, f"no {key!r}", f"one of {', '.join(sorted(there)) or 'none'}", f"Change `{field}`.")


def dimension_names(sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Name the dimensions of joined arrays: "pos.0", "pos.1", "gripper"; an array of one is called by its name."""
    return tuple(key if size == 1 else f"{key}.{j}" for key, size in sizes.items() for j in range(size))


def check_numbers(where: str, dtype: np.dtype, shape: Sequence[int]) -> int:
    """Check an array of numbers, one row a frame, before memory is taken for it; return the size of a row.

    Raises:
        DataError: it has no rows, holds no numbers, or declares more than any set of episodes has.
    """
    if dtype.kind not in "fiub":
        raise DataError(where, f"dtype {dtype}", "numbers; objects are never read", "Choose another array.")
    if not shape or math.prod(shape) > MAX_NUMBERS:
        found = f"shape {tuple(shape)}"
        raise DataError(where, found, f"one row a frame, at most {MAX_NUMBERS:,} numbers", "Choose another array.")
    size = math.prod(shape[1:])
    if not 1 <= size <= 4096:
        raise DataError(where, f"{size} numbers a frame", "1 to 4096", "Choose another array: is this a picture?")
    return size


def join(arrays: Sequence[np.ndarray]) -> Float32[np.ndarray, "n d"]:
    """Lay arrays of n rows side by side; what float32 cannot hold becomes infinite and is refused with its frame."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.concatenate([array.reshape(len(array), -1).astype(np.float32) for array in arrays], axis=1)


def picture_size(where: str, dtype: np.dtype, shape: Sequence[int]) -> tuple[int, int]:
    """Return height and width of pictures stored as [n, h, w, 3] or [n, 3, h, w].

    Raises:
        DataError: they are no RGB pictures, or too large.
    """
    if dtype.kind not in "uf" or (dtype.kind == "u" and dtype.itemsize != 1):
        raise DataError(where, f"dtype {dtype}", "pictures of uint8, or of floats from 0 to 255", "Change `views`.")
    if len(shape) != 4 or 3 not in (shape[3], shape[1]):
        raise DataError(where, f"shape {tuple(shape)}", "RGB pictures: [n, h, w, 3] or [n, 3, h, w]", "Change `views`.")
    height, width = shape[1:3] if shape[3] == 3 else shape[2:4]
    if not 0 < height * width <= MAX_PIXELS:
        found = f"pictures of {width} x {height} pixels"
        raise DataError(where, found, f"1 to {MAX_PIXELS:,} pixels", "Copy the set again.")
    return height, width


def to_picture(where: str, stored: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Turn one stored picture, [h, w, 3] or [3, h, w], into RGB bytes of its own.

    Raises:
        DataError: its floats are no grey levels.
    """
    pixels = stored if stored.shape[2] == 3 else stored.transpose(1, 2, 0)
    if pixels.dtype.kind == "f":
        # Floats from 0 to 1 would pass for black: only whole levels are certain (Diffusion Policy's Push-T has them).
        whole = np.isfinite(pixels).all() and (pixels == np.round(pixels)).all()
        if not whole or pixels.min() < 0 or pixels.max() > 255:
            raise DataError(
                where, "floats that are no whole numbers from 0 to 255", "grey levels", "Store the set as uint8."
            )
    pixels = np.array(pixels, np.uint8, order="C")
    pixels.flags.writeable = False
    return pixels


def open_picture(where: str, data: bytes) -> Pillow.Image:
    """Open an encoded picture without decoding it.

    Raises:
        DataError: it is no JPEG or PNG, too large, or not of 8 bits a channel.
    """
    expected, todo = "a whole JPEG or PNG picture", "Copy that file again, or record the episode again."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)  # our own limit is stricter
            image = Pillow.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    except (UnidentifiedImageError, Pillow.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        found = f"{len(data):,} bytes that are no picture ({type(error).__name__})"
        raise DataError(where, found, expected, todo) from error
    if image.width * image.height > MAX_PIXELS:
        found = f"a picture of {image.width} x {image.height} pixels, above {MAX_PIXELS:,}"
        raise DataError(where, found, expected, todo)
    if image.mode not in ("RGB", "L"):
        raise DataError(where, f"a picture of mode {image.mode}", "RGB or grey, 8 bits a channel", "Change `views`.")
    return image


def decode_picture(where: str, data: bytes, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a picture that must have a certain height and width.

    Raises:
        DataError: it cannot be decoded or has another size.
    """
    with open_picture(where, data) as image:
        if (image.height, image.width) != size:
            found = f"a picture of {image.width} x {image.height} pixels"
            raise DataError(where, found, f"{size[1]} x {size[0]}, as the set says", "Write the set again.")
        try:
            pixels = np.array(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            found = f"a picture that cannot be decoded ({error})"
            todo = "Copy that file again, or record the episode again."
            raise DataError(where, found, "a whole JPEG or PNG picture", todo) from error
    pixels.flags.writeable = False
    return pixels
