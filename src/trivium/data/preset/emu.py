"""Emu3.5: two stages of interleaved pre-training, more than half of it from video with its transcript."""

from dataclasses import dataclass

from trivium.data.preset.preset import Cite, Preset, Setting, rows, settings

TABLE = Cite("arXiv 2510.26583, section 3, Table 2")
NOTE = "The paper prints shares, no tokens by source; they are shares of tokens seen."


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast a stage learns, as published; a recipe takes the figures from here."""

    steps: int
    lr: float
    """Peak, behind a linear warm-up; a cosine follows."""
    rows: int = 448
    """Packed rows in a batch."""
    row_length: int = 32_768
    warmup_steps: int = 700
    visual_weight: float = 0.5
    """Of a visual token in the loss, where one of text has 1."""
    clip: float = 5.0
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)

    @property
    def tokens(self) -> int:
        """Tokens seen."""
        return self.steps * self.rows * self.row_length

    def settings(self, printed: str) -> tuple[Setting, ...]:
        """Return what `trivium data presets` shows; `printed` is the paper's own count of tokens."""
        count = f"{self.steps:,} steps x {self.rows} x {self.row_length:,} = {self.tokens / 1e12:.2f} T"
        lr = f"{self.lr:.0e}".replace("e-0", "e-")
        values = {
            "tokens seen": f"{printed} ({count})",
            "learning rate": f"{lr}, cosine, warm-up {self.warmup_steps} steps",
            "visual : text loss weight": f"{self.visual_weight} : 1.0",
            "gradient clip, weight decay": f"{self.clip}, {self.weight_decay}",
        }
        return settings(TABLE, values)


SCHEDULE_1 = Schedule(steps=700_000, lr=5e-4)
SCHEDULE_2 = Schedule(steps=240_000, lr=1e-5)

STAGE_1 = Preset(
    name="emu3.5-stage1",
    title="Emu3.5, stage 1: pre-training up to 512 x 512 (at most 1,024 visual tokens a picture)",
    unit="share",
    rows=rows(TABLE, {"text": 0.20, "image-text": 0.20, "video-text": 0.05, "video-interleaved": 0.55}),
    settings=SCHEDULE_1.settings("10.3 T"),
    notes=(NOTE, "any-to-image has a share of 0 in this stage."),
)

STAGE_2 = Preset(
    name="emu3.5-stage2",
    title="Emu3.5, stage 2: higher resolution, 512 to 1,024 squared (1,024 to 4,096 visual tokens)",
    unit="share",
    rows=rows(
        TABLE,
        {"text": 0.18, "image-text": 0.16, "video-text": 0.08, "any-to-image": 0.03, "video-interleaved": 0.55},
    ),
    settings=SCHEDULE_2.settings("3.5 T"),
    notes=(NOTE,),
)

PRESETS = (STAGE_1, STAGE_2)
