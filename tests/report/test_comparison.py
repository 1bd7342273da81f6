"""Tables and picture of a comparison: nothing cut, intervals over several tasks, rates at the ends of the scale."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from trivium.report import comparison
from trivium.report.comparison import draw_comparison, pooled, to_markdown

CODE = {
    "rmse": [0.1, 0.0],
    "worst": [0.2, 0.0],
    "rmse_share": 0.01,
    "fit_s": 1.0,
    "encode_per_s": 1.0,
    "decode_per_s": 1.0,
}
IDS = {"vocab_size": 256, "tokens_per_s": 40.0, "perplexity": 9.0, "used_share": 1.0, "repaired_share": 0.0}
LATENTS = {"latent_dim": 16, "num_active": 12, "numbers_per_s": 40.0}


def found(names: list[str], policies: list[dict[str, Any]]) -> dict[str, Any]:
    codes = [{"name": name, **CODE, **IDS} for name in names]
    return {
        "dimensions": ["dx", "grip"],
        "tokenizers": codes,
        "continuous": [{"name": "VAE", **CODE, **LATENTS}],
        "policies": policies,
    }


def score(head: str, task: str, successes: int) -> dict[str, Any]:
    return {"head": head, "task": task, "parameters": 7, "fit_s": 2.0, "successes": successes, "episodes": 20}


def test_the_longest_name_of_a_task_is_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison.console, "_width", 80)
    score = {"head": "diffusion U-Net", "fit_s": 1234.5, "successes": 100, "episodes": 100, "low": 0.96, "high": 1.0}
    names = ("button-press-topdown-wall-v3", "plate-slide-back-side-v3")
    comparison.print_policies([score | {"task": name} for name in names])
    said = capsys.readouterr().out
    assert "…" not in said
    assert all(name in said for name in names)


def test_pooled_tasks_have_a_wilson_interval() -> None:
    found = pooled([{"successes": 18, "episodes": 20}, {"successes": 9, "episodes": 20}])
    assert (found["successes"], found["episodes"]) == (27, 40)
    assert (found["low"], found["high"]) == pytest.approx((0.520, 0.799), abs=1e-3)


def test_more_codes_than_colours_and_rates_of_none_and_all_are_drawn(tmp_path: Path) -> None:
    policies = [score(head, task, wins) for head, wins in (("flow", 20), ("ACT", 0)) for task in ("a-v3", "b-v3")]
    sizes = []
    for rows in (policies, policies[:1], []):
        draw_comparison(found([f"code {i}" for i in range(11)], rows), tmp_path / "comparison.png")
        with Pillow.open(tmp_path / "comparison.png") as picture:
            sizes.append(picture.size)
    assert [width for width, _ in sizes] == [1024] * 3
    assert sizes[0][1] > sizes[1][1] > sizes[2][1]


def test_markdown_has_a_cell_for_every_number() -> None:
    text = to_markdown(found(["FAST"], [score("flow", "a-v3", 20), score("flow", "b-v3", 10)]))
    codes, errors, policies = text.strip().split("\n\n")
    assert codes.splitlines()[2] == "| FAST | 256 | 40.0 | 1.00 | 9 | 100% | 1.0 | 0 | 0 | 0% |"
    assert codes.splitlines()[3] == "| VAE |  | 40.0 numbers | 1.00 |  | 12 of 16 numbers | 1.0 | 0 | 0 |  |"
    assert errors.splitlines()[2] == "| FAST | 0.1 (0.2) | 0 (0) |"
    assert policies.splitlines()[2] == "| flow | 7 | 2 | 20 of 20 | 10 of 20 | 30 of 40 | 60 to 86 % |"
