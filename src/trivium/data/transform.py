"""Steps between a source and a layout; the same chain, mirrored, serves the robot."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from numpy.random import Generator
from PIL import Image as Pillow
from pydantic import Field

from trivium.core.config import Config
from trivium.core.errors import ConfigError, DataError
from trivium.core.sample import CIRCLE, LINE, Action, Image, Sample, Segment, State, Video
from trivium.core.schema import suggest
from trivium.data.blank import blank, is_blank
from trivium.data.chain import Chain, Transform, on_pixels
from trivium.data.circle import HALF, wrap
from trivium.data.column import ColumnStats, Stats
from trivium.data.jpeg import JpegConfig
from trivium.data.motion import Motion
from trivium.data.pad import PadConfig
from trivium.data.represent import RepresentConfig
from trivium.data.tile import TileConfig


class NormalizeConfig(Config):
    """Scale states and actions so that the range q01..q99 becomes [-1, 1], per robot and dimension."""

    kind: Literal["normalize"] = "normalize"
    circular: tuple[str, ...] = ()
    """Names of dimensions that are absolute angles on a circle, in radians within (-pi, pi]: pi becomes 1, whatever the
    quantiles, and errors of commands go the shorter way round. A joint with stops is none; a name that no robot has is
    refused."""

    def build(self, stats: Stats) -> "Normalize":
        """Make the step for the robots in `stats`.

        Raises:
            ConfigError: a circular dimension that no robot has, or one that leaves the circle.
        """
        return Normalize(stats, self.circular)


class Normalize(Transform):
    """Quantile normalisation, without clipping, so that `inverse` is exact.

    A dimension that never moved in the data becomes 0, and its inverse is the constant whatever a policy says:
    dividing by its range would blow noise up. `Sample.dims` names the dimensions of an action that lie on a circle.
    """

    numeric = False  # numbers change, words and pictures do not

    def __init__(self, stats: Stats, circular: Sequence[str] = ()) -> None:
        self._scales = {
            (robot, column): _scale(found, circular)
            for robot, columns in stats.items()
            for column, found in columns.items()
        }
        names = {robot: columns["action"].names for robot, columns in stats.items() if "action" in columns}
        self._dims = {
            robot: np.array([CIRCLE if name in circular else LINE for name in found], np.int8)
            for robot, found in names.items()
            if set(found) & set(circular)
        }
        known = {name for columns in stats.values() for found in columns.values() for name in found.names}
        for name in circular if stats else ():
            if name not in known:
                todo = suggest(name, sorted(known), "Take it out.")
                raise ConfigError("normalize.circular", repr(name), f"one of {', '.join(sorted(known))}", todo)

    def forward(self, sample: Sample, rng: Generator | None) -> Sample:
        """Scale states and actions."""

        def scaled(segment: Segment) -> Segment:
            if not isinstance(segment, State | Action):
                return segment
            column = "state" if isinstance(segment, State) else "action"
            return replace(segment, values=self._scaled(segment.values, sample.embodiment, column, sample.id))

        dims = self._dims.get(sample.embodiment, sample.dims)
        return replace(sample, segments=tuple(map(scaled, sample.segments)), dims=dims)

    def motion(self, motion: Motion) -> Motion:
        """Scale many states and actions."""
        robot, where = motion.embodiment, f"chunks of robot {motion.embodiment!r}"
        action = self._scaled(motion.action, robot, "action", where)
        return replace(motion, action=action, state=self._scaled(motion.state, robot, "state", where))

    def inverse(self, action: Float[np.ndarray, "k a"], observation: Sample) -> Float[np.ndarray, "k a"]:
        """Return the action in physical units."""
        center, half = self._scale_of(observation.embodiment, "action", "an action to be executed", action.shape[-1])
        physical = action * half + center
        dims = self._dims.get(observation.embodiment)
        if dims is not None:
            physical = np.where(dims == CIRCLE, wrap(physical), physical)
        return physical.astype(np.float32)

    def _scaled(self, values: np.ndarray, robot: str, column: str, where: str) -> np.ndarray:
        center, half = self._scale_of(robot, column, where, values.shape[-1])
        moving = half > 0
        return np.where(moving, (values - center) / np.where(moving, half, 1.0), 0.0).astype(np.float32)

    def _scale_of(self, robot: str, column: str, where: str, width: int) -> tuple[np.ndarray, np.ndarray]:
        if (robot, column) not in self._scales:
            known = ", ".join(f"{name} of {r!r}" for r, name in self._scales) or "none"
            raise DataError(
                where, f"{column} of robot {robot!r}", f"a robot with statistics ({known})", "Measure it first."
            )
        center, half = self._scales[robot, column]
        if len(center) != width:
            raise DataError(where, f"{column} with {width} dimensions", str(len(center)), "Use the same robot and set.")
        return center, half


class ResizeConfig(Config):
    """Bring every picture to the same square size."""

    kind: Literal["resize"] = "resize"
    size: int = Field(ge=8, le=4096)
    """Height and width in pixels: what the vision encoder takes (112 to 448)."""
    fit: Literal["pad", "stretch"] = "pad"
    """"pad" keeps the proportions and fills with black, "stretch" does not keep them."""

    def build(self, stats: Stats) -> "Resize":
        """Make the step."""
        return Resize(self)


class Resize(Transform):
    """Bilinear with antialiasing (Pillow), the same in training and serving."""

    pixels = True
    numeric = False

    def __init__(self, config: ResizeConfig) -> None:
        self.config = config

    def forward(self, sample: Sample, rng: Generator | None) -> Sample:
        """Resize every picture."""
        return on_pixels(sample, lambda pixels, view: self._resize(pixels))

    def _resize(self, pixels: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
        size, (height, width) = self.config.size, pixels.shape[:2]
        if (height, width) == (size, size):
            return pixels
        if is_blank(pixels):
            return blank(size, size)
        scale = size / max(height, width)
        inner = (size, size)
        if self.config.fit == "pad":
            inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        resized = np.asarray(Pillow.fromarray(pixels).resize((inner[1], inner[0]), Pillow.Resampling.BILINEAR))
        if inner == (size, size):
            return resized
        out = np.zeros((size, size, 3), np.uint8)
        top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
        out[top : top + inner[0], left : left + inner[1]] = resized
        return out


class RandomShiftConfig(Config):
    """Move pictures by a few pixels at random, in training only."""

    kind: Literal["random_shift"] = "random_shift"
    pixels: int = Field(ge=1)
    """Largest shift in either direction, 3 to 5 % of the picture as a rule; too much hides the object."""

    def build(self, stats: Stats) -> "RandomShift":
        """Make the step."""
        return RandomShift(self)


class RandomShift(Transform):
    """Pad by repeating the border, then crop (DrQ, https://arxiv.org/abs/2004.13649).

    All frames of one view move together, so a history keeps its motion.
    """

    pixels = True
    numeric = False
    draws = True

    def __init__(self, config: RandomShiftConfig) -> None:
        self.config = config

    def forward(self, sample: Sample, rng: Generator | None) -> Sample:
        """Shift every view by its own draw; without `rng` nothing moves."""
        if rng is None:
            return sample
        most = self.config.pixels
        moves: dict[str, tuple[int, int]] = {}

        def shifted(pixels: UInt8[np.ndarray, "h w 3"], view: str) -> UInt8[np.ndarray, "h w 3"]:
            if view not in moves:
                down, right = rng.integers(-most, most + 1, 2)
                moves[view] = (int(down), int(right))
            rows = np.clip(np.arange(pixels.shape[0]) + moves[view][0], 0, pixels.shape[0] - 1)
            columns = np.clip(np.arange(pixels.shape[1]) + moves[view][1], 0, pixels.shape[1] - 1)
            return pixels if is_blank(pixels) else pixels[rows[:, None], columns]

        return on_pixels(sample, shifted)


class SelectViewsConfig(Config):
    """Keep some cameras, under the names and in the order that the model knows."""

    kind: Literal["select_views"] = "select_views"
    views: dict[str, str]
    """Camera in the sample by name for the model, such as {"front": "corner2"}; pictures come first, in this order."""

    def build(self, stats: Stats) -> "SelectViews":
        """Make the step."""
        return SelectViews(self)


class SelectViews(Transform):
    """Choose, rename and order views; a sample without any robot view (a web picture) passes unchanged."""

    numeric = False

    def __init__(self, config: SelectViewsConfig) -> None:
        self.config = config

    def forward(self, sample: Sample, rng: Generator | None) -> Sample:
        """Return the sample with the chosen pictures first, then everything else in order."""
        if not sample.embodiment and not sample.of(State):
            return sample
        pictures = [segment for segment in sample.segments if isinstance(segment, Image | Video)]
        present = {picture.view for picture in pictures}
        for name, view in self.config.views.items():
            if view not in present:
                raise ConfigError(
                    f"select_views.views.{name}",
                    f"view {view!r}",
                    f"a view of sample {sample.id}: {', '.join(sorted(present)) or 'none'}",
                    "Add it to `views` of the source, or correct the name.",
                )
        chosen = [
            replace(picture, view=name)
            for name, view in self.config.views.items()
            for picture in pictures
            if picture.view == view
        ]
        others = [segment for segment in sample.segments if not isinstance(segment, Image | Video)]
        return replace(sample, segments=(*chosen, *others))


TransformConfig = Annotated[
    NormalizeConfig
    | PadConfig
    | ResizeConfig
    | RandomShiftConfig
    | SelectViewsConfig
    | RepresentConfig
    | JpegConfig
    | TileConfig,
    Field(discriminator="kind"),
]


@runtime_checkable
class StepConfig(Protocol):
    """The config of any step, of this file or of a higher floor."""

    def build(self, stats: Stats) -> Transform:
        """Make the step."""
        ...


def build_chain(configs: Sequence[StepConfig], stats: Stats) -> Chain:
    """Build the steps of a recipe in order.

    Raises:
        ConfigError: a step rewrites commands after they were normalised, or pads before.
    """
    normal = [isinstance(config, NormalizeConfig) for config in configs]
    for place, config in enumerate(configs):
        if isinstance(config, RepresentConfig) and any(normal[:place]):
            raise ConfigError(
                f"transforms.{place}",
                "represent behind normalize",
                "represent in front: states and actions are scaled apart, and their difference means nothing then",
                "Change the order.",
            )
        if isinstance(config, PadConfig) and any(normal[place:]):
            raise ConfigError(
                f"transforms.{place}",
                "pad in front of normalize",
                "pad behind it: the statistics are of the robot's own dimensions",
                "Change the order.",
            )
    return Chain([config.build(stats) for config in configs])


def front(configs: Sequence[StepConfig]) -> Chain:
    """Build the steps in front of the normalisation: what its statistics are measured behind."""
    normal = [isinstance(config, NormalizeConfig) for config in configs]
    return build_chain(configs[: normal.index(True) if any(normal) else len(configs)], {})


def _scale(stats: ColumnStats, circular: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return center and half range; a half range of 0 marks a dimension that never moved."""
    low, high = stats.range()
    center, half = (low + high) / 2, np.where(stats.moving(), (high - low) / 2, 0.0)
    for place, name in enumerate(stats.names):
        if name in circular:
            reach = max(abs(stats.min[place]), abs(stats.max[place]))
            if reach > HALF * (1 + 1e-6):
                raise ConfigError(
                    "normalize.circular",
                    f"{name!r}, which reaches {reach:.4g}",
                    "an angle in radians within (-pi, pi]",
                    "Leave it out, or bring it to radians.",
                )
            center[place], half[place] = 0.0, np.pi
    return center, half
