"""Encoded pictures from strangers: the header first, pixels only when the header is harmless."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image as Pillow
from PIL import ImageOps

from trivium.core.errors import DataError
from trivium.data.blank import blank

MAX_PIXELS = 64_000_000
"""Largest picture that is decoded: 192 MB of RGB. The header is checked before any pixel is unpacked."""
MAX_BYTES = 256 << 20
"""Largest encoded picture that is read at all."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
Encoded = bytes | io.BufferedReader | Path
"""A picture in memory, in a piece of a file, or as a file of its own."""
EXPECTED = "a whole JPEG, PNG, WebP or BMP picture"
TODO = "Remove that record or write its picture again."
REFUSALS = (
    OSError,  # UnidentifiedImageError is one
    ValueError,
    SyntaxError,
    EOFError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    struct.error,
    zlib.error,
    Pillow.DecompressionBombError,
)
"""All that Pillow's readers are known to raise on damaged files."""


def outline(data: Encoded, where: str) -> UInt8[np.ndarray, "_ _ 3"]:
    """Return a blank picture of the shape that `decode` would give; only the header is read.

    Raises:
        DataError: it is no picture, or one of more than 64 megapixels.
    """
    with _open(data, where) as image:
        width, height = image.size
        # Only JPEG keeps its orientation in the header; asking a PNG would decode it.
        if _turns(image) and _orientation(image) in (5, 6, 7, 8):
            width, height = height, width
    return blank(height, width)


def decode(data: Encoded, where: str) -> UInt8[np.ndarray, "_ _ 3"]:
    """Return the pixels, upright, RGB.

    Raises:
        DataError: it is no picture, a broken one, or one of more than 64 megapixels.
    """
    with _open(data, where) as image, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            upright = ImageOps.exif_transpose(image) if _turns(image) else image
            flat = upright.convert("RGBA") if "transparency" in upright.info else upright
            return np.asarray(flat.convert("RGB"))
        except REFUSALS as error:
            raise DataError(where, f"a picture that cannot be decoded ({error})", EXPECTED, TODO) from error


def below(root: Path, path: str) -> Path | None:
    """Return what `path` names if it is there and under `root`; neither '..', nor '/', nor a link leads out of it."""
    try:
        found = (root / path).resolve()
        return found if found.is_relative_to(root.resolve()) and (found.is_file() or found.is_dir()) else None
    except (OSError, ValueError, RuntimeError):  # a name too long, a zero byte, links in a circle
        return None


def picture_below(root: Path, path: str, where: str) -> Path:
    """Return the picture file that a record names.

    Raises:
        DataError: it leads out of `root`, is no regular file, or is larger than any picture.
    """
    file = below(root, path)
    if file is None or not file.is_file():
        raise DataError(where, f"a path {path!r} that is no file in {root}", EXPECTED, TODO)
    if (size := file.stat().st_size) > MAX_BYTES:
        raise DataError(where, f"a picture file of {size:,} bytes, above {MAX_BYTES:,}", EXPECTED, TODO)
    return file


def _open(data: Encoded, where: str) -> Pillow.Image:
    """Open a picture without decoding it, and refuse what is too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit is stricter than the one Pillow warns of
            image = Pillow.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)
    except REFUSALS as error:
        size = f"{len(data):,} bytes" if isinstance(data, bytes) else "bytes"
        raise DataError(where, f"{size} that are no picture ({type(error).__name__})", EXPECTED, TODO) from error
    if image.width * image.height > MAX_PIXELS:
        found = f"a picture of {image.width} x {image.height} pixels, above {MAX_PIXELS:,}"
        image.close()
        raise DataError(where, found, EXPECTED, TODO)
    return image


def _turns(image: Pillow.Image) -> bool:
    return image.format in ("JPEG", "MPO")  # phones write JPEGs with a second picture behind: Pillow calls them MPO


def _orientation(image: Pillow.Image) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return image.getexif().get(0x0112, 1)
    except REFUSALS:
        return 1
