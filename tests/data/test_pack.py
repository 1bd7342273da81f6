import numpy as np
import pytest

from trivium.data.pack import OPEN_ROWS, Packer


def pack(
    lengths: np.ndarray, row_length: int, images: np.ndarray | None = None, max_images: int = 0
) -> list[list[int]]:
    packer = Packer(row_length, max_images, int(min(lengths)))
    pictures = np.zeros(len(lengths), int) if images is None else images
    items = zip(range(len(lengths)), lengths.tolist(), pictures.tolist(), strict=True)
    assert packer.add(items, len(lengths))
    packer.flush()
    flat, sizes = packer.take()
    return [part.tolist() for part in np.split(flat, np.cumsum(sizes)[:-1])]


def log_normal(number: int) -> np.ndarray:
    """Lengths with mean 409 and 99th percentile 1426, as vision-language samples have."""
    sigma = 0.6194
    draws = np.random.default_rng(0).lognormal(np.log(409) - sigma**2 / 2, sigma, number)
    return np.clip(draws.round(), 1, 4096).astype(np.int64)


def test_fixture_is_the_published_one():
    lengths = log_normal(100_000)
    assert abs(lengths.mean() - 409) < 5
    assert abs(np.quantile(lengths, 0.99) - 1426) < 20


def test_pack_conservation():
    lengths = log_normal(3000)
    rows = pack(lengths, 4096)
    assert sorted(item for row in rows for item in row) == list(range(3000))
    assert max(lengths[row].sum() for row in rows) <= 4096


@pytest.mark.parametrize(("row_length", "least"), [(4096, 0.985), (2048, 0.97)])
def test_pack_efficiency(row_length, least):
    lengths = np.minimum(log_normal(20_000), row_length)
    rows = pack(lengths, row_length)
    assert lengths.sum() / (len(rows) * row_length) >= least


def test_images_are_capped():
    rng = np.random.default_rng(1)
    lengths, images = rng.integers(10, 60, 2000), rng.integers(0, 4, 2000)
    rows = pack(lengths, 512, images, max_images=6)
    assert max(images[row].sum() for row in rows) == 6
    assert sorted(item for row in rows for item in row) == list(range(2000))


def test_best_fit_takes_the_fullest_row_that_has_room():
    assert pack(np.array([60, 50, 40, 50]), 100) == [[0, 2], [1, 3]]


def test_open_rows_are_bounded():
    packer = Packer(100, 0)
    packer.add(((j, 51 + j % 5, 0) for j in range(200)), 1000)
    assert len(packer.take()[1]) == 200 - OPEN_ROWS


def test_stops_at_the_last_row():
    packer = Packer(10, 0)
    assert packer.add([(0, 6, 0), (1, 6, 0), (2, 4, 0)], 2)
    assert not packer.add([(3, 5, 0), (4, 4, 0)], 2)
    packer.flush()
    flat, sizes = packer.take()
    assert sorted(flat.tolist()) == [0, 1, 2]
    assert sizes.sum() == 3
