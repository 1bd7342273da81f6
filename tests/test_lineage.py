import json
from pathlib import Path

import pytest
import small_run

from trivium.core.errors import DataError
from trivium.data.bucket import BucketConfig
from trivium.data.source.text import TextConfig
from trivium.lineage import common, lineage, weights
from trivium.run import Run
from trivium.vision.pretrained import PretrainedVisionConfig
from trivium.weights import DINOV2


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("lineage")
    lines = [{"text": f"line {i}", "license": "cc-by-4.0" if i % 4 else "mit"} for i in range(40)]
    (place / "words.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = small_run.small_run(small_run.write_set(place / "set", 2))
    words = BucketConfig(name="words", source=TextConfig(path=str(place / "words.jsonl")), weight=1.0, max_epochs=1)
    (place / "alike.jsonl").write_text('{"text": "one", "license": "mit"}\n')
    alike = words.replace(name="alike", source=TextConfig(path=str(place / "alike.jsonl")))
    gone = words.replace(name="gone", source=TextConfig(path=str(place / "gone.jsonl")))
    last = run.stages[1]
    mixture = last.mixture.replace(buckets=(*last.mixture.buckets, words, alike, gone))
    return run.replace(stages=(run.stages[0], last.replace(mixture=mixture)))


def test_every_source_of_every_stage_is_there_with_its_share(config: Run) -> None:
    opened: list[str] = []

    def open_source(source):
        opened.append(source.path)
        return source.build()

    plans = {"vla": {"buckets": [{"bucket": "robot", "tokens": 30, "planned": 0.75}]}}
    found = lineage(config, plans, open_source)
    prior, vla = found["stages"]
    assert (prior["stage"], [row["bucket"] for row in prior["sources"]]) == ("prior", ["motion"])
    assert prior["sources"][0]["share"] is None, "a stage that was not planned"
    robot, words, alike, gone = vla["sources"]
    assert robot == {
        **{"bucket": "robot", "source": "set", "license": "MIT", "sample_licenses": {}, "looked_at": 24},
        **{"problem": "", "tokens": 30, "share": 0.75},
    }
    assert words["license"] == "unknown"
    assert words["sample_licenses"] == {"cc-by-4.0": 30, "mit": 10}
    assert (alike["license"], alike["sample_licenses"]) == ("mit", {})
    assert gone["license"] == "unknown"
    assert gone["problem"] == "DataError: could not be opened when this was written"
    assert len(opened) == 5, "equal sources are opened once"
    assert common(found) == "other"
    only = {"weights": [], "stages": [prior]}
    assert common(only) == "mit"
    assert common({**only, "weights": [{"license": "unknown"}]}) == "other"


def test_a_source_that_breaks_in_the_middle_is_said(config: Run) -> None:
    def open_source(source):
        raise DataError("a file", "half of it", "all of it", "Fetch it again.")

    rows = [row for stage in lineage(config, {}, open_source)["stages"] for row in stage["sources"]]
    assert {row["license"] for row in rows} == {"unknown"}


def test_terms_of_weights(config: Run, tmp_path: Path) -> None:
    def said(**files: str) -> str:
        for name, text in files.items():
            (tmp_path / name.replace("_", ".")).write_text(text)
        vision = PretrainedVisionConfig(path=str(tmp_path), num_layers=1, image_size=32)
        [found] = weights(config.model.replace(vision=vision))
        assert (found["part"], found["name"]) == ("vision", tmp_path.name)
        return found["license"]

    assert weights(config.model) == [], "nothing here was pretrained"
    assert said() == "unknown"
    assert said(README_md="# no front matter\n") == "unknown"
    assert said(README_md="---\nlicense: [a, b\n---\n") == "unknown"
    assert said(README_md="---\nlicense: gpl-3.0\ntags: [x]\n---\n# card\n") == "gpl-3.0"
    assert said(origin_json=json.dumps({"package": "other"})) == "gpl-3.0"
    assert said(origin_json="{") == "gpl-3.0"
    assert said(origin_json=json.dumps(DINOV2.origin)) == "apache-2.0"
