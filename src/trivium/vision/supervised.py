"""Classification: which of a list of classes a picture shows."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from trivium.core.batch import IGNORE, Batch, Kind
from trivium.core.config import Config
from trivium.core.errors import ConfigError, DataError
from trivium.core.objective import Loss, Losses, Objective
from trivium.core.sample import Sample
from trivium.core.schema import suggest
from trivium.data.row import Row
from trivium.vision.encoder import Encoder
from trivium.vision.layout import caption_of, pictures_of, row_of
from trivium.vision.objective import HasVision


class SupervisedConfig(Config):
    """Classification of pictures: the class of a sample is its caption, word for word."""

    kind: Literal["supervised"] = "supervised"
    classes: tuple[str, ...]
    """Names of the classes, two or more; a caption that is none of them is refused. A source of captions whose caption
    column holds the label yields such samples: `words=CaptionColumns(caption="label")`."""
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of certainty that the target gives to all classes alike (label smoothing), 0 to 0.2; 0.1 is usual for
    ImageNet. The loss then never falls to 0."""

    def build(self, model: HasVision) -> "SupervisedObjective":
        """Build around the encoder of `model`, with a fresh head.

        Raises:
            ConfigError: fewer than two classes, or one named twice.
        """
        twice = [name for i, name in enumerate(self.classes) if name in self.classes[:i]]
        if len(self.classes) < 2 or twice:
            raise ConfigError(
                "objective.classes",
                f"{twice[0]!r} twice" if twice else f"{len(self.classes)} classes",
                "two or more different names",
                "List every class once.",
            )
        return SupervisedObjective(self, model.vision)

    def layout(self, num_patches: int) -> "LabelLayout":
        """Build the layout; `num_patches` is the encoder's."""
        return LabelLayout(self.classes, num_patches)


class SupervisedObjective(Objective):
    """Cross entropy over the mean of all patches under a linear head; it starts near ln(number of classes)."""

    def __init__(self, config: SupervisedConfig, vision: Encoder) -> None:
        """Hold the encoder and build the head."""
        super().__init__()
        self.config = config
        self.vision = vision
        self.classify = nn.Linear(vision.width, len(config.classes))

    def counts(self, batch: Batch) -> dict[str, float]:
        """Count pictures."""
        assert batch.images is not None, "supervised: the batch has no pictures"
        return {"supervised": float(len(batch.images))}

    def forward(self, batch: Batch) -> Losses:
        """Compute the loss of one micro-batch."""
        counts = self.counts(batch)
        assert batch.images is not None, "supervised: the batch has no pictures"
        assert batch.tokens is not None, "supervised: the batch has no labels"
        assert batch.documents is not None, "supervised: the batch has no documents"
        scores = self.classify(self.vision(batch.images).mean(dim=1)).float()
        inside = batch.documents >= 0
        labels = batch.tokens[inside][batch.documents[inside].argsort()]  # one token and one picture a sample
        error = F.cross_entropy(scores, labels, label_smoothing=self.config.smoothing, reduction="sum")
        return Losses(supervised=Loss(error, counts["supervised"], group="supervised"))

    def fake_batch(self) -> Batch:
        """Make four pictures of different classes (as far as there are four), two to a row."""
        generator = torch.Generator().manual_seed(0)
        size = self.vision.image_size
        documents = torch.tensor([[0, 1, -1], [2, 3, -1]])
        inside = documents >= 0
        return Batch(
            tokens=documents.clamp(min=0) % len(self.config.classes),
            kinds=torch.where(inside, int(Kind.TEXT), int(Kind.PAD)),
            documents=documents,
            positions=torch.zeros_like(documents),
            targets=torch.full_like(documents, IGNORE),
            images=torch.randint(256, (4, 3, size, size), dtype=torch.uint8, generator=generator),
            images_document=torch.arange(4),
            ids=tuple(f"fake/{i}" for i in range(4)),
            token_counts={"fake/image": 4 * self.vision.num_patches, "fake/text": 4},
        )


class LabelLayout:
    """A sample is one picture and its class: a single token, the number of the class in the list."""

    numeric = False

    def __init__(self, classes: tuple[str, ...], num_patches: int) -> None:
        """Number the classes."""
        self.number = {name: i for i, name in enumerate(classes)}
        self.num_patches = num_patches

    def count(self, sample: Sample) -> Mapping[str, int]:
        """Return the cost, or nothing for a sample without a picture or without a caption.

        Raises:
            DataError: several pictures, or a caption that is no class.
        """
        if not pictures_of(sample) or not caption_of(sample):
            return {}
        self._label(sample)
        return {"image": self.num_patches, "text": 1}

    def build(self, sample: Sample) -> Row:
        """Return the row: the picture, and the number of its class."""
        return row_of(sample, self.count(sample), [self._label(sample)])

    def _label(self, sample: Sample) -> int:
        name = caption_of(sample)
        if name not in self.number:
            known = list(self.number)
            shown = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
            raise DataError(
                f"sample {sample.id}",
                f"the caption {name!r}",
                f"one of the {len(known)} names in objective.classes ({shown})",
                suggest(name, known, "Add it to objective.classes, or name the column of labels in CaptionColumns."),
            )
        return self.number[name]
