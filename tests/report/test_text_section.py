import json

import numpy as np
import pytest

from trivium.language.heldout import summarise
from trivium.report.page import write_report
from trivium.report.run_folder import read_run
from trivium.report.text import text_section

SIZE = np.full(40, 1000)
LEVELS = {
    "untrained": {"general": 1.30, "domain": 1.80},
    "joint-000075": {"general": 1.32, "domain": 1.10},
    "joint": {"general": 1.35, "domain": 0.90},
    "everything": {"general": 1.40, "domain": 0.85},
}


def write_texts(run):
    base = np.random.default_rng(0).normal(0, 60, 40)
    for label, levels in LEVELS.items():
        stage, _, step = label.partition("-")
        scores = [summarise(name, 9000, base + bits * SIZE * np.log(2), SIZE) for name, bits in levels.items()]
        record = {"stage": stage, "step": int(step) if step else None, "seconds": 1.0}
        record["texts"] = [score.model_dump(mode="json") for score in scores]
        path = run / f"text/{label}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record))
    return run


@pytest.fixture
def run(fake_run):
    return write_texts(fake_run(num_clips=0))


def test_measurements_are_placed_along_the_run(run):
    found = read_run(run).texts
    assert [(at, file.stage, file.step) for at, file in found] == [
        (0, "untrained", None),
        (75, "joint", 75),
        (150, "joint", None),
        (750, "everything", None),
    ]


def test_the_table_has_paired_changes_since_before(run):
    section = text_section(read_run(run))
    assert section["labels"] == ["before", "after joint", "after everything"]
    general, domain = section["rows"]
    assert (general["name"], general["documents"], general["tokens"]) == ("general", 40, 9000)
    assert general["cells"][0]["change"] is None
    assert general["cells"][2]["change"] == pytest.approx((0.1, 0.1, 0.1))
    assert domain["cells"][1]["change"] == pytest.approx((-0.9, -0.9, -0.9))


def test_the_page_tells_what_was_learned_and_forgotten(run):
    page = write_report(run).read_text()
    for words in (
        '<section id="text">',
        "after everything",
        "+0.100, +0.100 to +0.100",
        "-0.900",
        "Held-out text in bits",
    ):
        assert words in page, words
    assert 'href="#text"' in page


def test_too_few_documents_for_an_interval_are_said(fake_run):
    run = write_texts(fake_run(num_clips=0))
    assert "Too few documents" not in write_report(run).read_text()
    for path in (run / "text").glob("*.json"):
        record = json.loads(path.read_text())
        for text in record["texts"]:
            number = {"general": 6, "domain": 1}[text["name"]]
            text["nats"], text["bytes"] = text["nats"][:number], text["bytes"][:number]
        path.write_text(json.dumps(record))
    page = write_report(run).read_text()
    assert "1 document, 9k tokens" in page
    assert "Too few documents to trust the intervals: domain." in page


def test_without_texts_the_page_says_nothing_of_them(fake_run):
    page = write_report(fake_run(num_clips=0)).read_text()
    assert 'id="text"' not in page
    assert 'href="#text"' not in page


def test_a_broken_measurement_becomes_a_sentence(run):
    (run / "text/joint.json").write_text('{"stage": "joint"}')
    folder = read_run(run)
    assert any(problem.startswith("text/joint.json cannot be read (texts") for problem in folder.problems)
    assert text_section(folder)["labels"] == ["before", "after everything"]


def test_other_documents_are_not_compared(run):
    path = run / "text/everything.json"
    record = json.loads(path.read_text())
    record["texts"][0]["bytes"][0] += 1
    path.write_text(json.dumps(record))
    general, domain = text_section(read_run(run))["rows"]
    assert general["cells"][2]["change"] is None
    assert domain["cells"][2]["change"] is not None
