from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from action_heads import CONFIGS, HEADS
from truth_set import LENGTH, NUM_EPISODES, TASKS, write

from trivium import policies
from trivium.action.expert import ExpertConfig
from trivium.action.several import SeveralConfig
from trivium.core.errors import ConfigError, DataError, TrainingError
from trivium.core.sample import Sample, State
from trivium.data.source.lerobot import LeRobot
from trivium.eval.rollout import RolloutConfig
from trivium.eval.sim.metaworld import EMBODIMENT, STATE_NAMES, task_text
from trivium.policies import (
    Skill,
    choose_episodes,
    compare_policies,
    fit_policy,
    fit_prior,
    normalise,
    read_demonstrations,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> LeRobot:
    return write(tmp_path_factory.mktemp("policies")).build()


@pytest.fixture(scope="module")
def demos(source: LeRobot) -> policies.Demonstrations:
    every = np.arange(len(source))
    return read_demonstrations(source, every, normalise(source, every))


def test_episodes_are_whole_of_the_task_and_drawn_by_the_seed(source: LeRobot) -> None:
    found = choose_episodes(source, ("push-v3",), 2, seed=0)
    assert len(found) == 2 * LENGTH
    assert {source.task(int(i)) for i in found} == {task_text("push-v3").instruction}
    assert np.array_equal(found, choose_episodes(source, ("push-v3",), 2, seed=0))
    draws = {tuple(choose_episodes(source, ("push-v3",), 2, seed=seed)) for seed in range(8)}
    assert len(draws) > 1
    assert len(choose_episodes(source, TASKS, 3, seed=0)) == 2 * 3 * LENGTH


def test_demonstrations_are_normalised_and_know_where_episodes_end(demos: policies.Demonstrations) -> None:
    assert demos.action.shape == (2 * NUM_EPISODES * LENGTH, 4, 4)
    assert 0.9 < demos.action[..., :3].abs().max() < 2
    assert not demos.action[..., 3].any(), "the gripper never moves"
    assert int((~demos.valid).sum()) == 2 * NUM_EPISODES * 4 * 3 // 2  # k (k - 1) / 2 an episode


def test_eyes_look_from_the_gripper_or_from_the_table(source: LeRobot, demos: policies.Demonstrations) -> None:
    assert np.allclose(demos.truth[:, 1], source.found.action[:, :3], atol=1e-6), "the action leads there"
    table = read_demonstrations(source, np.arange(len(source)), demos.chain, from_gripper=False)
    assert np.array_equal(table.truth[:, 1], source.found.truth["goal"])
    # A policy reads an observation as its demonstrations were read.
    state = State(values=np.array([0.1, 0.2, 0.3, 1.0], np.float32), names=STATE_NAMES)
    goal = np.array([0.1, 0.2, 0.5], np.float32)
    truth = {"object": goal, "goal": goal}
    seen = Sample(id="s", segments=(state,), source="t", license="CC0-1.0", embodiment=EMBODIMENT, truth=truth)
    for one, expected in ((demos, [0.0, 0.0, 0.2]), (table, [0.1, 0.2, 0.5])):
        policy, _ = fit_policy(CONFIGS["l1"], one, 1)
        looked: list[torch.Tensor] = []
        look = policy.skill.context
        policy.skill.context = lambda state, truth, look=look, looked=looked: looked.append(truth) or look(state, truth)
        policy.act([seen])
        assert looked[0][0, 1].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def policy(demos: policies.Demonstrations) -> policies.SkillPolicy:
    policy, seconds = fit_policy(CONFIGS["l1"], demos, 150)
    assert seconds > 0
    return policy


def test_a_policy_learns_to_look(policy: policies.SkillPolicy, demos: policies.Demonstrations) -> None:
    """The first command leads to a goal that only the eyes can see."""
    rows = slice(0, 48)
    found = [
        policy.skill.action.sample(policy.skill.context(demos.state[rows], truth))
        for truth in (demos.truth[rows], demos.truth[rows].flip(0))
    ]
    right, wrong = ((chunk - demos.action[rows])[:, 0, :3].abs().mean() for chunk in found)
    assert right < 0.2, "from 0.6"
    assert right < 0.5 * wrong, "shown other goals, it goes elsewhere"


@HEADS
def test_a_prior_is_taken_over_and_can_be_frozen(config: ExpertConfig, demos: policies.Demonstrations) -> None:
    prior = fit_prior(config, demos, 3)
    moving = {name for name in prior if "cross." in name or ".context." in name}
    looking = "action.heads.*.*.context" if isinstance(config, SeveralConfig) else "action.*.context"
    policy, _ = fit_policy(config, demos, 3, prior=prior, learn=("eyes", "place", looking))
    found = policy.skill.action.state_dict()
    changed = {name for name in found if not torch.equal(found[name], prior[name])}
    assert changed <= {name for name in moving if ".context." in name}
    # A prior has seen no truth: what looks is as it was built.
    again = fit_prior(config, demos, 6)
    assert all(torch.equal(prior[name], again[name]) for name in moving)
    assert any(not torch.equal(prior[name], again[name]) for name in prior)


def test_one_seed_one_policy(demos: policies.Demonstrations) -> None:
    state = torch.get_rng_state()
    first, again, other = (fit_policy(CONFIGS["flow"], demos, 3, seed)[0].skill.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(state, torch.get_rng_state()), "the caller's random numbers are left alone"


def test_a_policy_answers_in_physical_units(policy: policies.SkillPolicy) -> None:
    state = State(values=np.array([0.1, 0.0, 0.0, 1.0], np.float32), names=STATE_NAMES)
    goal = np.array([-0.1, 0.1, 0.0], np.float32)
    seen = Sample(
        id="s",
        segments=(state,),
        source="test",
        license="CC0-1.0",
        embodiment=EMBODIMENT,
        truth={"object": -goal, "goal": goal},
    )
    (chunk,) = policy.act([seen])
    assert chunk.shape == (4, 4)
    assert chunk[0] == pytest.approx([-0.2, 0.1, 0.0, 0.0], abs=0.08)


def test_every_head_is_tried_on_every_task(source: LeRobot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, RolloutConfig]] = []

    def evaluate(_: object, config: RolloutConfig, __: Path, label: str) -> dict:
        asked.append((label, config))
        return {"tasks": [{"successes": 3, "episodes": 4, "low": 0.3, "high": 0.95}]}

    monkeypatch.setattr(policies, "evaluate", evaluate)
    heads = {name: CONFIGS[name] for name in ("l1", "flow")}
    scores = compare_policies(source, heads, RolloutConfig(tasks=TASKS, episodes=4), tmp_path, num_demos=2, steps=2)
    assert [(score.head, score.task) for score in scores] == [(h, t) for t in TASKS for h in heads]
    assert [label for label, _ in asked] == [f"{h}-{t}" for t in TASKS for h in heads]
    assert all((config.views, config.clips, len(config.tasks)) == ((), 0, 1) for _, config in asked)
    assert (scores[0].successes, scores[0].episodes, scores[0].low) == (3, 4, 0.3)
    assert scores[0].parameters == sum(p.numel() for p in CONFIGS["l1"].build(4, 4, 64).parameters())
    assert scores[0].fit_s > 0


def test_what_does_not_fit_is_refused(
    source: LeRobot, demos: policies.Demonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"task push-v3 .*: found 6 episodes; expected at least 7. Record more"):
        choose_episodes(source, ("push-v3",), 7, seed=0)
    with pytest.raises(DataError, match=r"task door-open-v3 .*: found 0 episodes.*Its tasks: push the puck"):
        choose_episodes(source, ("door-open-v3",), 1, seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(policies, "GRIPPER", ("a", "b", "c"))
        with pytest.raises(DataError, match=r"found states x, y, z, opening; expected states that begin with x, y, z"):
            read_demonstrations(source, np.arange(4), demos.chain)
    other = write(tmp_path, truths=("object",)).build()
    with pytest.raises(DataError, match=r"found no column truth.goal; expected a set recorded in a simulator"):
        read_demonstrations(other, np.arange(4), normalise(other, np.arange(4)))
    with pytest.raises(ConfigError, match=r"action.horizon: found chunks of 4 steps x 4 dimensions; expected 5 x 4"):
        fit_policy(CONFIGS["l1"].replace(horizon=5), demos, 1)
    with pytest.raises(ConfigError, match=r"rollout.control_hz: found 20; expected 40"):
        compare_policies(source, {}, RolloutConfig(tasks=TASKS, control_hz=20), tmp_path)


def test_a_loss_that_is_not_finite_ends_the_fit(demos: policies.Demonstrations) -> None:
    broken = replace(demos, action=torch.full_like(demos.action, float("nan")))
    with pytest.raises(TrainingError, match=r"policy fit, step 1: found loss nan; expected a finite one"):
        fit_policy(CONFIGS["flow"], broken, 5)


def test_eyes_take_nothing_but_truth(demos: policies.Demonstrations) -> None:
    skill = Skill(CONFIGS["l1"], demos)
    assert skill.context(demos.state[:2], None).tokens is None
    tokens = skill.context(demos.state[:2], demos.truth[:2]).tokens
    assert tokens is not None
    assert tokens.shape == (2, 2, 64)
