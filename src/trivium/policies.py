"""Small policies whose eyes are perfect: any action head, fitted to one task in a minute and tried in the simulator.

What a head can learn is compared here without vision and language in the way: instead of pictures it is shown where
object and goal are. These are simulator truths, which no policy of a run ever sees; a success rate from here is what a
head does with a perfect encoder.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from trivium.action.model import ActionModel, Context
from trivium.core.errors import ConfigError, DataError, TrainingError
from trivium.core.log import note
from trivium.core.rng import isolated, key
from trivium.core.sample import Sample, State
from trivium.data.chain import Chain
from trivium.data.source.lerobot import LeRobot
from trivium.data.stats import measure
from trivium.data.transform import NormalizeConfig, build_chain
from trivium.eval.rollout import RolloutConfig, evaluate
from trivium.eval.sim.metaworld import task_text
from trivium.nn.mlp import Mlp
from trivium.train.stage import StageConfig

TRUTHS = ("object", "goal")
GRIPPER = ("x", "y", "z")
EYES_WIDTH = 64
BATCH = 64


@runtime_checkable
class HeadConfig(Protocol):
    """The config of any action head."""

    horizon: int

    def build(self, action_dim: int, state_dim: int, context_width: int) -> ActionModel:
        """Build the head."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Demonstrations:
    """Samples of one robot as a head takes them: normalised, without pictures."""

    chain: Chain
    """What normalised them; mirrored, it makes commands of what a policy answers."""
    state: Float[Tensor, "n s"]
    truth: Float[Tensor, "n x 3"]
    """Where object and goal are, in metres."""
    from_gripper: bool
    """Whether that is seen from the gripper, as by a camera on the wrist, or from the table, as by a fixed one. From
    the table a head must learn to subtract, for which five demonstrations are few."""
    action: Float[Tensor, "n k a"]
    valid: Bool[Tensor, "n k"]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.state)


def choose_episodes(source: LeRobot, tasks: Sequence[str], num_episodes: int, seed: int) -> Int[np.ndarray, " n"]:
    """Return the samples of some episodes of each of these tasks (Meta-World names), drawn by the seed.

    Raises:
        DataError: the set has fewer episodes of a task.
    """
    episodes = source.groups()
    chosen: list[np.ndarray] = []
    for task in tasks:
        sentence = task_text(task).instruction
        mine = [sentence == source.found.tasks[number] for number in source.found.task]
        numbers = np.unique(episodes[np.asarray(mine, bool)])
        if len(numbers) < num_episodes:
            raise DataError(
                f"set {source.config.path}: task {task} ({sentence!r})",
                f"{len(numbers)} episodes",
                f"at least {num_episodes}",
                f"Record more, or ask for fewer. Its tasks: {', '.join(source.found.tasks)}.",
            )
        drawn = np.random.default_rng(key(seed, "episodes", task)).permutation(numbers)[:num_episodes]
        chosen.append(np.flatnonzero(np.isin(episodes, drawn)))
    return np.concatenate(chosen)


def normalise(source: LeRobot, samples: Int[np.ndarray, " n"]) -> Chain:
    """Return the normalisation measured on these samples; policy and prior must share one to hand weights on."""
    return build_chain([NormalizeConfig()], measure([(source, samples)]))


def read_demonstrations(
    source: LeRobot, samples: Int[np.ndarray, " n"], chain: Chain, from_gripper: bool = True
) -> Demonstrations:
    """Read samples for a head; `from_gripper` says what its eyes see.

    Raises:
        DataError: the set does not say where object and goal were, or where the gripper was.
    """
    if source.names("state")[:3] != GRIPPER:
        found = ", ".join(source.names("state"))
        raise DataError(
            f"set {source.config.path}",
            f"states {found}",
            "states that begin with x, y, z of the gripper",
            "Record one.",
        )
    for name in TRUTHS:
        if name not in source.truths:
            raise DataError(
                f"set {source.config.path}",
                f"no column truth.{name}",
                "a set recorded in a simulator, with the truth beside it",
                "Record one: trivium demo-data FOLDER.",
            )
    motion = chain.motion(source.motion(samples))
    truth = np.stack([source.found.truth[name][samples] for name in TRUTHS], axis=1)
    if from_gripper:
        truth = truth - source.found.state[samples][:, None, :3]
    parts = {"state": motion.state, "truth": truth, "action": motion.action, "valid": motion.valid}
    tensors = {name: torch.from_numpy(np.array(part)) for name, part in parts.items()}
    return Demonstrations(chain=chain, from_gripper=from_gripper, **tensors)


class Skill(nn.Module):
    """A head and the eyes that show it object and goal, one token each."""

    def __init__(self, config: HeadConfig, demos: Demonstrations) -> None:
        """Build both for these demonstrations, with fresh weights."""
        super().__init__()
        self.center = nn.Buffer(demos.truth.mean(0))
        self.eyes = Mlp(3, EYES_WIDTH, EYES_WIDTH)
        self.place = nn.Parameter(torch.randn(len(TRUTHS), 3))
        self.action = config.build(demos.action.shape[2], demos.state.shape[1], EYES_WIDTH)

    def context(self, state: Float[Tensor, "m s"], truth: Float[Tensor, "m x 3"] | None) -> Context:
        """Return what the head may look at; without the truth it is what a prior sees."""
        known = torch.ones(len(state), dtype=torch.bool)
        if truth is None:
            return Context(state=state, state_known=known)
        tokens = self.eyes((truth - self.center) / 0.1 + self.place)  # decimetres
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
        return Context(state=state, state_known=known, tokens=tokens, mask=mask)


class SkillPolicy:
    """A fitted skill that drives a simulator."""

    def __init__(self, skill: Skill, demos: Demonstrations, seed: int = 0) -> None:
        """Hold the parts; observations are read as the demonstrations were, `seed` fixes what the head draws."""
        self.skill, self.chain, self.from_gripper = skill.eval(), demos.chain, demos.from_gripper
        self.generator = torch.Generator().manual_seed(key(seed, "act"))

    @torch.no_grad()
    def act(self, observations: Sequence[Sample]) -> Float[np.ndarray, "m k a"]:
        """Return one chunk of commands an observation, in physical units."""
        seen = [self.chain.forward(sample, None) for sample in observations]
        state = torch.from_numpy(np.stack([sample.of(State)[0].values for sample in seen]))
        truth = np.stack([np.stack([sample.truth[name] for name in TRUTHS]) for sample in observations])
        if self.from_gripper:
            truth = truth - np.stack([sample.of(State)[0].values[None, :3] for sample in observations])
        context = self.skill.context(state, torch.from_numpy(truth))
        chunks = self.skill.action.sample(context, self.generator).numpy()
        return np.stack([self.chain.inverse(chunk, sample) for chunk, sample in zip(chunks, observations, strict=True)])


def fit_prior(config: HeadConfig, demos: Demonstrations, steps: int, seed: int = 0) -> Mapping[str, Tensor]:
    """Learn motion alone, from the state and without truths; return the head's weights."""
    with isolated(key(seed, "prior")):
        skill = Skill(config, demos)
        _train(skill, demos, _stage(steps, ("action",)), seed, lambda state, truth: skill.context(state, None))
    return skill.action.state_dict()


def fit_policy(
    config: HeadConfig,
    demos: Demonstrations,
    steps: int,
    seed: int = 0,
    prior: Mapping[str, Tensor] | None = None,
    learn: Sequence[str] = ("*",),
    average: bool = False,
) -> tuple[SkillPolicy, float]:
    """Fit a head to demonstrations; return the policy, and the seconds that took.

    Args:
        config: of the head; its horizon is that of the demonstrations.
        demos: what to imitate.
        steps: of the optimizer, 64 samples each.
        seed: of fresh weights, batches and noise.
        prior: what `fit_prior` returned for the same config; None starts afresh.
        learn: patterns of what learns, below "eyes", "place" and "action".
        average: act with the running average of the weights (EMA), eyes included, as Diffusion Policy does.

    Raises:
        ConfigError: the demonstrations have another horizon, or a pattern fits nothing.
        TrainingError: the loss was not finite.
    """
    start = time.monotonic()
    with isolated(key(seed, "policy")):
        skill = Skill(config, demos)
        if prior is not None:
            skill.action.load_state_dict(prior)
        _train(skill, demos, _stage(steps, tuple(learn)).replace(average=average), seed, skill.context)
    return SkillPolicy(skill, demos, seed), time.monotonic() - start


@dataclass(frozen=True)
class PolicyScore:
    """What one head did with one task."""

    head: str
    task: str
    parameters: int
    fit_s: float
    successes: int
    episodes: int
    low: float
    high: float
    """The 95 % Wilson interval of the success rate."""


def compare_policies(
    source: LeRobot,
    heads: Mapping[str, HeadConfig],
    rollout: RolloutConfig,
    folder: Path,
    num_demos: int = 20,
    steps: int = 1500,
    seed: int = 0,
) -> list[PolicyScore]:
    """Fit every head to every task of `rollout` from the same demonstrations, and try each in the simulator.

    Args:
        source: a recorded set with truths.
        heads: configs by the name that the table shows.
        rollout: tasks and how they are tried; nothing is drawn or filmed.
        folder: where the results of the single evaluations go.
        num_demos: episodes of a task that a head learns from.
        steps: of the optimizer.
        seed: of everything.

    Raises:
        ConfigError: the rollout's rate is not that of the set, or a head does not fit it.
        DataError: the set lacks episodes of a task, or truths.
    """
    if rollout.control_hz != source.fps:
        raise ConfigError(
            "rollout.control_hz", str(rollout.control_hz), f"{source.fps:g}, as in {source.config.path}", "Change it."
        )
    scores: list[PolicyScore] = []
    for task in rollout.tasks:
        samples = choose_episodes(source, (task,), num_demos, seed)
        demos = read_demonstrations(source, samples, normalise(source, samples))
        for name, config in heads.items():
            policy, seconds = fit_policy(config, demos, steps, seed)
            parameters = sum(parameter.numel() for parameter in policy.skill.action.parameters())
            found = try_policy(policy, rollout, task, folder, name)
            scores.append(PolicyScore(name, task, parameters, seconds, *found))
            note(f"{task}: {name}, fitted in {seconds:.0f} s, succeeded in {found[0]} of {found[1]}")
    return scores


def try_policy(
    policy: SkillPolicy, rollout: RolloutConfig, task: str, folder: Path, label: str
) -> tuple[int, int, float, float]:
    """Return successes, episodes and the interval of the rate at one task, without drawing anything."""
    config = rollout.replace(tasks=(task,), views=(), clips=0, ablate=0)
    (result,) = evaluate(policy, config, folder, f"{label}-{task}")["tasks"]
    return result["successes"], result["episodes"], result["low"], result["high"]


def _stage(steps: int, learn: tuple[str, ...]) -> StageConfig:
    return StageConfig(
        name="skill", steps=steps, learn=learn, lr=1e-3, warmup_steps=20, weight_decay=0.01, final_lr_share=0.02
    )


def _train(
    skill: Skill, demos: Demonstrations, stage: StageConfig, seed: int, look: Callable[[Tensor, Tensor], Context]
) -> None:
    optimizer, _ = stage.build(skill)
    rng = np.random.default_rng(key(seed, "batches"))
    for step in range(stage.steps):
        rows = torch.from_numpy(rng.integers(len(demos), size=BATCH))
        valid = demos.valid[rows]
        error = skill.action.loss(demos.action[rows], valid, look(demos.state[rows], demos.truth[rows]))
        total = error.sum() / (valid.sum() * error.shape[2])
        optimizer.clear()
        total.backward()
        if not optimizer.step(total.item(), stage.lr_share(step)).taken:
            raise TrainingError(
                f"policy fit, step {step + 1}", f"loss {total.item()}", "a finite one", "Look at the demonstrations."
            )
    optimizer.adopt()
