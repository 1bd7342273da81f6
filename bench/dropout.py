"""Does losing cameras in training make a policy bear the loss of one when it acts?

Command     python bench/dropout.py FOLDER SPREAD STEPS [SEED ...]     (default seeds 0 1 2; records the set once)
            SPREAD is how widely the object is placed: at 1 an arm that ignores its pictures presses the button in half
            of the episodes, and what is measured is whether it bears the gap; at 2 it has to look
Arms        no dropout; dropout of single cameras (`ModalityDropoutConfig.view`) with a ramp over the first tenth
Shared      120 demonstrations of one task seen from the front and from the wrist, a frozen encoder (4 layers of
            DINOv2-small) whose features are remembered, a small trunk, an L1 head, steps, seeds, data order, episodes
Conditions  every camera; the front, the wrist or both cameras dead (black frames, which the policy leaves out); the
            black frame shown, as a policy would see it that knows nothing of dead cameras. Both dead is the control:
            what succeeds there needs no eyes
Output      a table for a person, then one JSON line for a log; the difference between the arms with an interval from
            resampled seeds and episodes
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from trivium.action.fast import FastConfig
from trivium.action.regress import RegressConfig
from trivium.assemble import World
from trivium.connect.mlp import MlpConnectorConfig
from trivium.core.log import console, note
from trivium.core.rng import Rng
from trivium.core.sample import Image, Sample
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.transform import NormalizeConfig
from trivium.eval.ablation import blank
from trivium.eval.demo import DemoDataConfig, record
from trivium.eval.policy import Policy
from trivium.eval.rollout import RolloutConfig, evaluate
from trivium.language.model import TinyLanguageConfig
from trivium.policy.context import PatchContextConfig
from trivium.policy.objective import VlaConfig
from trivium.policy.visible import DARK, ModalityDropoutConfig
from trivium.policy.vla import ModelConfig
from trivium.run import CheckConfig, RobotConfig, Run, Stage
from trivium.train.loop import run_stage
from trivium.train.state import State
from trivium.vision.pretrained import PretrainedVisionConfig

TASK, VIEWS = "button-press-topdown-v3", ("corner2", "wrist")
DEMOS, HORIZON, EPISODES = 120, 8, 20
ARMS = {
    "no dropout": ModalityDropoutConfig(),
    "camera dropout 0.3": ModalityDropoutConfig(view=0.3, ramp=0.1),
}
SENSES: dict[str, tuple[tuple[str, ...], bool]] = {
    "all cameras": ((), False),
    "front dead": (("corner2",), False),
    "wrist dead": (("wrist",), False),
    "both dead": (VIEWS, False),
    "front black": (("corner2",), True),
    "wrist black": (("wrist",), True),
}
"""Conditions: which cameras fail, and whether their black frames are shown to the policy."""


class Blinded:
    """A policy of which some cameras fail."""

    def __init__(self, policy: Policy, views: Sequence[str], shown: bool) -> None:
        """Say which; `shown` makes their frames a shade too light to be known as those of a dead camera."""
        self.policy, self.views, self.shown = policy, views, shown

    def act(self, observations: Sequence[Sample]) -> np.ndarray:
        """Act on what is left."""
        seen = list(observations)
        for view in self.views:
            seen = [blank(sample, view) for sample in seen]
        return self.policy.act([self._lighten(sample) for sample in seen] if self.shown else seen)

    def _lighten(self, sample: Sample) -> Sample:
        segments = tuple(
            Image(pixels=np.full_like(part.pixels, DARK + 1), view=part.view, time_s=part.time_s)
            if isinstance(part, Image) and part.view in self.views
            else part
            for part in sample.segments
        )
        return Sample(**{**sample.__dict__, "segments": segments})


class Remembered:
    """A frozen encoder that looks at every picture once: all arms and seeds share what it saw."""

    def __init__(self, encoder: nn.Module) -> None:
        """Take the encoder's place."""
        self.forward, self.seen = encoder.forward, {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of the pictures."""
        keys = [blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in images]
        new = [i for i, key in enumerate(keys) if key not in self.seen]
        if new:
            for i, found in zip(new, self.forward(images[new]), strict=True):
                self.seen[keys[i]] = found.half()
        return torch.stack([self.seen[key] for key in keys]).float()


def setup(data: Path, dropout: ModalityDropoutConfig, seed: int, spread: float, steps: int) -> Run:
    """Return the run of one arm and seed."""
    robot = LeRobotConfig(path=str(data / "robot"), views=VIEWS, horizon=HORIZON)
    mixture = MixtureConfig(
        buckets=(BucketConfig(name="robot", source=robot, weight=1.0, max_epochs=20),),
        row_length=544,
        rows_per_batch=4,
        max_images_per_row=16,
        workers=0,
    )
    stage = Stage(
        name="align",
        steps=steps,
        learn=("*", "!vision"),
        lr=1e-3,
        warmup_steps=20,
        weight_decay=0.01,
        final_lr_share=0.02,
        save_every=10**6,
        eval_every=10**6,
        objective=VlaConfig(action_token_weight=0.0, dropout=dropout),
        mixture=mixture,
    )
    return Run(
        name="dropout",
        seed=seed,
        precision="float32",
        device="cpu",
        robot=RobotConfig(source=robot, state_dim=4, action_dim=4),
        transforms=(NormalizeConfig(),),
        model=ModelConfig(
            vision=PretrainedVisionConfig(path="build/weights/dinov2-small", num_layers=4, image_size=112),
            connect=MlpConnectorConfig(shuffle=2),
            language=TinyLanguageConfig(width=64, num_layers=2, heads=4),
            action=RegressConfig(horizon=HORIZON, width=96, depth=2, heads=4),
            context=PatchContextConfig(num_views=len(VIEWS)),
            tokenizer=FastConfig(vocab_size=256),
        ),
        stages=(stage,),
        health=CheckConfig(target=None),
        rollout=RolloutConfig(
            tasks=(TASK,),
            views=VIEWS,
            spread=spread,
            episodes=EPISODES,
            execute=5,
            max_steps=100,
            clips=0,
            ablate=0,
            seed=seed,
        ),
    )


def train(config: Run, folder: Path, memory: dict[bytes, Tensor]) -> tuple[Policy, float]:
    """Train one arm; return the policy and its last loss."""
    world = World(config, folder)
    eyes = Remembered(world.model.vision)
    eyes.seen, last = memory, []
    world.model.vision.forward = eyes
    work = world.stage(0)
    optimizer, _ = work.stage.build(work.objective)
    state = State(Rng(config.seed))
    state.begin_stage("align", 0)
    batches = work.loader.batches(0, work.stage.steps, 1)
    run_stage(
        work.objective,
        batches,
        optimizer,
        state,
        work.stage,
        save=lambda now: None,
        record=lambda now, seen: last.append(seen.total),
    )
    return world.policy(), float(np.mean(last[-20:]))


def measure(data: Path, seeds: Sequence[int], spread: float, steps: int) -> dict[str, dict[str, np.ndarray]]:
    """Return success by arm and condition: an entry a seed and episode."""
    memory: dict[bytes, Tensor] = {}
    found = {arm: {sense: np.zeros((len(seeds), EPISODES), bool) for sense in SENSES} for arm in ARMS}
    with tempfile.TemporaryDirectory() as place:
        for row, seed in enumerate(seeds):
            for arm, dropout in ARMS.items():
                config = setup(data, dropout, seed, spread, steps)
                folder = Path(place) / f"{arm}-{seed}".replace(" ", "-")
                folder.mkdir()
                policy, loss = train(config, folder, memory)
                assert config.rollout is not None, "set up above"
                for sense, (views, shown) in SENSES.items():
                    report = evaluate(Blinded(policy, views, shown), config.rollout, folder, sense.replace(" ", "-"))
                    found[arm][sense][row] = report["tasks"][0]["outcomes"]
                said = ", ".join(f"{sense} {found[arm][sense][row].sum()}" for sense in SENSES)
                note(f"seed {seed}, {arm}: loss {loss:.4f}; of {EPISODES}: {said}")
    return found


def resampled(values: np.ndarray) -> tuple[float, float, float]:
    """Return the mean over seeds and episodes, and its 95 % interval from drawing seeds, then episodes, again."""
    rng, (seeds, episodes) = np.random.default_rng(0), values.shape
    rows = rng.integers(seeds, size=(4000, seeds, 1))
    drawn = values[rows, rng.integers(episodes, size=(4000, seeds, episodes))].mean((1, 2))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def main(folder: Path, spread: float, steps: int, seeds: Sequence[int]) -> None:
    """Record, train, try and print."""
    torch.set_num_threads(1)
    data = folder / f"twoviews-{spread:g}"
    demos = DemoDataConfig(tasks=(TASK,), episodes=DEMOS, views=VIEWS, spread=spread, questions=0, caption_every=1000)
    record(demos, data, workers=1)
    found = measure(data, seeds, spread, steps)
    table = Table("arm", *SENSES, title=f"{TASK}: successes of {len(seeds)} x {EPISODES}, {steps} steps")
    for arm, by_sense in found.items():
        table.add_row(arm, *(str(int(success.sum())) for success in by_sense.values()))
    console.print(table)
    summary: dict[str, object] = {"spread": spread, "steps": steps, "seeds": list(seeds), "episodes": EPISODES}
    summary["successes"] = {a: {s: v.sum(1).tolist() for s, v in by.items()} for a, by in found.items()}
    plain, trained = (found[arm] for arm in ARMS)
    gains = Table("condition", *(f"lost: {arm}" for arm in ARMS), "spared by dropout", "95 %", title="success lost")
    for sense in list(SENSES)[1:]:
        losses = [arm["all cameras"].astype(float) - arm[sense] for arm in (plain, trained)]
        gain, low, high = resampled(losses[0] - losses[1])
        gains.add_row(sense, *(f"{loss.mean():+.2f}" for loss in losses), f"{gain:+.2f}", f"{low:+.2f} to {high:+.2f}")
        summary[sense] = {"lost": [round(float(loss.mean()), 4) for loss in losses], "spared": [gain, low, high]}
    console.print(gains)
    print(json.dumps(summary))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), [int(word) for word in sys.argv[4:]] or [0, 1, 2])
