"""Emu3.5: two stages of interleaved pre-training, more than half of it from video with its transcript."""

from trivium.data.preset.preset import Cite, Preset, rows, settings

TABLE = Cite("arXiv 2510.26583, section 3, Table 2")
NOTE = "The paper prints shares, no tokens by source; they are shares of tokens seen."

STAGE_1 = Preset(
    name="emu3.5-stage1",
    title="Emu3.5, stage 1: pre-training up to 512 x 512 (at most 1,024 visual tokens a picture)",
    unit="share",
    rows=rows(TABLE, {"text": 0.20, "image-text": 0.20, "video-text": 0.05, "video-interleaved": 0.55}),
    settings=settings(
        TABLE,
        {
            "tokens seen": "10.3 T (700,000 steps x 448 x 32,768 = 10.28 T)",
            "learning rate": "5e-4, cosine, warm-up 700 steps",
            "visual : text loss weight": "0.5 : 1.0",
            "gradient clip, weight decay": "5.0, 0.1",
        },
    ),
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
    settings=settings(
        TABLE,
        {
            "tokens seen": "3.5 T (240,000 steps x 448 x 32,768 = 3.52 T)",
            "learning rate": "1e-5, cosine, warm-up 700 steps",
            "visual : text loss weight": "0.5 : 1.0",
            "gradient clip, weight decay": "5.0, 0.1",
        },
    ),
    notes=(NOTE,),
)

PRESETS = (STAGE_1, STAGE_2)
