"""InternVL 2.5: connector, then encoder, then everything, with token budgets by size of model."""

from trivium.data.preset.preset import Cite, Preset, Setting, rows, settings

PAPER = Cite("arXiv 2412.05271, training recipes and data")
NOT_SPLIT = "The paper names the categories of this stage (captions, questions, maths, charts, OCR, knowledge, "
NOT_SPLIT += "grounding, documents, conversation, medical, GUI, video) and prints no shares: one row stands for all."
MODALITIES = {"single-image": 0.4592, "multi-image": 0.0937, "video": 0.3979, "text": 0.0492}
"""Shares of tokens of the fine-tuning set, 16.3 M samples."""

SIZES: dict[str, tuple[str, str, str, str, str, str]] = {
    # tokens of stage 1, of stage 1.5, of stage 2; learning rate of stage 2; weight decay; drop-path of the encoder
    "1b": ("191 B", "", "176 B (4 epochs)", "4e-5", "0.01", "0.1"),
    "2b": ("277 B", "", "176 B (4 epochs)", "4e-5", "0.01", "0.1"),
    "4b": ("164 B", "", "88 B (2 epochs)", "4e-5", "0.01", "0.1"),
    "8b": ("22 B", "76 B", "44 B (1 epoch)", "4e-5", "0.05", "0.1"),
    "26b": ("31 B", "146 B", "44 B (1 epoch)", "2e-5", "0.05", "0.4"),
    "38b": ("107 B", "", "44 B (1 epoch)", "2e-5", "0.05", "0.4"),
    "78b": ("76 B", "", "44 B (1 epoch)", "2e-5", "0.05", "0.4"),
}


def _stages(size: str) -> tuple[Preset, ...]:
    first, middle, last, lr, decay, drop = SIZES[size]
    common = {"context": "16,384 packed, at most 48 tiles a pack", "weight decay": decay}
    found = [_early(size, "1", "the connector alone", {"tokens seen": first, "learning rate": "2e-4"} | common)]
    if middle:
        values = {"tokens seen": middle, "learning rate": "1e-5", "packed batch": "1,024", "encoder drop-path": drop}
        found.append(_early(size, "1.5", "encoder and connector", values | common))
    values = {"tokens seen": last, "learning rate": lr, "packed batch": "512", "encoder drop-path": drop} | common
    found.append(
        Preset(
            name=f"internvl2.5-{size}-stage2",
            title=f"InternVL 2.5 {size.upper()}, stage 2: everything learns",
            unit="share",
            rows=rows(PAPER, MODALITIES),
            settings=(*settings(PAPER, values), Setting(name="repeat factors", value="0 to 4 a set", cite=PAPER)),
            notes=("Shares are of tokens, over all sets of the stage.",),
        )
    )
    return tuple(found)


def _early(size: str, stage: str, learns: str, values: dict[str, str]) -> Preset:
    return Preset(
        name=f"internvl2.5-{size}-stage{stage}",
        title=f"InternVL 2.5 {size.upper()}, stage {stage}: {learns}",
        unit="share",
        rows=rows(PAPER, {"pretrain": 1.0}),
        settings=settings(PAPER, values),
        notes=(NOT_SPLIT,),
    )


PRESETS = tuple(preset for size in SIZES for preset in _stages(size))
