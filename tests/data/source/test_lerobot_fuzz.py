"""Damaged LeRobot sets: every file of every layout, a few thousand times each layout."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz import survive
from lerobot_sets import add_words, word, write_v2, write_v3

from trivium.data.source.lerobot import LeRobotConfig

SOME = "data/chunk-000/file-000.parquet"


def use(root: Path, language: tuple[str, ...] = ()) -> Callable[[], None]:
    config = LeRobotConfig(path=str(root), views=("eye",), horizon=2, language=language, cache_gb=0.001)

    def work() -> None:
        source = config.build()
        for i in (0, len(source) - 1):
            source.peek(i)
            source.read(i)

    return work


@pytest.mark.parametrize("camera", ["video", "image"])
def test_v2(tmp_path, camera):
    root = write_v2(tmp_path / "toy", lengths=(3, 2), camera=camera)
    names = {"data/chunk-000/episode_000001.parquet": 500}
    if camera == "video":
        names |= {"meta/info.json": 500, "meta/episodes.jsonl": 300, "meta/tasks.jsonl": 150}
        names |= {"videos/chunk-000/observation.images.eye/episode_000001.mp4": 600}
    for name, count in names.items():
        seen = survive(root / name, use(root), count)
        assert min(seen.values()) > 0, f"{name}: {seen}"


def test_v3_with_pictures_and_words_inside(tmp_path):
    root = write_v3(tmp_path / "toy", files=((2, 1),))
    lasting = [[word("reach", "subtask", timestamp=0.0), word("reach, grasp", "plan", timestamp=0.0)]] * 2 + [[]]
    add_words(root / SOME, lasting, [[], [word("which?", "vqa", "user", camera="observation.images.eye")], []])
    names = {"meta/info.json": 400, "meta/tasks.parquet": 250}
    names |= {"meta/episodes/chunk-000/file-000.parquet": 450, SOME: 900}
    for name, count in names.items():
        seen = survive(root / name, use(root, ("subtask", "plan", "vqa")), count)
        assert min(seen.values()) > 0, f"{name}: {seen}"
