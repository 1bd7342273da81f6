"""How an encoder learns before it meets the language model: CLIP or SigLIP, and MAE, together or alone."""

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trivium.core.batch import IGNORE, Batch, Kind
from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.core.objective import Loss, Losses, Objective
from trivium.vision.contrastive import ContrastiveHead
from trivium.vision.encoder import Encoder, PatchEncoder
from trivium.vision.layout import VisionLayout
from trivium.vision.mae import MaeConfig, num_kept
from trivium.vision.video import SpaceTime


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
    """Pictures and captions (CLIP or SigLIP) and MAE on pixels, each with a weight; a weight of 0 leaves it out."""

    kind: Literal["vision"] = "vision"
    contrastive: float = 1.0
    """Weight of the contrastive loss; needs captions. CLIP's starts at ln(pictures in a batch), SigLIP's near 10."""
    loss: Literal["clip", "siglip"] = "clip"
    """How pictures and captions are compared: clip is a softmax over the batch, siglip a yes or no for each pair,
    which asks for smaller batches (https://arxiv.org/abs/2303.15343)."""
    mae: float = 1.0
    """Weight of the MAE loss; needs pictures alone. Its loss starts near 1."""
    projection_width: int = 256
    """Length of the vectors in which pictures and captions are compared."""
    max_caption_tokens: int = 64
    """Captions are cut here; longer ones cost time and rarely tell more about one picture."""
    chunk: int = Field(default=1024, ge=1)
    """Pictures in memory at once. A micro-batch of more is encoded chunk by chunk, a second time backwards (gradient
    cache, https://arxiv.org/abs/2101.06983): the same gradient in less memory, at a third more time. It is how a
    contrastive loss gets many negatives; accumulation gives it none."""
    frames: int = Field(default=1, ge=1)
    """Pictures in a sample: 1, or the `history` of a source whose clips are encoded in space and time."""
    tubelet: int = Field(default=1, ge=1)
    """Frames that one patch spans, a divisor of `frames`; 1 encodes every frame by itself, 2 is VideoMAE's."""
    decoder: MaeConfig = MaeConfig()
    """The painter of MAE; for clips a `mask_ratio` of 0.9 is usual."""

    def build(self, model: HasVision) -> "VisionObjective":
        """Build around the encoder of `model`; the text tower is frozen unless the stage says that it learns.

        Raises:
            ConfigError: both weights are 0, or one is negative; or the encoder cannot do what is asked.
        """
        if min(self.contrastive, self.mae) < 0 or self.contrastive + self.mae == 0:
            raise ConfigError(
                "objective.contrastive",
                f"weights {self.contrastive} (contrastive) and {self.mae} (mae)",
                "weights of 0 or more, not both 0",
                "Set at least one of them to 1.0.",
            )
        return VisionObjective(self, model.vision, model.language)

    def layout(self, num_patches: int, encode: Callable[[str], list[int]]) -> VisionLayout:
        """Build the layout; `num_patches` is the encoder's, `encode` turns a caption into ids (must pickle)."""
        cost = num_patches * self.frames // self.tubelet
        return VisionLayout(encode, cost, self.max_caption_tokens, captions=self.contrastive > 0, frames=self.frames)


class VisionObjective(Objective):
    """Both losses share one embedding of the patches; CLIP encodes all of them, MAE a quarter."""

    def __init__(self, config: VisionObjectiveConfig, vision: Encoder, language: TextTower) -> None:
        """Hold the shared parts and build the heads of the losses that have a weight."""
        super().__init__()
        self.config = config
        self.vision = vision
        self.space_time = SpaceTime(vision, config.frames, config.tubelet) if config.frames > 1 else None
        if config.contrastive:
            self.language = language
            self.contrast = ContrastiveHead(vision.width, language.width, config.projection_width, config.loss)
        if config.mae:
            self.decoder = config.decoder.build(vision, config.frames // config.tubelet, config.tubelet)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Count pictures (or clips) and hidden patches."""
        assert batch.images is not None, "vision: the batch has no pictures"
        clips = len(batch.images) // self.config.frames
        counts = {}
        if self.config.contrastive:
            counts["contrastive"] = float(clips)
        if self.config.mae:
            patches = self.vision.num_patches
            hidden = patches - num_kept(patches, self.config.decoder.mask_ratio)
            counts["mae"] = float(clips * self.decoder.steps * hidden)
        return counts

    def forward(self, batch: Batch) -> Losses:
        """Compute the losses of one micro-batch."""
        counts = self.counts(batch)
        seen, errors = self._look(batch)
        losses = Losses()
        if seen is not None:
            captions = self._captions(batch)
            pairs = self.contrast(seen, self._read(captions), captions)
            losses["contrastive"] = Loss(
                pairs.sum(), counts["contrastive"], group="contrastive", scale=self.config.contrastive
            )
        if errors is not None:
            losses["mae"] = Loss(errors.sum(), counts["mae"], group="mae", scale=self.config.mae)
        return losses

    def _look(self, batch: Batch) -> tuple[Float[Tensor, "c d"] | None, Float[Tensor, "m p"] | None]:
        """Return one vector a picture (or clip) and the errors of hidden patches, chunk by chunk if there are many."""
        assert batch.images is not None, "vision: the batch has no pictures"
        frames = self.config.frames
        noise = torch.rand(len(batch.images) // frames, self.vision.num_patches, device=batch.images.device)
        size = max(self.config.chunk // frames, 1)
        if len(noise) <= size:
            return self._see(batch.images, noise)
        self._refuse_batch_norm()
        parts = [
            checkpoint(self._see, *part, use_reentrant=False)
            for part in zip(batch.images.split(size * frames), noise.split(size), strict=True)
        ]
        seen, errors = zip(*parts, strict=True)
        return _joined(seen), _joined(errors)

    def _see(
        self, images: UInt8[Tensor, "n 3 h w"], noise: Float[Tensor, "c p"]
    ) -> tuple[Float[Tensor, "c d"] | None, Float[Tensor, "m p"] | None]:
        """Return what `_look` returns, of pictures that are in memory together."""
        vision = self.vision
        if not isinstance(vision, PatchEncoder):
            return vision(images).mean(dim=1), None
        tokens = self.space_time.embed(vision, images) if self.space_time else vision.embed(images)
        seen = errors = None
        if self.config.contrastive:
            seen = self._encode(tokens).mean(dim=1)
            seen = seen.unflatten(0, (len(noise), -1)).mean(1) if self.space_time else seen
        if self.config.mae:
            errors, hidden = self.decoder(self._encode, images, tokens, noise)
            errors = errors * hidden
        return seen, errors

    def _encode(self, tokens: Float[Tensor, "m q d"]) -> Float[Tensor, "m q d"]:
        assert isinstance(self.vision, PatchEncoder), "only patches can be encoded by halves"
        return self.space_time.encode(self.vision, tokens) if self.space_time else self.vision.encode(tokens)

    def _refuse_batch_norm(self) -> None:
        for name, module in self.vision.named_modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.training:
                raise ConfigError(
                    "objective.chunk",
                    f"{self.config.chunk}, less than a micro-batch, beside batch normalisation (vision.{name})",
                    "the whole micro-batch, whose statistics that layer takes",
                    "Raise chunk, or take norm='group' for model.vision.",
                )

    def _captions(self, batch: Batch) -> Int[Tensor, "c t"]:
        """Return the tokens of the caption of each picture or clip, one caption a row, -1 behind its end."""
        tokens, documents, positions = batch.tokens, batch.documents, batch.positions
        assert batch.images_document is not None, "vision: the batch has no pictures"
        assert tokens is not None, "vision: the batch has no captions"
        assert documents is not None, "vision: the batch has no documents"
        assert positions is not None, "vision: the batch has no positions"
        inside = documents >= 0
        # No longer than the longest: the packed rows are mostly the room that pictures paid for.
        owners = batch.images_document[:: self.config.frames]
        captions = torch.full((len(owners), int(positions.max()) + 1), -1, dtype=torch.int64, device=tokens.device)
        captions[documents[inside], positions[inside]] = tokens[inside]
        return captions[owners]

    def _read(self, captions: Int[Tensor, "c t"]) -> Float[Tensor, "c d"]:
        """Return the mean hidden vector of each caption."""
        chunk = self.config.chunk
        if len(captions) <= chunk:
            return self._hidden(captions)
        return torch.cat([checkpoint(self._hidden, part, use_reentrant=False) for part in captions.split(chunk)])

    def _hidden(self, captions: Int[Tensor, "c t"]) -> Float[Tensor, "c d"]:
        real = captions >= 0
        rows = torch.arange(len(captions), device=captions.device).unsqueeze(1).expand(captions.shape)
        columns = torch.arange(captions.shape[1], device=captions.device).expand(captions.shape)
        embedded = self.language.embed(captions.clamp(min=0))
        hidden = self.language(embedded, torch.where(real, rows, -1), columns) * real.unsqueeze(-1)
        return hidden.sum(dim=1) / real.sum(dim=1, keepdim=True)

    def fake_batch(self) -> Batch:
        """Make four pictures (or clips) with different captions, two to a row."""
        generator = torch.Generator().manual_seed(0)
        size, frames = self.vision.image_size, self.config.frames
        images = torch.randint(256, (4 * frames, 3, size, size), dtype=torch.uint8, generator=generator)
        documents = torch.tensor([[0, 0, 0, 1, 1, 1, -1, -1], [2, 2, 3, 3, -1, -1, -1, -1]])
        positions = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 0], [0, 1, 0, 1, 0, 0, 0, 0]])
        inside = documents >= 0
        cost = 4 * self.vision.num_patches * frames // self.config.tubelet
        return Batch(
            tokens=torch.randint(1, 100, (2, 8), generator=generator) * inside,
            kinds=torch.where(inside, int(Kind.TEXT), int(Kind.PAD)),
            documents=documents,
            positions=positions,
            targets=torch.full((2, 8), IGNORE),
            images=images,
            images_document=torch.arange(4).repeat_interleave(frames),
            ids=tuple(f"fake/{i}" for i in range(4)),
            token_counts={"fake/image": cost, "fake/text": int(inside.sum())},
        )


def _joined(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    return torch.cat([part for part in parts if part is not None]) if parts[0] is not None else None
