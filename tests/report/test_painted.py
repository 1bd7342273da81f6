import base64
import io
import json

import numpy as np
import pytest
from PIL import Image as Pillow

from trivium.policy.foresight import Foresight, Share, Shown
from trivium.report.page import write_report

SIDE = 8


def share(value: float) -> Share:
    return Share(value=value, low=value - 0.1, high=value + 0.1)


def foresight(bits: float = 1.0, alone: float = 1.5) -> Foresight:
    shown = [Shown(id=f"toy/{i}", instruction=f"push <{i}>", bits=0.9 + i, right=0.75, copied=0.5) for i in range(2)]
    return Foresight(
        stage="joint",
        samples=40,
        episodes=7,
        codes=64,
        tokens=16,
        bits=share(bits),
        alone_bits=share(alone),
        histogram_bits=share(3.0),
        place_bits=share(2.0),
        copy_bits=share(1.05),
        right=share(0.71),
        copied=share(0.62),
        right_where_moved=share(0.33),
        shown=tuple(shown),
    )


@pytest.fixture
def run(fake_run):
    run = fake_run(num_clips=0)
    (run / "unified").mkdir()
    pixels = np.arange(2 * SIDE * 4 * SIDE * 3).reshape(2 * SIDE, 4 * SIDE, 3).astype(np.uint8)
    Pillow.fromarray(pixels).save(run / "unified/joint.png")
    (run / "unified/joint.json").write_text(json.dumps(foresight().model_dump(mode="json") | {"seconds": 2.0}))
    return run


def test_the_page_shows_what_was_foreseen_and_beside_what(run):
    page = write_report(run).read_text()
    section = page.split('<section id="painted">')[1].split("</section>")[0]
    for words in ("After joint", "1.00", "0.90 to 1.10", "3.00", "71.0 %", "62.0 %", "33.0 %", "push &lt;1&gt;"):
        assert words in section, words
    assert "written freely 75% of the ids right, copied 50%" in section
    assert section.count("data:image/png;base64,") == 2
    assert 'href="#painted"' in page
    assert "below histogram at each place of the picture. A frame costs less" in section, "1.1 reaches the mixture"
    pictures = [part.split('"')[0] for part in section.split("data:image/png;base64,")[1:]]
    rows = [np.asarray(Pillow.open(io.BytesIO(base64.b64decode(picture)))) for picture in pictures]
    with Pillow.open(run / "unified/joint.png") as whole:
        assert np.array_equal(np.concatenate(rows), np.asarray(whole))


def test_a_model_that_foresees_nothing_is_said_to(run):
    (run / "unified/joint.json").write_text(foresight(bits=2.95).model_dump_json())
    assert "ids have on their own: it foresees nothing yet" in write_report(run).read_text()
    (run / "unified/joint.json").write_text(foresight(alone=1.05).model_dump_json())
    assert "it knows frames, and foresees nothing yet" in write_report(run).read_text()


def test_a_run_without_such_a_stage_has_no_such_section(fake_run):
    page = write_report(fake_run(num_clips=0)).read_text()
    assert "Foreseen frames" not in page


@pytest.mark.parametrize("fault", ["json", "picture", "size", "rows"])
def test_what_is_broken_is_said_and_the_rest_is_shown(run, fault):
    if fault == "json":
        (run / "unified/joint.json").write_text("{")
    elif fault == "picture":
        (run / "unified/joint.png").write_bytes(b"no picture")
    elif fault == "size":
        Pillow.new("RGB", (SIDE, 2 * SIDE)).save(run / "unified/joint.png")
    else:
        (run / "unified/joint.png").unlink()
    page = write_report(run).read_text()
    assert "unified/joint cannot be read" in page
    assert '<section id="painted">' not in page
