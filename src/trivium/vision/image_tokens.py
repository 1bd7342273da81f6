"""How an image tokenizer learns: paint the same picture from its tokens, as a stage of a run."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from trivium.core.batch import Batch
from trivium.core.config import Config
from trivium.core.objective import Loss, Losses, Objective
from trivium.core.sample import Image, Sample
from trivium.data.row import Row
from trivium.nn.codebook import COMMITMENT
from trivium.vision.encoder import Encoder
from trivium.vision.objective import HasVision
from trivium.vision.tokenizer import ImageNetConfig, ImageTokenizer, to_pixels, to_unit


class ImageTokensConfig(Config):
    """Pictures as tokens that can be painted back; nothing of the model learns but the tokenizer."""

    kind: Literal["image_tokens"] = "image_tokens"
    network: ImageNetConfig = ImageNetConfig()
    """The tokenizer; for square pictures of the size that model.vision takes."""
    perceptual: float = Field(default=0.0, ge=0)
    """Weight of the distance between what model.vision (frozen) makes of both pictures, against that of their pixels;
    0.1-1 with a pretrained encoder, 0 leaves it out. Too high: right things in wrong colours."""

    def build(self, model: HasVision) -> "ImageTokensObjective":
        """Build a fresh tokenizer for pictures as the encoder of `model` takes them.

        Raises:
            ConfigError: the patch does not divide the picture, or a quantizer that does not work.
        """
        tokenizer = self.network.build(model.vision.image_size)
        return ImageTokensObjective(tokenizer, model.vision if self.perceptual else None, self.perceptual)

    def layout(self, image_size: int) -> "ImageTokensLayout":
        """Build the layout; `image_size` is the side of the pictures in pixels."""
        return ImageTokensLayout(self.network.num_tokens(image_size))


class ImageTokensObjective(Objective):
    """Losses "pixels" (absolute plus squared error in -1..1), "commitment" and "perceptual", each a group of its own.

    The absolute error keeps edges, the squared one small things that stand out (a gripper on an empty table): their
    sum costs nothing and needs no choice. The learned parameters stand under `tokenizer`.
    """

    def __init__(self, tokenizer: ImageTokenizer, encoder: Encoder | None, perceptual: float) -> None:
        """Hold the tokenizer; an encoder is looked through, never trained."""
        super().__init__()
        self.tokenizer, self.perceptual = tokenizer, perceptual
        # Not a submodule: no pattern of `learn` can reach it, and it is not saved twice.
        self._encoder = () if encoder is None else (encoder,)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Count pixels, vectors and the encoder's patches."""
        assert batch.images is not None, "image_tokens: the batch has no pictures"
        number = len(batch.images)
        rows, columns = self.tokenizer.grid
        counts = {"pixels": float(batch.images.numel()), "commitment": float(number * rows * columns)}
        for encoder in self._encoder:
            counts["perceptual"] = float(number * encoder.num_patches)
        return counts

    def forward(self, batch: Batch) -> Losses:
        """Paint the pictures of one micro-batch again and compare.

        Raises:
            DataError: pictures of another size than the tokenizer's.
        """
        counts, images = self.counts(batch), batch.images
        assert images is not None
        painted, quantised = self.tokenizer(images)
        error = painted - to_unit(images)
        losses = Losses(
            pixels=Loss((error.abs() + error.square()).sum(), counts["pixels"], group="pixels"),
            commitment=Loss(quantised.commitment.sum(), counts["commitment"], group="commitment", scale=COMMITMENT),
        )
        for encoder in self._encoder:
            apart = feature_distance(encoder, painted, images)
            losses["perceptual"] = Loss(apart.sum(), counts["perceptual"], group="perceptual", scale=self.perceptual)
        return losses

    def fake_batch(self) -> Batch:
        """Make four pictures of soft colours."""
        side = self.tokenizer.image_size
        generator = torch.Generator().manual_seed(0)
        slopes = torch.randn(4, 3, 2, generator=generator)
        ramp = torch.linspace(-2, 2, side)
        pictures = torch.sigmoid(slopes[..., :1, None] * ramp + slopes[..., 1:, None] * ramp[:, None])
        return Batch(
            images=(pictures * 255).to(torch.uint8),
            images_document=torch.arange(4),
            ids=tuple(f"fake/{i}" for i in range(4)),
            token_counts={"fake/image": 4 * self.tokenizer.tokens_per_image},
        )


def feature_distance(
    encoder: Encoder, painted: Float[Tensor, "n 3 h w"], images: UInt8[Tensor, "n 3 h w"]
) -> Float[Tensor, "n p"]:
    """Return how far the features of painted pictures (-1..1) lie from those of the true ones, patch by patch.

    The gradient reaches the painted pixels and none of the encoder's weights, whatever may learn elsewhere. Encoders
    name whole-number pixels as their input; they are handed numbers between those here, or there were no gradient.
    """
    encoder.eval()  # no drop path: both pictures are to be looked at in the same way
    with torch.no_grad():
        wanted = encoder(images).float()
    weights = {name: value.detach() for name, value in encoder.named_parameters()}
    seen = functional_call(encoder, weights, (to_pixels(painted),)).float()
    return (seen - wanted).square().mean(-1)


class ImageTokensLayout:
    """A sample is its pictures, one or several; each costs its tokens."""

    numeric = False

    def __init__(self, tokens_per_image: int) -> None:
        """Remember what a picture costs."""
        self.tokens_per_image = tokens_per_image

    def count(self, sample: Sample) -> Mapping[str, int]:
        """Return the tokens of all pictures, or nothing for a sample without any."""
        pictures = len(sample.of(Image))
        return {"image": pictures * self.tokens_per_image} if pictures else {}

    def build(self, sample: Sample) -> Row:
        """Return the row: the pictures alone."""
        counts = self.count(sample)
        images = [image.pixels for image in sample.of(Image)]
        return Row(sample_id=sample.id, length=sum(counts.values()), counts=counts, images=images)
