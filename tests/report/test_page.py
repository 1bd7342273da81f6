"""The page: whole, self-contained, honest about what is missing, and safe with strange text."""

import json
import re

import pytest

from trivium.core.errors import CheckpointError
from trivium.report.page import count, minutes, pick_clips, write_report
from trivium.report.run_folder import read_run


def _page(run):
    return write_report(run).read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory, make_fake_run):
    """One whole page for the tests that only read it."""
    return _page(
        make_fake_run(
            tmp_path_factory.mktemp("report") / "run", stages=("language", "everything"), num_clips=1, num_strips=2
        )
    )


def test_page_says_everything(page):
    for words in (
        "<h1>quickstart</h1>",
        "learns language.layers.0-3",
        "frozen: 61M",
        "longer than a row (1024 tokens)",
        "3.1% of the planned rows is padding",
        "1 step skipped so far in the run",
        "aligned beats random-init on object position by 0.21",
        "17/20",
        "67% to 100%",
        "drawer-open-v3, everything",
        "open the drawer",
        "torch",
        "2.13.0+cpu",
        "15 samples could not be used",
    ):
        assert words in page, words
    assert "Missing or left out" not in page
    assert re.search(r"text 4\.\d+ &rarr; 2\.\d+ bits a token", page)  # 3.1 and 1.7 nats


def test_page_needs_no_network(page):
    outside = re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*|url\([^)]*\)|@import|<script|<link""", page)
    assert outside == []
    assert page.count("data:image/gif;base64,") == 6
    assert len(page) < 8_000_000


def test_text_of_the_data_stays_text(page):
    assert "&lt;slowly&gt; &amp; fully" in page
    assert "<slowly>" not in page
    assert "a &lt;b&gt;tag&lt;/b&gt;" in page


def test_page_fits_a_phone(page):
    """No fixed width can push the page wider than a phone: pictures shrink, tables and configs scroll by themselves."""
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert page.count("<table") == page.count('<div class="scroll"><table')
    assert re.search(r"figure img \{[^}]*width: 100%", page)
    assert re.search(r"pre \{[^}]*overflow-x: auto", page)


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"found no config.yaml in it; expected a run folder. Name a folder that"):
        write_report(tmp_path)
    with pytest.raises(CheckpointError, match="found no such folder"):
        write_report(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "reason"), [("name: [", "while parsing"), ("name: x\nstages: 3\n", "stages: ")])
def test_broken_config_is_refused(tmp_path, text, reason):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(
        CheckpointError, match=rf"config.yaml: found .*{reason}.*; expected the resolved config of a run"
    ):
        write_report(tmp_path)


def test_run_that_has_only_begun_gives_a_page(fake_run):
    run = fake_run(num_clips=0)
    for name in ("metrics.jsonl", "times.json", "environment.json"):
        (run / name).unlink()
    for folder in ("plan", "health", "eval", "samples"):
        for file in (run / folder).iterdir():
            file.unlink()
    page = _page(run)
    for words in (
        "metrics.jsonl is not there: nothing has been trained yet",
        "plan/everything.json is not there: that stage has not been planned yet",
        "No health check at the end of joint, everything.",
        "No closed-loop results",
        "times.json is not there: how long each part took is not known.",
        "environment.json is not there",
        "samples/samples.json is not there: no aligned samples to look at.",
        "This stage has not begun.",
        "0 of 150 steps",
        "Not known: no stage has been planned yet.",
    ):
        assert words in page, words


def test_broken_files_are_named_and_the_rest_still_shown(fake_run):
    run = fake_run(num_clips=1, clip_frames=2)
    (run / "plan/everything.json").write_text('{"buckets": [{"bucket": 3}]}')
    (run / "health/joint.json").write_text("{")
    (run / "eval/untrained.json").write_text('{"tasks": 1}')
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "everything", "step": 6')
    page = _page(run)
    assert "plan/everything.json cannot be read (buckets.0.bucket: Input should be a valid string)" in page
    assert "health/joint.json cannot be read (Invalid JSON" in page
    assert "eval/untrained.json cannot be read (tasks: Input should be a valid array)" in page
    assert "metrics.jsonl: 1 lines cannot be read (the first is line 751)" in page
    assert "No rollouts of the untrained network: success stands without its control." in page
    assert "17/20" in page


def test_bad_records_are_counted_by_reason(fake_run):
    run = fake_run()
    assert "every sample that was called for could be used" in _page(run)
    line = {"stage": "joint", "bucket": "captions", "where": "a.parquet: row 7", "kind": "no picture <#>", "short": {}}
    lines = [json.dumps(line | {"id": f"web/{i}", "short": {"text": 3} if i == 2 else {}}) for i in range(5)]
    (run / "quarantine.jsonl").write_text("\n".join([*lines, '{"stage": 1}', '{"torn']))
    page = _page(run)
    assert "5 samples could not be read" in page
    row = '<td>no picture &lt;#&gt;</td><td class="n">5</td><td class="n">3</td><td>web/0, web/1, web/2</td>'
    assert row + "<td>a.parquet: row 7</td>" in page
    assert "quarantine.jsonl: line 6 cannot be read (stage: Input should be a valid string); it is left out." in page


def test_clips_outside_the_run_are_not_shown(fake_run, tmp_path):
    run = fake_run(num_clips=1, clip_frames=2)
    secret = tmp_path / "secret.gif"
    secret.write_bytes(b"GIF89a secret")
    path = run / "eval/everything.json"
    result = json.loads(path.read_text())
    result["tasks"][0]["videos"] = ["../secret.gif", "eval/videos/none.gif"]
    path.write_text(json.dumps(result))
    clips, said = pick_clips(read_run(run))
    assert len(clips) == 5
    assert said == ["2 rollout clips that the results name are not in the run folder."]


def test_clips_beyond_the_budget_are_counted(fake_run, monkeypatch):
    run = fake_run(num_clips=2, clip_frames=4)
    sizes = [path.stat().st_size for path in (run / "eval/videos").iterdir()]
    monkeypatch.setattr("trivium.report.page.CLIP_BUDGET", 4 * max(sizes))
    clips, said = pick_clips(read_run(run))
    assert 4 <= len(clips) < 12
    assert said[0].startswith(f"{12 - len(clips)} rollout clips are left out to keep the page small")
    assert [(clip["task"], clip["label"]) for clip in clips[:2]] == [
        ("reach-v3", "everything"),
        ("push-v3", "everything"),
    ]


def test_one_stage_is_one_stage(fake_run):
    page = write_report(fake_run(num_clips=0, stages=("joint",))).read_text()
    assert "Trivium report: 1 stage, seed" in page
    assert "steps in 1 stage<" in page
    assert "1 stages" not in page


def test_same_folder_same_page(fake_run):
    run = fake_run(num_clips=0, stages=("joint",))
    (run / "health/joint.json").unlink()
    first = _page(run)
    assert _page(run) == first


def test_unfinished_run_shows_how_far_it_came(fake_run):
    run = fake_run(num_clips=0, steps_share=0.5, stages=("everything",), num_strips=0)
    (run / "health/everything.json").unlink()
    page = _page(run)
    assert "<strong>300 of 600 steps</strong>" in page


def test_checks_inside_a_stage_come_before_its_end(fake_run):
    run = fake_run(num_clips=0)
    for step in (1000, 500):
        report = json.loads((run / "health/joint.json").read_text()) | {"stage": f"joint-{step:06d}"}
        (run / f"health/joint-{step:06d}.json").write_text(json.dumps(report))
    names = [report.stage for report in read_run(run).health]
    assert names == ["joint-000500", "joint-001000", "joint", "everything"]


def test_numbers_for_people():
    assert [count(n) for n in (0, 950, 12_345, 4_560_000, 2.5e9)] == ["0", "950", "12.3k", "4.56M", "2.5B"]
    assert [minutes(s) for s in (12, 200, 7200)] == ["12 s", "3.3 min", "2.0 h"]
