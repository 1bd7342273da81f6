"""StarCoder2: capacity-aware, small models get fewer sources."""

from trivium.data.bucket import SizeRange
from trivium.data.preset.preset import Cite, Preset, PresetRow, Setting, rows

TABLE = Cite("arXiv 2402.19173, Table 4")
PAPER = Cite("arXiv 2402.19173, data and training sections")
RECALLED = Cite("arXiv 2402.19173, training details", sure=False)
CARD = Cite("commit of the Hugging Face model card", sure=False)
FROM_7B, FROM_15B = 5_000_000_000, 11_000_000_000
"""Where the three sizes part: the paper says 3B, 7B and 15B; the borders between them are ours."""

_CODE = (
    PresetRow(
        name="the-stack-v2-train-smol",
        amount=525.5,
        cite=TABLE,
        when=SizeRange(below=FROM_15B),
        about="17 languages, documentation, configuration",
    ),
    PresetRow(
        name="the-stack-v2-train-full",
        amount=775.48,
        cite=TABLE,
        when=SizeRange(at_least=FROM_15B),
        about="619 languages",
    ),
)
_ALL = rows(
    TABLE,
    {
        "pull-requests": 19.54,
        "issues": 11.06,
        "jupyter-structured": 14.74,
        "jupyter-scripts": 16.29,
        "kaggle": 1.68,
        "documentation": 1.6,
        "stackoverflow": 10.26,
        "lhq": 5.78,
        "llvm-ir": 6.0,
    },
)
_LARGER = tuple(
    PresetRow(name=name, amount=amount, cite=TABLE, when=SizeRange(at_least=FROM_7B))
    for name, amount in {"openwebmath": 14.42, "wikipedia": 6.12, "arxiv": 30.26}.items()
)

ANY = Preset(
    name="starcoder2",
    title="StarCoder2, capacity-aware: the size of the model chooses the rows",
    unit="B tokens",
    rows=(*_CODE, *_ALL, *_LARGER),
    settings=(
        Setting(name="weights", value="natural (by tokens); only files of some formats downsampled", cite=PAPER),
        Setting(name="file order", value="repository name and paths in front with p = 0.5; files shuffled", cite=PAPER),
        Setting(name="fill in the middle", value="repository p = 0.5, then each file p = 0.5", cite=PAPER),
        Setting(name="context", value="4,096, then 16,384 for 200 B tokens more", cite=PAPER),
    ),
    notes=(
        f"Borders between sizes ({FROM_7B / 1e9:g} B and {FROM_15B / 1e9:g} B parameters) are ours.",
        "The sum holds two versions of the Stack, of which every size takes one.",
    ),
)


def _size(label: str, num_parameters: int, total: float, seen: tuple[Setting, ...], note: str) -> Preset:
    name, title = f"starcoder2-{label}", f"StarCoder2 {label.upper()}"
    sized = ANY.of_size(num_parameters, name, title, total, TABLE)
    return Preset(
        name=name,
        title=title,
        unit=ANY.unit,
        rows=tuple(PresetRow(name=r.name, amount=r.amount, cite=r.cite, about=r.about) for r in sized.rows),
        total=total,
        total_cite=TABLE,
        settings=(*ANY.settings, *seen),
        notes=(note,),
    )


PRESETS = (
    ANY,
    _size(
        "3b",
        3_000_000_000,
        622.09,
        (Setting(name="tokens seen (epochs)", value="3.1 T (4.98)", cite=CARD),),
        "The paper prints 622.09; its rows sum to 612.45. Shares here follow the rows.",
    ),
    _size(
        "7b",
        7_000_000_000,
        658.58,
        (Setting(name="tokens seen (epochs)", value="3.5 T (5.31)", cite=RECALLED),),
        "The paper prints 658.58; its rows sum to 663.25. Shares here follow the rows.",
    ),
    _size(
        "15b",
        15_000_000_000,
        913.23,
        (Setting(name="tokens seen (epochs)", value="4.1 T (4.49)", cite=RECALLED),),
        "The rows sum to what the paper prints.",
    ),
)
