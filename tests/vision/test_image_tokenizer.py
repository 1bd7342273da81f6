"""Pictures as tokens: there and back, files, and what is refused."""

from pathlib import Path

import pytest
import torch

from trivium.core.errors import CheckpointError, ConfigError, DataError
from trivium.nn.codebook import VqConfig
from trivium.nn.fsq import FsqConfig
from trivium.vision.tokenizer import ImageNetConfig, ImageTokenizer, to_pixels, to_unit

NETWORK = ImageNetConfig(quantizer=VqConfig(size=32), width=32)


def pictures(number: int = 5, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (number, 3, side, side), dtype=torch.uint8, generator=generator)


def started(network: ImageNetConfig = NETWORK) -> ImageTokenizer:
    torch.manual_seed(0)
    tokenizer = network.build(32)
    tokenizer(pictures())
    return tokenizer


@pytest.mark.parametrize(
    ("network", "tokens", "size"),
    [
        (NETWORK, 16, 32),
        (NETWORK.replace(patch_size=4), 64, 32),
        (NETWORK.replace(patch_size=16, quantizer=VqConfig(size=32, num_levels=3)), 12, 32),
        (NETWORK.replace(patch_size=32, quantizer=FsqConfig(levels=(5, 4, 3))), 1, 60),
    ],
)
def test_pictures_become_as_many_ids_as_the_config_says_and_come_back(network: ImageNetConfig, tokens: int, size: int):
    tokenizer = started(network)
    ids = tokenizer.encode(pictures())
    assert ids.shape == (5, tokens)
    assert (tokenizer.tokens_per_image, network.num_tokens(32), tokenizer.vocab_size) == (tokens, tokens, size)
    assert 0 <= int(ids.min()) <= int(ids.max()) < size
    painted, quantised = tokenizer.eval()(pictures())
    assert torch.equal(ids, quantised.ids.flatten(1))
    assert (tokenizer.decode(ids).float() - to_pixels(painted)).abs().max() <= 0.5 + 1e-3
    assert tokenizer.decode(ids).dtype == torch.uint8


def test_every_sequence_of_ids_is_a_picture():
    tokenizer = started()
    ids = torch.randint(32, (300, 16))
    painted = tokenizer.decode(ids)
    assert painted.shape == (300, 3, 32, 32)
    assert torch.equal(painted[7:8], tokenizer.decode(ids[7:8]))
    assert tokenizer.decode(ids[:0]).shape == (0, 3, 32, 32)
    assert tokenizer.encode(painted[:0]).shape == (0, 16)


def test_looking_moves_no_code_whatever_the_mode():
    tokenizer = started().train()
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    tokenizer.decode(tokenizer.encode(pictures()))
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())


def test_pixels_survive_the_scaling():
    every = torch.arange(256, dtype=torch.uint8).repeat(3, 1)[None, :, None]
    assert torch.equal(to_pixels(to_unit(every)).round().to(torch.uint8), every)


def test_a_saved_tokenizer_is_the_same(tmp_path: Path):
    tokenizer = started()
    tokenizer.save(tmp_path / "pictures.safetensors")
    again = ImageTokenizer.load(tmp_path / "pictures.safetensors")
    assert (again.config, again.image_size) == (tokenizer.config, 32)
    assert torch.equal(again.encode(pictures()), tokenizer.encode(pictures()))
    ids = torch.randint(32, (3, 16))
    assert torch.equal(again.decode(ids), tokenizer.decode(ids))


def test_a_file_of_another_kind_is_refused(tmp_path: Path):
    path = tmp_path / "pictures.safetensors"
    with pytest.raises(CheckpointError, match=r"FileNotFoundError.*Save it again from the run that trained it"):
        ImageTokenizer.load(path)
    started().save(path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b'image_size\\": 32', b'image_size\\": -9'))
    with pytest.raises(CheckpointError, match="image_size -9"):
        ImageTokenizer.load(path)
    path.write_bytes(data.replace(b'width\\": 32', b'width\\": 96'))
    with pytest.raises(CheckpointError, match="weights that do not fit"):
        ImageTokenizer.load(path)


def test_what_does_not_fit_is_named():
    tokenizer = started()
    with pytest.raises(
        DataError, match=r"pictures of shape \(3, 32, 40\); expected \(3, 32, 32\).*Resize step .* to 32"
    ):
        tokenizer.encode(torch.zeros(1, 3, 32, 40, dtype=torch.uint8))
    with pytest.raises(DataError, match=r"image tokens: found 15 ids a picture; expected 16"):
        tokenizer.decode(torch.zeros(1, 15, dtype=torch.int64))
    with pytest.raises(DataError, match=r"image token: found 32; expected 0\.\.31"):
        tokenizer.decode(torch.full((1, 16), 32))
    with pytest.raises(DataError, match="image token: found -1"):
        tokenizer.decode(torch.full((1, 16), -1))
    with pytest.raises(ConfigError, match=r"patch_size: found 16; expected a divisor of 40"):
        NETWORK.replace(patch_size=16).build(40)
    for act in (lambda t: t.encode(pictures()), lambda t: t.decode(torch.zeros(1, 16, dtype=torch.int64))):
        with pytest.raises(CheckpointError, match="a codebook without codes; expected one that has been trained"):
            act(NETWORK.build(32))
