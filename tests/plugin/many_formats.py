"""A mixture of nine formats, all of them written from one set: what a run of many sources trains on."""

from pathlib import Path

import numpy as np
import write_formats

from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.detect import detect
from trivium.data.source.code import CodeConfig
from trivium.data.source.episode import EpisodeConfig, EpisodeSource
from trivium.data.source.recorded import RecordedConfig
from trivium.data.source.scene import prepare

ROBOTS = ("robomimic.hdf5", "buffer", "rlds")
OTHERS = ("shard.tar", "llava/train.json", "talk", "text.jsonl", "code.parquet")


def write_all(root: Path, source: EpisodeSource, episodes: int, words: int) -> Path:
    """Write the set in eight more formats; `words` is the number of captions, conversations and documents."""
    root.mkdir(parents=True)
    write_formats.write_robomimic(root / "robomimic.hdf5", source, episodes)
    write_formats.write_diffusion_policy(root / "buffer", source, episodes)
    write_formats.write_rlds(root / "rlds", source, episodes)
    pairs = write_formats.captions(source, words)
    write_formats.write_webdataset(root / "shard.tar", pairs)
    write_formats.write_llava(root / "llava", [(picture, "What is to be done?", text) for picture, text in pairs])
    write_formats.write_talk(root / "talk", source, max(2, episodes // 4))
    prepare(root / "talk")
    lines = "".join(f'{{"text": "To do: {text}. Step {j}."}}\n' for j, (_, text) in enumerate(pairs))
    (root / "text.jsonl").write_text(lines)
    files = [(f"lab/robot{j % 7}", f"task{j}.py", f"TASK = {text!r}\n" * 3) for j, (_, text) in enumerate(pairs)]
    write_formats.write_code(root / "code.parquet", files)
    return root


def mixture(root: Path, first: BucketConfig, robot: EpisodeSource, like: MixtureConfig) -> MixtureConfig:
    """Mix all sets with the bucket `first`; half of the tokens are robots', and each bucket gets its own share."""
    buckets = [first.replace(weight=0.2)]
    for name in (*ROBOTS, *OTHERS):
        config = detect(root / name)
        if isinstance(config, EpisodeConfig):
            assert isinstance(config, RecordedConfig)
            views = {"views": config.views[:1], "horizon": robot.config.horizon}
            config = config.replace(embodiment=robot.embodiment, fps=robot.fps, **views)
        if isinstance(config, CodeConfig):
            config = config.replace(
                max_chars=max(512, 2 * like.row_length)
            )  # about three characters a token, and some room
        bucket = BucketConfig(name=name.split("/")[0].replace(".", "_"), source=config, weight=0.1, max_epochs=1000)
        buckets.append(bucket.replace(val_share=0.0))
    return like.replace(buckets=tuple(buckets))


def check_tokens(plan: dict, metrics: list[dict]) -> dict[str, tuple[int, int]]:
    """Return planned and realised tokens by bucket."""
    realised: dict[str, int] = {}
    for line in metrics:
        for name, number in line["tokens"].items():
            bucket = name.rsplit("/", 1)[0]
            realised[bucket] = realised.get(bucket, 0) + number
    return {row["bucket"]: (row["tokens"], realised.get(row["bucket"], 0)) for row in plan["buckets"]}


def error_of_shares(plan: dict) -> float:
    """Return the largest distance between an asked and a planned share."""
    return float(np.max([abs(row["asked"] - row["planned"]) for row in plan["buckets"]]))
