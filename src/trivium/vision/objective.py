"""How an encoder learns before it meets the language model: CLIP and MAE, together or alone."""

from collections.abc import Callable, Mapping
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trivium.core.batch import IGNORE, Batch, Kind
from trivium.core.config import Config
from trivium.core.errors import ConfigError, DataError
from trivium.core.objective import Loss, Losses, Objective
from trivium.core.sample import Image, Sample, Text
from trivium.data.row import Row
from trivium.vision.contrastive import ContrastiveHead
from trivium.vision.encoder import Encoder
from trivium.vision.mae import MaeConfig, num_kept


@runtime_checkable
class TextTower(Protocol):
    """What reads captions: the language model, handed in because vision may not know it."""

    width: int

    def embed(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        """Look tokens up."""
        ...

    def __call__(
        self, embeddings: Float[Tensor, "b t d"], documents: Int[Tensor, "b t"], positions: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b t d"]:
        """Run the layers; documents do not see one another."""
        ...


@runtime_checkable
class HasVision(Protocol):
    """Whatever carries the encoder and the reader of captions: the whole model, usually."""

    @property
    def vision(self) -> Encoder:
        """The encoder that learns."""
        ...

    @property
    def language(self) -> TextTower:
        """What reads captions."""
        ...


class VisionObjectiveConfig(Config):
    """CLIP on captions and MAE on pixels, each with a weight; a weight of 0 leaves that part out."""

    kind: Literal["vision"] = "vision"
    contrastive: float = 1.0
    """Weight of the CLIP loss; needs captions. Its loss starts at ln(pictures in a micro-batch)."""
    mae: float = 1.0
    """Weight of the MAE loss; needs pictures alone. Its loss starts near 1."""
    projection_width: int = 256
    """Length of the vectors in which pictures and captions are compared."""
    max_caption_tokens: int = 64
    """Captions are cut here; longer ones cost time and rarely tell more about one picture."""
    decoder: MaeConfig = MaeConfig()
    """The painter of MAE."""

    def build(self, model: HasVision) -> "VisionObjective":
        """Build around the encoder of `model`; the text tower is frozen unless the stage says that it learns.

        Raises:
            ConfigError: both weights are 0, or one is negative.
        """
        if min(self.contrastive, self.mae) < 0 or self.contrastive + self.mae == 0:
            raise ConfigError(
                "objective.contrastive",
                f"weights {self.contrastive} (contrastive) and {self.mae} (mae)",
                "weights of 0 or more, not both 0",
                "Set at least one of them to 1.0.",
            )
        return VisionObjective(self, model.vision, model.language)

    def layout(self, num_patches: int, encode: Callable[[str], list[int]]) -> "VisionLayout":
        """Build the layout; `num_patches` is the encoder's, `encode` turns a caption into ids (must pickle)."""
        return VisionLayout(encode, num_patches, self.max_caption_tokens, captions=self.contrastive > 0)


class VisionObjective(Objective):
    """Both losses share one embedding of the patches; CLIP encodes all of them, MAE a quarter."""

    def __init__(self, config: VisionObjectiveConfig, vision: Encoder, language: TextTower) -> None:
        """Hold the shared parts and build the heads of the losses that have a weight."""
        super().__init__()
        self.config = config
        self.vision = vision
        if config.contrastive:
            self.language = language
            self.contrast = ContrastiveHead(vision.width, language.width, config.projection_width)
        if config.mae:
            self.decoder = config.decoder.build(vision)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Count pictures and hidden patches."""
        assert batch.images is not None, "vision: the batch has no pictures"
        counts = {}
        if self.config.contrastive:
            counts["contrastive"] = float(len(batch.images))
        if self.config.mae:
            patches = self.vision.num_patches
            hidden = patches - num_kept(patches, self.config.decoder.mask_ratio)
            counts["mae"] = float(len(batch.images) * hidden)
        return counts

    def forward(self, batch: Batch) -> Losses:
        """Compute the losses of one micro-batch."""
        counts = self.counts(batch)
        assert batch.images is not None
        tokens = self.vision.embed(batch.images)
        losses = Losses()
        if self.config.contrastive:
            texts, same = self._read(batch)
            pairs = self.contrast(self.vision.encode(tokens).mean(dim=1), texts, same)
            losses["contrastive"] = Loss(
                pairs.sum(), counts["contrastive"], group="contrastive", scale=self.config.contrastive
            )
        if self.config.mae:
            errors, hidden = self.decoder(self.vision, batch.images, tokens)
            losses["mae"] = Loss((errors * hidden).sum(), counts["mae"], group="mae", scale=self.config.mae)
        return losses

    def _read(self, batch: Batch) -> tuple[Float[Tensor, "n d"], Bool[Tensor, "n n"]]:
        """Return, for each picture, the mean hidden vector of its caption, and which captions are equal."""
        tokens, documents, positions = batch.tokens, batch.documents, batch.positions
        assert batch.images_document is not None, "vision: the batch has no pictures"
        assert tokens is not None, "vision: the batch has no captions"
        assert documents is not None, "vision: the batch has no documents"
        assert positions is not None, "vision: the batch has no positions"
        inside = documents >= 0
        # One caption a row, no longer than the longest: the packed rows are mostly the room that pictures paid for.
        shape = (len(batch.images_document), int(positions.max()) + 1)
        place = (documents[inside], positions[inside])
        captions = torch.full(shape, -1, dtype=torch.int64, device=tokens.device)
        captions[place] = tokens[inside]
        captions = captions[batch.images_document]
        real = captions >= 0
        rows = torch.arange(shape[0], device=tokens.device).unsqueeze(1).expand(shape)
        columns = torch.arange(shape[1], device=tokens.device).expand(shape)
        embedded = self.language.embed(captions.clamp(min=0))
        hidden = self.language(embedded, torch.where(real, rows, -1), columns) * real.unsqueeze(-1)
        _, group = captions.unique(dim=0, return_inverse=True)
        mean = hidden.sum(dim=1) / real.sum(dim=1, keepdim=True)
        return mean, group.unsqueeze(0) == group.unsqueeze(1)

    def fake_batch(self) -> Batch:
        """Make four pictures with different captions, two to a row."""
        generator = torch.Generator().manual_seed(0)
        size = self.vision.image_size
        images = torch.randint(256, (4, 3, size, size), dtype=torch.uint8, generator=generator)
        documents = torch.tensor([[0, 0, 0, 1, 1, 1, -1, -1], [2, 2, 3, 3, -1, -1, -1, -1]])
        positions = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 0], [0, 1, 0, 1, 0, 0, 0, 0]])
        inside = documents >= 0
        return Batch(
            tokens=torch.randint(1, 100, (2, 8), generator=generator) * inside,
            kinds=torch.where(inside, int(Kind.TEXT), int(Kind.PAD)),
            documents=documents,
            positions=positions,
            targets=torch.full((2, 8), IGNORE),
            images=images,
            images_document=torch.arange(4),
            ids=tuple(f"fake/{i}" for i in range(4)),
            token_counts={"fake/image": 4 * self.vision.num_patches, "fake/text": int(inside.sum())},
        )


class VisionLayout:
    """A sample is one picture and, for CLIP, its caption; a picture costs its patches."""

    numeric = False

    def __init__(
        self, encode: Callable[[str], list[int]], num_patches: int, max_caption_tokens: int, captions: bool
    ) -> None:
        """Remember how to encode; `captions` says whether a sample needs one."""
        self.encode = encode
        self.num_patches = num_patches
        self.max_caption_tokens = max_caption_tokens
        self.captions = captions

    def count(self, sample: Sample) -> Mapping[str, int]:
        """Return patches and caption tokens, or nothing for a sample without a picture (or the caption it needs).

        Raises:
            DataError: several pictures; which one the caption speaks of is not ours to guess.
        """
        images = sample.of(Image)
        if len(images) > 1:
            raise DataError(
                f"sample {sample.id}",
                f"{len(images)} pictures ({', '.join(image.view for image in images)})",
                "one picture a sample in a vision stage",
                "Add SelectViews with one view to the transform of this mixture.",
            )
        tokens = self._tokens(sample)
        if not images or (self.captions and not tokens):
            return {}
        return {"image": self.num_patches, "text": len(tokens)} if tokens else {"image": self.num_patches}

    def build(self, sample: Sample) -> Row:
        """Return the row: the picture, and the caption's tokens without targets (CLIP reads, it does not predict)."""
        counts = self.count(sample)
        tokens = np.array(self._tokens(sample), dtype=np.int64)
        return Row(
            sample_id=sample.id,
            length=sum(counts.values()),
            counts=counts,
            tokens=tokens,
            kinds=np.full(len(tokens), int(Kind.TEXT), dtype=np.int64),
            targets=np.full(len(tokens), IGNORE, dtype=np.int64),
            images=[image.pixels for image in sample.of(Image)],
        )

    def _tokens(self, sample: Sample) -> list[int]:
        if not self.captions:
            return []
        text = " ".join(segment.text for segment in sample.of(Text) if segment.role == "caption")
        return self.encode(text)[: self.max_caption_tokens]
