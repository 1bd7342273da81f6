"""The health check as a whole: it must rank, tie, detect corruption, and not be fooled by leaks."""

import numpy as np
import pytest
import torch

from trivium.core.errors import DataError
from trivium.probe import check
from trivium.probe.check import HealthConfig, health_check
from trivium.probe.health import HealthReport
from trivium.probe.reduce import reduce, reduce_by_fold
from trivium.probe.split import Fold
from trivium.probe.tasks import Target, task_identity

QUICK = HealthConfig(num_folds=3, num_sizes=2, num_components=24, hidden=16, mlp_steps=16)
NUM_EPISODES, LENGTH = 36, 10
EPISODES = np.repeat(np.arange(NUM_EPISODES), LENGTH)
TASKS = EPISODES % 3


def _world():
    """Make positions (the third column hardly moves) and pictures-as-vectors that show them among other things."""
    rng = np.random.default_rng(0)
    position = rng.uniform(-0.1, 0.1, (NUM_EPISODES, 3))[EPISODES] + rng.normal(0, 0.02, (len(EPISODES), 3))
    position[:, 2] *= 1e-4
    scene = np.concatenate([position[:, :2] * 10, np.eye(3)[TASKS], rng.normal(size=(len(EPISODES), 6))], 1)
    return rng, position, scene


def _run(features, targets, config=QUICK, subject="aligned"):
    return health_check("stage", features, targets, episodes=EPISODES, tasks=TASKS, config=config, subject=subject)


def _position(values):
    return Target(name="object position", values=values, second="error_cm")


@pytest.fixture(scope="module")
def ranked():
    """Features that were supervised by the answer, random ones of the same scene, and noise."""
    rng, position, scene = _world()
    wide = rng.normal(size=(scene.shape[1], 60))
    noisy = np.maximum(scene @ wide, 0) + rng.normal(size=(len(scene), 60))
    supervised = np.concatenate([position[:, :2] * 30, noisy[:, :20]], 1) @ rng.normal(size=(22, 60))
    features = {"aligned": supervised, "random-init": noisy, "noise": rng.normal(size=(len(scene), 60))}
    return _run(features, [_position(position), task_identity(TASKS)])


def test_order_supervised_random_noise(ranked):
    scores = [ranked.targets[0].curve(name, "linear").scores[-1] for name in ("aligned", "random-init", "noise")]
    assert scores[0].low > scores[1].high
    assert scores[1].low > scores[2].high
    assert abs(scores[2].value) < 0.15
    assert "Aligned" not in ranked.verdict.split(" ")[0]
    assert "on object position aligned beats random-init and noise" in ranked.verdict.lower()


def test_units_and_columns(ranked):
    position, identity = ranked.targets
    assert position.columns_left_out == 1
    assert 0.0 < position.curve("aligned", "linear").second[-1] < 4.0 < position.curve("noise", "linear").second[-1]
    assert identity.metric == "accuracy"
    assert identity.chance == pytest.approx(1 / 3)
    assert identity.curve("aligned", "linear").second == ()


def test_margin_sentence(ranked):
    sentence = ranked.targets[0].sentences[0]
    margin = ranked.targets[0].margins[0]
    assert sentence.startswith(f"aligned beats random-init on object position by {margin.full} R2 (linear probe, 240 ")
    assert sentence.endswith("good sign.") or "MLP probe says" in sentence


def test_report_survives_its_file(ranked, tmp_path):
    (tmp_path / "stage.json").write_text(ranked.model_dump_json())
    assert HealthReport.model_validate_json((tmp_path / "stage.json").read_text()) == ranked


def test_table_has_a_row_for_each_target_and_probe(ranked):
    assert ranked.table().row_count == 4


def test_same_encoder_turned_around_ties():
    rng, position, scene = _world()
    features = scene @ rng.normal(size=(11, 20)) + 0.3 * rng.normal(size=(len(scene), 20))
    report = _run({"aligned": features, "again": 7 * features[:, ::-1] + 1}, [_position(position)])
    assert {m.outcome for m in report.targets[0].margins} == {"tie"}
    assert "no difference beyond the interval" in report.targets[0].sentences[0]


def test_corrupted_encoder_is_detected():
    rng, position, scene = _world()
    healthy = scene @ rng.normal(size=(11, 30)) + 0.3 * rng.normal(size=(len(scene), 30))
    corrupted = np.where(rng.random(healthy.shape) < 0.9, rng.normal(size=healthy.shape), healthy)
    report = _run({"aligned": corrupted, "random-init": healthy}, [_position(position)])
    assert "aligned is worse than random-init on object position" in report.targets[0].sentences[0]
    assert "look at the weights that were loaded" in report.targets[0].sentences[0]


def test_random_labels_score_nothing():
    rng, _, scene = _world()
    features = scene @ rng.normal(size=(11, 30))
    report = _run({"aligned": features}, [Target(name="chance", values=rng.normal(size=(len(scene), 2)))])
    for curve in report.targets[0].curves:
        assert -0.2 < curve.scores[-1].value < 0.03
        assert curve.scores[-1].low < 0


def test_knowing_only_the_task_scores_nothing():
    _, position, _ = _world()
    position = position + 5.0 * np.eye(3)[TASKS]
    report = _run({"aligned": np.eye(3)[TASKS] + 0.0}, [_position(position)])
    assert report.targets[0].curve("aligned", "linear").scores[-1].value < 0.02


def _split_by_frame(episodes, tasks, seen, num_folds, rng):
    order = rng.permutation(len(episodes))
    return [Fold(np.setdiff1d(order, part), np.sort(part)) for part in np.array_split(order, num_folds)]


def test_split_leak(monkeypatch):
    """Features that only tell episodes apart: worth nothing by episode, everything by frame."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(NUM_EPISODES, 40))[EPISODES] + 0.01 * rng.normal(size=(len(EPISODES), 40))
    target = Target(name="chance", values=rng.normal(size=(NUM_EPISODES, 1))[EPISODES])
    honest = _run({"aligned": features}, [target])
    assert honest.targets[0].curve("aligned", "linear").scores[-1].value < 0.1
    assert not any("leak" in caution for caution in honest.cautions)
    monkeypatch.setattr(check, "split_by_episode", _split_by_frame)
    with pytest.raises(AssertionError, match="stands on both sides"):
        _run({"aligned": features}, [target])


def test_leak_through_wrong_episode_numbers_is_cautioned():
    """One recording under two episode numbers: the guard on the split cannot see it, the random number can."""
    rng = np.random.default_rng(0)
    drawn = check.numpy_rng(QUICK.seed, "probe", "leak").normal(size=NUM_EPISODES)
    features = np.concatenate([drawn[EPISODES][:, None], rng.normal(size=(len(EPISODES), 5))], 1)
    report = _run({"aligned": features}, [task_identity(TASKS)])
    assert any("test episodes leak into training" in caution for caution in report.cautions)


def test_collapsed_features_are_named():
    _, position, scene = _world()
    report = _run({"aligned": np.ones((len(scene), 8)), "random-init": scene}, [_position(position)])
    assert "The features of aligned do not vary at all: the encoder has collapsed." in report.cautions
    assert report.targets[0].margins[0].outcome == "worse"


def test_features_with_nan_are_refused():
    _, position, scene = _world()
    scene[5, 2] = np.nan
    with pytest.raises(
        DataError, match="features 'aligned': found NaN or infinity in 1 of 360 rows, the first is row 5"
    ):
        _run({"aligned": scene}, [_position(position)])


def test_same_seed_same_report():
    rng, position, scene = _world()
    features = {"aligned": scene @ rng.normal(size=(11, 40))}
    first, second = (_run(features, [_position(position)]).model_copy(update={"seconds": 0.0}) for _ in range(2))
    assert first == second


def test_controls_are_probed_once_and_every_subject_anew(monkeypatch):
    rng, position, scene = _world()
    features = {"aligned": scene, "random-init": scene @ rng.normal(size=(scene.shape[1], 20))}
    changed = features | {"aligned": scene[:, ::-1] + rng.normal(size=scene.shape)}
    targets = [_position(position), task_identity(TASKS)]
    plain = [_run(part, targets).model_dump(exclude={"seconds"}) for part in (features, changed)]
    probed = []

    def reduce_by_fold(name, *rest):
        probed.append(name)
        return _reduce(name, *rest)

    _reduce = check.reduce_by_fold
    monkeypatch.setattr(check, "reduce_by_fold", reduce_by_fold)
    memory = {}
    kept = [
        health_check("stage", part, targets, episodes=EPISODES, tasks=TASKS, config=QUICK, memory=memory)
        for part in (features, changed)
    ]
    assert [report.model_dump(exclude={"seconds"}) for report in kept] == plain
    assert probed == ["aligned", "random-init", "aligned"]
    assert plain[0] != plain[1]


def test_training_cannot_tell():
    """A check between two steps leaves torch's random state and its number of threads (the order of sums) alone."""
    _, position, scene = _world()
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _run({"aligned": scene}, [_position(position)])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_reduction_is_fitted_on_the_training_rows_only():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(100, 40)).astype(np.float32)
    changed = matrix.copy()
    changed[60:] *= 50
    one, _ = reduce(matrix, np.arange(60), 8, seed=0)
    two, kept = reduce(changed, np.arange(60), 8, seed=0)
    np.testing.assert_array_equal(one[:60], two[:60])
    assert 0.2 < kept < 0.8
    assert one.shape == (100, 8)


def test_folds_come_out_equally_wide_and_their_own_numbers_unchanged():
    rng = np.random.default_rng(0)
    wide, narrow = rng.normal(size=(40, 100)), rng.normal(size=(40, 3))
    narrow[20:, 2] = 0.0  # a unit that is dead in the second fold
    folds = [Fold(train=np.arange(30), test=np.arange(30, 40)), Fold(train=np.arange(20, 40), test=np.arange(20))]
    for matrix, widths in ((wide, (29, 19)), (narrow, (3, 2))):
        parts, note = reduce_by_fold("a", matrix, folds, 64, seed=0)
        for part, fold, width in zip(parts, folds, widths, strict=True):
            alone, _ = reduce(matrix, fold.train, 64, seed=0)
            assert part.shape == (40, widths[0])
            np.testing.assert_array_equal(part[:, :width], alone)
            assert not part[:, width:].any()
        assert note.components == widths[1]


def test_few_samples_of_unequal_episodes_are_probed():
    _, position, scene = _world()
    wide = scene @ np.random.default_rng(1).normal(size=(scene.shape[1], 200))
    some = np.flatnonzero(np.arange(LENGTH)[None] <= np.arange(NUM_EPISODES)[:, None] % 3)  # 1, 2 or 3 of an episode
    groups = {"episodes": EPISODES[some], "tasks": EPISODES[some] // 12}
    config = QUICK.replace(num_components=64)
    report = health_check("stage", {"aligned": wide[some]}, [_position(position[some])], config=config, **groups)
    assert report.num_samples == 72
    assert report.encoders[0].components < 64


def test_target_that_never_differs_is_refused():
    _, _, scene = _world()
    with pytest.raises(DataError, match="target 'object position': found the same answer in all 360 samples of a task"):
        _run({"aligned": scene}, [_position(np.eye(3)[TASKS])])


def test_target_answered_in_too_few_episodes_is_refused():
    _, position, scene = _world()
    target = Target(name="object position", values=position, valid=EPISODES < 2)
    with pytest.raises(DataError, match="found only 20 of 360 samples with an answer, too few in some fold"):
        _run({"aligned": scene}, [target])


def test_seen_episodes_help_to_learn_but_are_not_tested():
    """Seen episodes carry a false answer in their features: probes learn it, and no test episode confirms it."""
    rng, position, _ = _world()
    names = 100 - EPISODES  # episode numbers need not be sorted or start at 0
    seen = EPISODES >= 12
    honest, memorised = rng.normal(size=(len(EPISODES), 4)), position[:, :2] * 10
    features = np.where(
        seen[:, None], np.concatenate([memorised, honest], 1), np.concatenate([0 * memorised, honest], 1)
    )
    told = np.concatenate([memorised, honest], 1)

    def run(matrix):
        targets, groups = [_position(position)], {"episodes": names, "tasks": TASKS, "seen": seen}
        return health_check("stage", {"aligned": matrix}, targets, config=QUICK, **groups)

    fooled, good = run(features), run(told)
    assert fooled.num_episodes == good.num_episodes == 12
    assert fooled.targets[0].curve("aligned", "linear").scores[-1].value < 0.1
    assert good.targets[0].curve("aligned", "linear").scores[-1].value > 0.95
    assert good.targets[0].curve("aligned", "linear").sizes[-1] == 240 + 80
