import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

from trivium.core.errors import DataError
from trivium.core.sample import Image, Text
from trivium.data.blank import is_blank
from trivium.data.source import picture
from trivium.data.source.parquet import CaptionColumns, ImageTextConfig, QuestionColumns


def encoded(value: int, size: tuple[int, int] = (8, 6), kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    Pillow.new("RGB", size, (value, 0, 0)).save(out, kind, **options)
    return out.getvalue()


def write(path: Path, columns: dict, rows_per_group: int = 2) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=rows_per_group)
    return path


def broken(path: Path, **changes) -> str:
    with pytest.raises(DataError) as caught:
        ImageTextConfig(path=str(path), **changes).build().read(0)
    return str(caught.value)


def test_rows_in_any_order_over_files_and_row_groups(tmp_path):
    for f in range(2):
        images = [encoded(50 * f + j) for j in range(5)]
        captions = [f"picture {50 * f + j}" for j in range(5)]
        write(tmp_path / f"part-{f}.parquet", {"image": images, "caption": captions, "scene": [f] * 5})
    source = ImageTextConfig(path=str(tmp_path), group_column="scene", license="CC0-1.0").build()
    assert len(source) == 10
    assert source.groups().tolist() == [0] * 5 + [1] * 5
    for i in np.random.default_rng(0).permutation(10):
        sample = source.read(int(i))
        value = int(sample.of(Image)[0].pixels[0, 0, 0])
        assert value == (i if i < 5 else 45 + i)
        assert sample.of(Text)[0].text == f"picture {value}"
        assert sample.of(Text)[0].role == "caption"
        assert sample.license == "CC0-1.0"


def test_questions_with_answers_and_struct_images(tmp_path):
    (tmp_path / "b.png").write_bytes(encoded(9))
    images = [{"bytes": encoded(7), "path": None}, {"bytes": None, "path": "b.png"}]
    path = write(tmp_path / "qa.parquet", {"image": images, "question": ["what?", "where?"], "answer": ["red", "left"]})
    source = ImageTextConfig(path=str(path), words=QuestionColumns()).build()
    sample = source.read(1)
    assert [(text.role, text.text) for text in sample.of(Text)] == [("question", "where?"), ("answer", "left")]
    assert source.read(0).of(Image)[0].pixels[0, 0, 0] == 7
    assert sample.of(Image)[0].pixels[0, 0, 0] == 9


def test_peek_knows_the_shape_without_decoding(tmp_path):
    turned = Pillow.Exif()
    turned[0x0112] = 6
    images = [encoded(1, (8, 6)), encoded(1, (8, 6), "JPEG", exif=turned), encoded(1, (5, 9), "WEBP")]
    source = ImageTextConfig(path=str(write(tmp_path / "a.parquet", {"image": images, "caption": ["a"] * 3}))).build()
    for i, shape in enumerate([(6, 8, 3), (8, 6, 3), (9, 5, 3)]):
        peeked = source.peek(i).of(Image)[0].pixels
        assert is_blank(peeked)
        assert peeked.shape == source.read(i).of(Image)[0].pixels.shape == shape


def test_transparent_and_grey_pictures_become_rgb(tmp_path):
    out = io.BytesIO()
    palette = Pillow.new("P", (4, 4))
    palette.info["transparency"] = b"\x00"
    palette.save(out, "PNG", transparency=b"\x00\xff")
    grey = io.BytesIO()
    Pillow.new("L", (4, 4), 77).save(grey, "PNG")
    path = write(tmp_path / "a.parquet", {"image": [out.getvalue(), grey.getvalue()], "caption": ["a", "b"]})
    source = ImageTextConfig(path=str(path)).build()
    assert source.read(0).of(Image)[0].pixels.shape == (4, 4, 3)
    assert source.read(1).of(Image)[0].pixels[0, 0].tolist() == [77, 77, 77]


def test_bomb_is_refused_from_its_header(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", {"image": [encoded(1, (80, 60))], "caption": ["a"]})
    monkeypatch.setattr(picture, "MAX_PIXELS", 4000)
    assert f"{path}: row 0: found a picture of 80 x 60 pixels, above 4,000" in broken(path)
    # Pillow's own limits, which only warn up to twice, must neither let one through nor warn.
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 3000)
    assert "found a picture of 80 x 60 pixels" in broken(path)
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 300)
    assert "that are no picture (DecompressionBombError)" in broken(path)


def test_broken_pictures(tmp_path):
    path = tmp_path / "a.parquet"
    write(path, {"image": [b"GIF89a nothing"], "caption": ["a"]})
    assert f"{path}: row 0: found 14 bytes that are no picture" in broken(path)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    out = io.BytesIO()
    Pillow.fromarray(noise).save(out, "JPEG")
    write(path, {"image": [out.getvalue()[:1000]], "caption": ["a"]})
    assert "row 0: found a picture that cannot be decoded (image file is truncated" in broken(path)
    write(path, {"image": pa.array([None], pa.binary()), "caption": ["a"]})
    assert "row 0: found no picture" in broken(path)


def test_a_path_may_not_leave_the_folder(tmp_path):
    (tmp_path / "secret.png").write_bytes(encoded(1))
    (tmp_path / "set").mkdir()
    images = [{"bytes": None, "path": "../secret.png"}]
    path = write(tmp_path / "set/a.parquet", {"image": images, "caption": ["a"]})
    assert "row 0: found a path '../secret.png' that is no file in" in broken(path)


def test_wrong_columns(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": [encoded(1)], "caption": [""], "number": [3]})
    assert f"{path}: row 0: found an empty caption" in broken(path)
    assert "found no column 'question'; expected one of image, caption, number" in broken(path, words=QuestionColumns())
    assert "found no column 'picture'; expected encoded pictures in one of: image" in broken(
        path, image_column="picture"
    )
    assert "found column 'number' of type int64" in broken(path, image_column="number")
    words = CaptionColumns(caption="number")
    assert "column number: found type int64; expected strings" in broken(path, words=words)


def test_not_a_set(tmp_path):
    assert "found no such file or folder" in broken(tmp_path / "nowhere")
    assert "found a folder without .parquet files" in broken(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"nothing")
    assert "found a broken Parquet file" in broken(tmp_path)
