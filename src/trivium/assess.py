"""What is measured around a stage: probes of frozen features, rollouts in the simulator, pictures of the data."""

import io
import time
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image as Pillow

from trivium.assemble import Stagework, World
from trivium.core.errors import ConfigError, DataError
from trivium.core.files import publish_folder, write_atomic, write_json
from trivium.core.log import console, note, warn
from trivium.core.rng import isolated, key, numpy_rng
from trivium.core.sample import Action, Image, Sample, State, Text
from trivium.data.bucket import select
from trivium.data.source.source import Source
from trivium.eval.rollout import evaluate
from trivium.language.heldout import HeldOutConfig, score
from trivium.policy.foresight import measure
from trivium.policy.unified import UnifiedObjective
from trivium.policy.unified_layout import UnifiedLayout
from trivium.probe.check import Memory, health_check
from trivium.probe.features import extract, raw_pixels
from trivium.probe.tasks import Target, next_actions, number_tasks, object_position, task_identity
from trivium.run import Run
from trivium.train.stage import undisturbed

UNTRAINED = "untrained"
"""Label of the rollouts before the first stage: the same network with nothing learned here."""
NUM_STRIPS = 6
"""Aligned (observation, action chunk) samples drawn for the report."""
NUM_FORESEEN, NUM_PAINTED = 256, 6
"""Held-out frames that a unified stage is scored on, and how many of them are painted."""


@dataclass(frozen=True, eq=False)
class _Ground:
    """What the health checks of a run share: frames, what is asked of them, and the encoders that never change."""

    samples: list[Sample]
    episodes: np.ndarray
    tasks: np.ndarray
    """Number of the task of each frame."""
    seen: np.ndarray
    """True for frames of training episodes: probes may learn from them, and are never tested on them."""
    targets: list[Target]
    controls: dict[str, np.ndarray]
    memory: Memory


_grounds: WeakKeyDictionary[World, _Ground] = WeakKeyDictionary()


def check_health(world: World, stage: str, step: int | None = None) -> None:
    """Probe the model as it stands against a random-init twin and raw pixels; write health/<stage>.json.

    A check in the middle of a stage (`step`) is kept beside the one at its end, under <stage>-<step>.
    """
    name = stage if step is None else f"{stage}-{step:06d}"
    if world not in _grounds:
        _grounds[world] = _prepare(world)
    ground = _grounds[world]
    with isolated(key(world.config.seed, "health", name)):
        report = health_check(
            name,
            {"aligned": extract(world.features(world.model), ground.samples), **ground.controls},
            ground.targets,
            episodes=ground.episodes,
            tasks=ground.tasks,
            seen=ground.seen,
            config=world.config.health.probe,
            memory=ground.memory,
        )
    write_json(world.folder / f"health/{name}.json", report.model_dump(mode="json"))
    console.print(report.table())
    console.print(report.verdict, markup=False)


def roll_out(world: World, label: str, episodes: int | None = None) -> None:
    """Try the model as it stands in the simulator; write eval/<label>.json and clips beside it.

    Raises:
        ConfigError: the run names nothing to try.
    """
    config = world.config.rollout
    if config is None:
        raise ConfigError("rollout", "null", "tasks to try the policy on", "The run's recipe has to name them.")
    if episodes is not None:
        config = config.replace(episodes=episodes)
    if label == UNTRAINED:
        config = config.replace(ablate=0)  # what has learned nothing has nothing to miss
    with isolated(key(world.config.seed, "rollout", label)):
        evaluate(world.policy(), config, world.folder / "eval", label)


def measure_text(world: World, stage: str, step: int | None = None) -> None:
    """Score the held-out texts with the language model as it stands; write text/<stage>.json.

    A measurement in the middle of a stage (`step`) is kept beside the one at its end, under <stage>-<step>.

    Raises:
        ConfigError: a bucket trains on all of a text that is to be held out.
    """
    texts = world.config.health.texts
    if not texts:
        return
    name = stage if step is None else f"{stage}-{step:06d}"
    start, scores = time.perf_counter(), []
    with undisturbed(world.model, key(world.config.seed, "text", name)):
        for text in texts:
            source = world.source(text.source)
            found = _held_out(world.config, text, source)
            order = numpy_rng(0, "held-out", text.name).permutation(len(found))
            # A sample of text has 20 tokens or more as a rule.
            samples, chosen = readable(source, found[order[: text.num_tokens // 20 + 1]])
            samples = [world.chain.forward(sample, None) for sample in samples]
            groups = source.groups()[chosen]
            scores.append(score(text.name, world.model.language, samples, groups, text.num_tokens))
    report = {"stage": stage, "step": step, "texts": [found.model_dump(mode="json") for found in scores]}
    write_json(world.folder / f"text/{name}.json", report | {"seconds": round(time.perf_counter() - start, 2)})
    for found in scores:
        note(f"held-out {found.name}: {found.bits_per_byte:.3f} bits a byte ({found.low:.3f} to {found.high:.3f})")


def draw_samples(world: World) -> None:
    """Keep a few samples as they are trained on, for a person to judge: picture, state, and the chunk that follows."""
    folder = world.folder / "samples"
    if folder.exists():
        return
    source = world.robot
    found = select(source, "train", world.config.robot.val_share)
    chosen = found[np.linspace(0, len(found) - 1, NUM_STRIPS).astype(int)]

    def fill(partial: Path) -> None:
        strips = []
        for number, sample in enumerate(readable(source, chosen)[0]):
            Pillow.fromarray(sample.of(Image)[0].pixels).save(partial / f"{number}.png")
            strips.append(_strip(sample, f"samples/{number}.png"))
        write_json(partial / "samples.json", strips)

    publish_folder(folder, fill)


def foresee(world: World, work: Stagework) -> None:
    """Score and paint next frames of held-out episodes after a unified stage that learned from some.

    Writes unified/<stage>.json and unified/<stage>.png: a row a sample, now, next, next as its ids paint it, foreseen.
    """
    objective, layout, name = work.objective, work.loader.layout, work.stage.name
    if not isinstance(objective, UnifiedObjective) or not isinstance(layout, UnifiedLayout):
        return
    bucket = next((b for b in work.stage.mixture.buckets if getattr(b.source, "future", 0) and b.val_share), None)
    if bucket is None:
        return
    start, source, sides = time.perf_counter(), world.source(bucket.source), []
    for split in ("train", "val"):
        found = select(source, split, bucket.val_share)
        spread = np.unique(np.linspace(0, len(found) - 1, 2 * NUM_FORESEEN).astype(int))
        chosen = [i for i in found[spread].tolist() if _foresees(source.peek(i))]
        picked = np.linspace(0, len(chosen) - 1, min(len(chosen), NUM_FORESEEN)).astype(int)
        sides.append(readable(source, numpy_rng(0, "foresee", split).permutation(np.asarray(chosen)[picked])))
    (training, _), (heldout, numbers) = sides
    training, heldout = ([world.chain.forward(sample, None) for sample in side] for side in (training, heldout))
    with undisturbed(objective, key(world.config.seed, "foresee", name)):
        episodes = source.groups()[numbers]
        report, painted = measure(name, objective, layout, training, heldout, episodes, NUM_PAINTED)
    buffer = io.BytesIO()
    Pillow.fromarray(painted).save(buffer, "PNG")
    write_atomic(world.folder / f"unified/{name}.png", buffer.getvalue())
    seconds = round(time.perf_counter() - start, 2)
    write_json(world.folder / f"unified/{name}.json", report.model_dump(mode="json") | {"seconds": seconds})
    note(
        f"next frame: {report.bits.value:.2f} bits a token ({report.bits.low:.2f} to {report.bits.high:.2f}), "
        f"unconditional {report.histogram_bits.value:.2f}, by place {report.place_bits.value:.2f}, "
        f"copying {report.copy_bits.value:.2f}"
    )


def _foresees(sample: Sample) -> bool:
    now_s = sample.of(Action)[0].time_s
    return any(image.time_s > now_s for image in sample.of(Image))


def _prepare(world: World) -> _Ground:
    """Read the frames that probes see: half from held-out episodes, half from the training side, spread evenly."""
    source, config = world.robot, world.config
    halves = []
    for split in ("val", "train"):
        found = select(source, split, config.robot.val_share)
        number = min(len(found), config.health.num_samples // 2)
        halves.append(found[np.linspace(0, len(found) - 1, number).astype(int)])
    samples, chosen = readable(source, np.concatenate(halves))
    tasks = number_tasks([source.task(int(i)) for i in chosen])
    target = config.health.target
    with isolated(key(config.seed, "controls")):
        controls = {
            "random-init": extract(world.features(world.random_twin()), samples),
            "raw-pixels": raw_pixels(samples),
        }
    return _Ground(
        samples=samples,
        episodes=source.groups()[chosen],
        tasks=tasks,
        seen=np.isin(chosen, halves[1]),
        targets=[
            *([object_position(samples, target)] if target else []),
            next_actions([world.chain.forward(sample, None) for sample in samples]),
            task_identity(tasks),
        ],
        controls=controls,
        memory={},
    )


def _held_out(config: Run, text: HeldOutConfig, source: Source) -> np.ndarray:
    """Return the documents of a text that no stage trains on."""
    sides = {
        (bucket.split, bucket.val_share)
        for stage in config.stages
        for bucket in stage.mixture.buckets
        if getattr(bucket.source, "path", None) == getattr(text.source, "path", "")
    }
    if not sides:
        return select(source, "all", 0.0)
    if len(sides) > 1 or any(split != "train" or share == 0 for split, share in sides):
        said = ", ".join(f"split {split!r} with val_share {share:g}" for split, share in sorted(sides))
        raise ConfigError(
            f"health.texts.{text.name}",
            f"buckets that train on it by {said}",
            "split 'train' and one val_share above 0, so that the rest was never trained on",
            "Change the buckets, or measure another text.",
        )
    ((_, share),) = sides
    return select(source, "val", share)


def readable(source: Source, chosen: np.ndarray) -> tuple[list[Sample], np.ndarray]:
    """Read the chosen samples, and say which of them are bad and left out; return what was read, and its numbers."""
    found: list[tuple[int, Sample]] = []
    bad: list[DataError] = []
    for i in chosen.tolist():
        try:
            found.append((i, source.read(i)))
        except DataError as error:
            bad.append(error)
    if bad and not found:
        raise bad[0]
    if bad:
        warn(f"{len(bad)} of {len(chosen)} samples are bad and not looked at here; the first: {bad[0]}")
    return [sample for _, sample in found], np.asarray([i for i, _ in found])


def _strip(sample: Sample, picture: str) -> dict:
    state, action = sample.of(State)[0], sample.of(Action)[0]
    return {
        "id": sample.id,
        "image": picture,
        "instruction": sample.of(Text)[0].text,
        "state": dict(zip(state.names, map(float, state.values), strict=True)),
        "names": list(action.names),
        "actions": action.values.tolist(),
        "valid": action.valid.tolist(),
    }
