"""How a sample becomes a row in a vision stage: pictures, and what is said of them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trivium.core.batch import IGNORE, Kind
from trivium.core.errors import DataError
from trivium.core.sample import Image, Sample, Text
from trivium.data.row import Row


class VisionLayout:
    """A sample is one picture, or one clip, and for a contrastive loss its caption; a picture costs its patches."""

    numeric = False

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        num_patches: int,
        max_caption_tokens: int,
        captions: bool,
        frames: int = 1,
    ) -> None:
        """Remember how to encode and count.

        Args:
            encode: a caption to ids; must pickle.
            num_patches: what a sample costs.
            max_caption_tokens: captions are cut here.
            captions: whether a sample needs one.
            frames: pictures in a sample.
        """
        self.encode = encode
        self.num_patches = num_patches
        self.max_caption_tokens = max_caption_tokens
        self.captions = captions
        self.frames = frames

    def count(self, sample: Sample) -> Mapping[str, int]:
        """Return patches and caption tokens, or nothing for a sample without a picture (or the caption it needs).

        Raises:
            DataError: more pictures than asked for (which one the caption speaks of is not ours to guess), or a clip
                of another length or of several cameras.
        """
        pictures = pictures_of(sample, self.frames)
        tokens = self._tokens(sample)
        if not pictures or (self.captions and not tokens):
            return {}
        return {"image": self.num_patches, "text": len(tokens)} if tokens else {"image": self.num_patches}

    def build(self, sample: Sample) -> Row:
        """Return the row: the pictures, and the caption's tokens without targets (it is read, not predicted)."""
        return row_of(sample, self.count(sample), self._tokens(sample))

    def _tokens(self, sample: Sample) -> list[int]:
        if not self.captions:
            return []
        return self.encode(caption_of(sample))[: self.max_caption_tokens]


def caption_of(sample: Sample) -> str:
    """Join the captions of a sample."""
    return " ".join(segment.text for segment in sample.of(Text) if segment.role == "caption")


def pictures_of(sample: Sample, frames: int = 1) -> list[Image]:
    """Return the pictures of a sample in the order of their segments, which is that of time; none is allowed.

    Raises:
        DataError: their number is not `frames`, or a clip is of several cameras.
    """
    pictures: list[Image] = sample.of(Image)
    views = list(dict.fromkeys(picture.view for picture in pictures))
    found = f"{len(pictures)} pictures ({', '.join(picture.view for picture in pictures)})"
    if pictures and frames == 1 < len(pictures):
        raise DataError(
            f"sample {sample.id}",
            found,
            "one picture a sample in a vision stage",
            "Add SelectViews with one view to the transform of this mixture, or set objective.frames for clips.",
        )
    if pictures and (len(pictures) != frames or len(views) > 1):
        raise DataError(
            f"sample {sample.id}",
            found,
            f"{frames} pictures of one view, as objective.frames says",
            f"Give the source history={frames} and one view.",
        )
    return pictures


def row_of(sample: Sample, counts: Mapping[str, int], tokens: Sequence[int]) -> Row:
    """Return a row of pictures and of tokens on which no loss is taken."""
    return Row(
        sample_id=sample.id,
        length=sum(counts.values()),
        counts=counts,
        tokens=np.array(tokens, dtype=np.int64),
        kinds=np.full(len(tokens), int(Kind.TEXT), dtype=np.int64),
        targets=np.full(len(tokens), IGNORE, dtype=np.int64),
        images=[image.pixels for image in sample.of(Image)],
    )
