"""A contact sheet: samples drawn side by side, so that a person sees in a minute what a set holds."""

import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from trivium.core.files import write_atomic
from trivium.core.sample import Action, Image, Sample, State, Text, Video

PICTURES = 4
"""Pictures drawn of one sample; more are counted in its title."""
LETTERS = 260
"""Letters drawn of one text."""
LINE_CHARS = 70
LINES = 12
"""Lines of words on one card."""


def draw_sheet(samples: Sequence[Sample], path: Path) -> None:
    """Draw samples as cards, three in a row: pictures, then words, then the chunk of actions; write a PNG."""
    columns = min(3, len(samples))
    rows = -(-len(samples) // columns)
    # Every card has the same bands, as high as the fullest card needs, in inches.
    bands = (
        2.6 * any(sample.of(Image) or sample.of(Video) for sample in samples),
        0.15 * max(len(_lines(sample)) for sample in samples) + 0.1,
        1.5 * any(sample.of(Action) for sample in samples),
    )
    figure = plt.figure(figsize=(4.6 * columns, (sum(bands) + 0.4) * rows), layout="constrained")
    for card, sample in zip(np.ravel(figure.subfigures(rows, columns, squeeze=False)), samples, strict=False):
        _card(card, sample, bands)
    buffer = BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    plt.close(figure)
    write_atomic(path, buffer.getvalue())


def _card(card: SubFigure, sample: Sample, bands: tuple[float, float, float]) -> None:
    pictures = [image.pixels for image in sample.of(Image)]
    pictures += [frame for video in sample.of(Video) for frame in video.frames]
    grid = card.add_gridspec(3, max(1, min(PICTURES, len(pictures))), height_ratios=[max(band, 0.01) for band in bands])
    card.suptitle(_title(sample, len(pictures)), fontsize=8, color="#444", family="monospace")
    for column, pixels in enumerate(pictures[:PICTURES]):
        axes = card.add_subplot(grid[0, column])
        axes.imshow(pixels)
        axes.set_axis_off()
    words = card.add_subplot(grid[1, :])
    words.set_axis_off()
    words.text(0, 1, "\n".join(_lines(sample)), fontsize=7.5, va="top", linespacing=1.3)
    for action in sample.of(Action)[:1]:
        _curves(card.add_subplot(grid[2, :]), action)


def _title(sample: Sample, num_pictures: int) -> str:
    more = f"  (+{num_pictures - PICTURES} pictures)" if num_pictures > PICTURES else ""
    name = sample.id if len(sample.id) < 48 else f"...{sample.id[-45:]}"
    return name + more


def _lines(sample: Sample) -> list[str]:
    lines: list[str] = []
    for text in sample.of(Text):
        shown = text.text if len(text.text) <= LETTERS else f"{text.text[:LETTERS]} ..."
        # A $ would start a formula.
        lines += textwrap.wrap(f"{text.role}: {shown}".replace("$", r"\$"), LINE_CHARS)
    for state in sample.of(State):
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in zip(state.names, state.values, strict=True))
        lines += textwrap.wrap(f"state: {numbers}", LINE_CHARS)[:3]
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], "..."]


def _curves(axes: Axes, action: Action) -> None:
    """One line a dimension over the steps of the chunk; steps past the end of the episode are shaded."""
    steps = np.arange(len(action.values))
    for name, values in zip(action.names, action.values.T, strict=True):
        axes.plot(steps, values, marker=".", markersize=3, linewidth=1, label=name)
    if not action.valid.all():
        axes.axvspan(int(action.valid.sum()) - 0.5, len(steps) - 0.5, color="#ddd", zorder=0)
    axes.tick_params(labelsize=6)
    axes.set_xlabel("steps ahead", fontsize=6.5)
    if len(action.names) <= 8:
        axes.legend(fontsize=5.5, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.32), frameon=False)
