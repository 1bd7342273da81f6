import io
from pathlib import Path

import numpy as np
import pytest
from fuzz import survive
from PIL import Image as Pillow

from trivium.core.errors import DataError
from trivium.data.source import picture
from trivium.data.source.picture import below, decode, outline, picture_below
from trivium.data.source.slices import Slices


def encoded(kind: str, turned: bool = False, **options) -> bytes:
    rng = np.random.default_rng(0)
    image = Pillow.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    if turned:
        options["exif"] = Pillow.Exif()
        options["exif"][0x0112] = 6
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_a_second_picture_behind_a_jpeg_changes_nothing():
    """Phones write such files (MPO), turned; Pillow calls them by another name."""
    second = Pillow.new("RGB", (8, 6))
    data = encoded("MPO", turned=True, save_all=True, append_images=[second])
    assert Pillow.open(io.BytesIO(data)).format == "MPO"
    assert outline(data, "here").shape == decode(data, "here").shape == (8, 6, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_from_memory_from_a_file_and_from_within_one(tmp_path, kind):
    data = encoded(kind)
    path = tmp_path / "x"
    path.write_bytes(b"before" + data + b"behind")
    slices = Slices([path])
    alone = tmp_path / "y"
    alone.write_bytes(data)
    first = decode(data, "here")
    assert np.array_equal(first, decode(slices.stream(0, 6, len(data)), "here"))
    assert np.array_equal(first, decode(alone, "here"))
    assert outline(slices.stream(0, 6, len(data)), "here").shape == outline(alone, "here").shape == (6, 8, 3)


def test_other_formats_are_refused():
    with pytest.raises(DataError, match=r"here: found .* bytes that are no picture"):
        decode(encoded("GIF"), "here")


def test_names_that_lead_out(tmp_path, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(encoded("PNG"))
    (root / "in.png").write_bytes(encoded("PNG"))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "circle").symlink_to(root / "circle")
    assert below(root, "./in.png") == below(root, "../root/in.png") == (root / "in.png").resolve()
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "circle", "gone.png", "a\0b", "x" * 400):
        assert below(root, name) is None, name
        with pytest.raises(DataError, match="that is no file in"):
            picture_below(root, name, "here")
    assert below(root, ".") == root.resolve()
    with pytest.raises(DataError, match="that is no file in"):
        picture_below(root, ".", "here")
    monkeypatch.setattr(picture, "MAX_BYTES", 10)
    with pytest.raises(DataError, match=r"here: found a picture file of \d+ bytes, above 10"):
        picture_below(root, "in.png", "here")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "MPO"])
def test_damaged_pictures(tmp_path: Path, kind):
    path = tmp_path / "x"
    path.write_bytes(encoded(kind, turned=kind in ("JPEG", "MPO")))

    def use() -> None:
        assert outline(path, "here").shape == decode(path, "here").shape

    seen = survive(path, use, 500)
    assert min(seen.values()) > 20, seen


def test_pieces_of_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr("trivium.data.source.slices.MAX_OPEN", 3)
    files = [tmp_path / f"{j}" for j in range(8)]
    for j, file in enumerate(files):
        file.write_bytes(bytes([j] * 10))
    slices = Slices(files)
    for j in np.random.default_rng(0).integers(0, 8, 50):
        assert slices.read(int(j), 2, 4) == bytes([j] * 4)
        assert len(slices._open) <= 3
    assert slices.some(1, 8, 10) == b"\1\1"
    with pytest.raises(DataError, match=f"{files[1]}: byte 8: found 2 bytes before the end of the file; expected 10"):
        slices.read(1, 8, 10)
    files[7].unlink()
    with pytest.raises(DataError, match="No such file"):
        Slices(files).size(7)
