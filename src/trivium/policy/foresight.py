"""How well a unified model foresees the next frame: its loss beside what needs no model, and pictures to look at."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from pydantic import BaseModel, ConfigDict

from trivium.action.model import given
from trivium.core.batch import Batch, Kind
from trivium.core.rng import numpy_rng
from trivium.core.sample import Sample, Text
from trivium.data.chain import Chain
from trivium.policy.unified import UnifiedObjective
from trivium.policy.unified_layout import UnifiedLayout
from trivium.policy.world import WorldModel, one_a_row

AT_ONCE = 16
"""Samples in one forward pass."""
DRAWS = 1000
FIRM = (1.0, 10.0, 100.0)
"""Pictures' worth of the whole histogram that every place of the picture is mixed with; the best of them counts."""


class Share(BaseModel):
    """A mean with the 95 % interval over resampled episodes."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float


class Shown(BaseModel):
    """One painted sample: a row of the picture file, which shows now, next, next as its ids paint it, foreseen."""

    model_config = ConfigDict(frozen=True)

    id: str
    instruction: str
    bits: float
    """A token of its next frame, true ids fed in."""
    right: float
    """Share of the ids that are right when the model writes the whole frame by itself."""
    copied: float
    """Share of the ids that the present frame has too."""


class Foresight(BaseModel):
    """The next frame of held-out samples under a model, and under three guesses that need none."""

    model_config = ConfigDict(frozen=True)

    stage: str
    samples: int
    episodes: int
    codes: int
    tokens: int
    """Ids in a frame."""
    bits: Share
    """Cross entropy of an id under the model, true ids before it fed in."""
    alone_bits: Share
    """The same of the present frames, which nothing precedes: what `bits` lies below it by is what the present frame
    and the actions tell of the next one. The rest a frame tells of itself."""
    histogram_bits: Share
    """Under how often training frames have each id: the unconditional entropy, as it is on frames never seen."""
    place_bits: Share
    """Under how often they have it at that place of the picture: all that a fixed camera gives away."""
    copy_bits: Share
    """Under a mixture of "as in the present frame" and the histogram of the place."""
    right: Share
    """Share of ids that are the model's likeliest, true ids before them fed in."""
    copied: Share
    """Share of ids that the present frame has at the same place."""
    right_where_moved: Share
    """Share of the others that are the model's likeliest; copying gets none of them."""
    shown: tuple[Shown, ...]
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Frames:
    """Ids of the present and the next frames of some samples, from 0, views side by side."""

    now: Int[np.ndarray, "m q"]
    later: Int[np.ndarray, "m q"]


def measure(
    stage: str,
    objective: UnifiedObjective,
    layout: UnifiedLayout,
    training: Sequence[Sample],
    heldout: Sequence[Sample],
    episodes: Int[np.ndarray, " m"],
    shown: int,
) -> tuple[Foresight, UInt8[np.ndarray, "y x 3"]]:
    """Score the next frames of transformed samples that all have one, and paint those of the first `shown`.

    Args:
        stage: named in the result.
        objective: in eval mode.
        layout: of the stage.
        training: what the guesses may count in.
        heldout: what is scored.
        episodes: of each held-out sample.
        shown: how many are painted.
    """
    counted, true = _frames(objective, layout, training), _frames(objective, layout, heldout)
    found = [_scores(objective, batch) for batch in _batches(layout, heldout)]
    nats, alone, best = (np.concatenate(parts) for parts in zip(*found, strict=True))
    codes, moved = len(objective.codes), true.now != true.later
    plain, place, copy = _guesses(counted, true, codes)

    def share(values: np.ndarray, weights: np.ndarray | None = None) -> Share:
        return _share(values, np.ones(values.shape) if weights is None else weights, episodes)

    painted, rows = _paint(objective, layout, heldout[:shown], true, nats)
    bits = math.log(2)
    report = Foresight(
        stage=stage,
        samples=len(heldout),
        episodes=len(np.unique(episodes)),
        codes=codes,
        tokens=layout.tokens_per_image,
        bits=share(nats / bits),
        alone_bits=share(alone / bits),
        histogram_bits=share(plain / bits),
        place_bits=share(place / bits),
        copy_bits=share(copy / bits),
        right=share(best == true.later),
        copied=share(~moved),
        right_where_moved=share((best == true.later) & moved, moved.astype(float)),
        shown=tuple(rows),
    )
    return report, painted


def _batches(layout: UnifiedLayout, samples: Sequence[Sample]) -> Iterator[Batch]:
    for start in range(0, len(samples), AT_ONCE):
        yield one_a_row([layout.build(sample) for sample in samples[start : start + AT_ONCE]])


def _frames(objective: UnifiedObjective, layout: UnifiedLayout, samples: Sequence[Sample]) -> Frames:
    """Return the ids of the pictures; of a history the last frame of each view is the present one."""
    device, size = objective.language.embedding.weight.device, layout.tokens_per_image
    now, later = [], []
    for batch in _batches(layout, samples):
        full = objective.fill(batch.to(device))
        for ids, kinds in zip(given(full.tokens, "tokens"), given(full.kinds, "kinds"), strict=True):
            code = (kinds == Kind.IMAGE) & (ids < objective.begin)
            acted = (kinds == Kind.ACTION).cumsum(0) > 0
            after = ids[code & acted] - objective.codes.start
            before = (ids[code & ~acted] - objective.codes.start).view(len(after) // size, -1, size)[:, -1]
            now.append(before.flatten().cpu().numpy())
            later.append(after.cpu().numpy())
    return Frames(np.stack(now), np.stack(later))


@torch.no_grad()
def _scores(objective: UnifiedObjective, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the nats of every id of the next frames and of those before them, and the likeliest ids of the next."""
    language, codes = objective.language, objective.codes
    full = objective.fill(batch.to(language.embedding.weight.device))
    tokens, targets = given(full.tokens, "tokens"), given(full.targets, "targets")
    documents, positions = given(full.documents, "documents"), given(full.positions, "positions")
    hidden = language(language.embed(tokens), documents, positions)
    head = language.embedding if language.head is None else language.head
    places = {name: chosen for name, _, chosen, _ in objective.parts(full)}
    nats, best = {}, {}
    for name in ("next_image", "image"):
        scores = F.linear(hidden[places[name]], head.weight[codes.start : codes.stop]).float()
        lost = F.cross_entropy(scores, targets[places[name]] - codes.start, reduction="none")
        nats[name] = lost.view(len(tokens), -1).double().cpu().numpy()
        best[name] = scores.argmax(-1).view(len(tokens), -1).cpu().numpy()
    return nats["next_image"], nats["image"], best["next_image"]


def _guesses(counted: Frames, true: Frames, codes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the nats of every true id under the three guesses.

    Where a guess has something to choose, the choice is the best one for the held-out frames: a reference may be
    flattered, the model is not.
    """
    number, width = counted.later.shape
    whole = (np.bincount(counted.later.ravel(), minlength=codes) + 1.0) / (counted.later.size + codes)
    plain = whole[true.later]
    at = np.zeros((width, codes))
    np.add.at(at, (np.arange(width), counted.later), 1.0)
    seen = np.take_along_axis(at.T, true.later, 0)
    places = [(seen + firm * plain) / (number + firm) for firm in FIRM]
    place = max(places, key=lambda chance: np.log(chance).mean())
    kept = true.now == true.later
    mixed = [share * kept + (1 - share) * place for share in np.linspace(0.0, 0.99, 100)]
    copy = max(mixed, key=lambda chance: np.log(chance).mean())
    return -np.log(plain), -np.log(place), -np.log(copy)


def _share(values: np.ndarray, weights: np.ndarray, episodes: np.ndarray) -> Share:
    """Return the weighted mean; episodes, not samples or ids, are what is drawn again."""
    owners = np.unique(episodes, return_inverse=True)[1]
    above, below = (np.bincount(owners, part.sum(1)) for part in ((values * weights), weights))
    drawn = numpy_rng(0, "foresight", len(above)).integers(0, len(above), (DRAWS, len(above)))
    means = above[drawn].sum(1) / np.maximum(below[drawn].sum(1), 1e-12)
    low, high = np.quantile(means, [0.025, 0.975])
    return Share(value=float(above.sum() / max(below.sum(), 1e-12)), low=float(low), high=float(high))


def _paint(
    objective: UnifiedObjective, layout: UnifiedLayout, samples: Sequence[Sample], true: Frames, nats: np.ndarray
) -> tuple[UInt8[np.ndarray, "y x 3"], list[Shown]]:
    """Paint the first view of some samples, a row each: now, next, next from its true ids, next as foreseen."""
    size, tokenizer = layout.tokens_per_image, objective.tokenizer
    foreseen = WorldModel(objective, Chain([]), layout).foresee_ids(samples)
    rows, shown = [], []
    for i, sample in enumerate(samples):
        now, later = true.now[i, :size], true.later[i, :size]
        pictures = layout.build(sample).images
        views = true.later.shape[1] // size
        seen = pictures[(len(pictures) - views) // views - 1], pictures[-views]
        ids = torch.stack([torch.from_numpy(later).to(foreseen.device), foreseen[i]])
        made = tokenizer.decode(ids).permute(0, 2, 3, 1).cpu().numpy()
        rows.append(np.concatenate([*seen, *made], 1))
        words = next((text.text for text in sample.of(Text)), "")
        right, copied = (float((guess == later).mean()) for guess in (foreseen[i].cpu().numpy(), now))
        shown.append(
            Shown(id=sample.id, instruction=words, bits=float(nats[i].mean() / math.log(2)), right=right, copied=copied)
        )
    return np.concatenate(rows), shown
