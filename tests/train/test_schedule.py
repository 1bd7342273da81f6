import math

import pytest

from trivium.train.schedule import lr_share


@pytest.mark.parametrize(
    ("step", "share"),
    [
        (0, 1 / 11),  # as in openpi; the first step is not wasted
        (9, 10 / 11),
        (10, 1.0),
        (55, 0.1 + 0.9 * 0.5),  # half-way down
        (99, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 89 / 90))),
        (100, 0.1),  # one past the last
    ],
)
def test_closed_form(step, share):
    assert lr_share(step, steps=100, warmup_steps=10, final_share=0.1) == pytest.approx(share, abs=1e-15)


def test_no_step_is_wasted_even_with_a_final_share_of_zero():
    shares = [lr_share(step, 50, 5, 0.0) for step in range(50)]
    assert min(shares) > 0
    assert max(shares) == shares[5] == 1.0
    assert shares == [*sorted(shares[:5]), *sorted(shares[5:], reverse=True)]


def test_without_warmup_the_first_step_is_at_the_peak():
    assert lr_share(0, 10, 0, 0.1) == 1.0


def test_a_stage_shorter_than_its_warmup_stays_on_the_ramp():
    assert [lr_share(step, 3, 9, 0.1) for step in range(3)] == pytest.approx([0.1, 0.2, 0.3])
