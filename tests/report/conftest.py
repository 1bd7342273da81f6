"""Makes a run folder as training writes it, with invented numbers: what the report's tests and eyes look at."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

TASKS = ("reach-v3", "push-v3", "drawer-open-v3")
STAGES = {
    "vision": ("vision", 300, ("vision", "clip"), {"contrastive": (3.4, 0.9), "mae": (1.0, 0.35)}),
    "language": ("continual", 200, ("language.layers.0-3",), {"text": (3.1, 1.7)}),
    "action": ("prior", 250, ("action",), {"flow": (2.0, 0.4)}),
    "connect": ("vla", 150, ("connect",), {"text": (3.0, 1.2)}),
    "joint": ("vla", 150, ("vision", "connect"), {"text": (1.2, 0.7)}),
    "everything": (
        "vla",
        600,
        ("*", "!vision.norm"),
        {"text": (0.7, 0.4), "action_token": (5.0, 2.2), "flow": (0.9, 0.2)},
    ),
}
BUCKETS = {
    "vision": (("scenes", 1.0, "image"),),
    "language": (("corpus", 1.0, "text"),),
    "action": (("trajectories", 1.0, "action"),),
    "connect": (("captions", 0.6, "image"), ("spatial-questions", 0.4, "image")),
    "joint": (("captions", 0.5, "image"), ("spatial-questions", 0.5, "image")),
    "everything": (
        ("demonstrations", 0.7, "action"),
        ("captions", 0.15, "image"),
        ("spatial-questions", 0.15, "image"),
    ),
}


FEW = ("joint", "everything")


@pytest.fixture(scope="session")
def make_fake_run():
    """Hand out the generator to fixtures that outlive a test."""
    return make_run


@pytest.fixture
def fake_run(tmp_path):
    """Hand out the generator of a small run; each chart costs a test some 0.08 s."""
    return lambda **wishes: make_run(tmp_path / "run", **({"stages": FEW, "num_strips": 1} | wishes))


def make_run(
    root: Path,
    *,
    stages: tuple[str, ...] = tuple(STAGES),
    steps_share: float = 1.0,
    num_clips: int = 2,
    clip_frames: int = 24,
    num_strips: int = 6,
) -> Path:
    """Write a whole run folder; numbers follow from fixed seeds."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    _write_config(root, stages)
    for name in stages:
        _write_json(root / f"plan/{name}.json", _plan(name))
    _write_metrics(root, rng, stages, steps_share)
    for number, name in enumerate(STAGES):
        if name not in stages:
            continue
        _write_json(root / f"health/{name}.json", _health(name, number, rng))
    for label, share in (("untrained", 0.02), ("everything", 0.66)):
        _write_json(root / f"eval/{label}.json", _eval(root, label, share, num_clips, clip_frames))
    _write_samples(root, rng, num_strips)
    sections = {"prepare": 21.3, "rollouts: untrained": 41.0}
    for name in stages:
        steps = STAGES[name][1]
        sections |= {f"plan: {name}": 0.8, f"train: {name}": steps * 0.35, f"health: {name}": 11.2}
    _write_json(root / "times.json", sections | {"rollouts: trained": 66.2})
    _write_json(root / "environment.json", {"trivium": "0.1.0", "python": "3.11.2", "torch": "2.13.0+cpu", "cpu": "2"})
    return root


def _write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, allow_nan=False))


def _write_config(root: Path, stages: tuple[str, ...]) -> None:
    lines = ["name: quickstart", "seed: 0", "precision: float32", "stages:"]
    for name in stages:
        kind, steps, learn, _ = STAGES[name]
        lines += [f"- name: {name}", f"  steps: {steps}", "  learn:", *(f"  - '{pattern}'" for pattern in learn)]
        lines += ["  lr: 0.0003", "  objective:", f"    kind: {kind}"]
    lines.append("note: a <b>tag</b> and a very long line " + "x" * 200)
    (root / "config.yaml").write_text("\n".join(lines) + "\n")


def _plan(name: str) -> dict:
    steps = STAGES[name][1]
    buckets = [
        {
            "bucket": bucket,
            "asked": share,
            "planned": share,
            "tokens": round(steps * 4096 * share),
            "samples": round(steps * 40 * share),
            "epochs": 1.7,
            "dropped": {"longer than a row (1024 tokens)": 3, "nothing in it for this stage (0 tokens)": 12}
            if bucket == "captions"
            else {},
            "dropped_samples": [4, 17, 230] if bucket == "captions" else [],
        }
        for bucket, share, _ in BUCKETS[name]
    ]
    learners = [
        {"pattern": pattern, "parameters": 12, "elements": 4_400_000}
        for pattern in STAGES[name][2]
        if not pattern.startswith("!")
    ]
    frozen = {"pattern": "(frozen)", "parameters": 200, "elements": 61_000_000}
    return {"fingerprint": "f00", "padding": 0.031, "buckets": buckets, "learners": [*learners, frozen]}


def _write_metrics(root: Path, rng, stages: tuple[str, ...], share: float) -> None:
    run_step = 0
    with (root / "metrics.jsonl").open("w") as file:
        for name in stages:
            _, steps, learn, losses = STAGES[name]
            for step in range(1, round(steps * share) + 1):
                run_step += 1
                file.write(json.dumps(_line(rng, name, step, run_step, steps, learn, losses)) + "\n")


def _line(rng, name, step, run_step, steps, learn, losses) -> dict:
    fall = np.exp(-4 * step / steps)
    values = {n: end + (start - end) * fall + 0.06 * start * rng.normal() for n, (start, end) in losses.items()}
    if name == "everything" and step == 40:
        values["flow"] = None
    cosine = min(step / 20, 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * step / steps)))
    tokens = {}
    for bucket, part, modality in BUCKETS[name]:
        amount = round(4096 * part * (1 + 0.1 * rng.normal()))
        if name != "language":
            tokens[f"{bucket}/{modality}"] = round(0.8 * amount)
        tokens[f"{bucket}/text"] = round(0.2 * amount)
    return {
        "stage": name,
        "step": step,
        "run_step": run_step,
        "loss": values,
        "total": sum(v for v in values.values() if v is not None),
        "grad_norm": float(np.exp(0.3 * rng.normal()) * (0.4 + 3 * fall)),
        "lr": {pattern: 3e-4 * cosine * (0.2 if "vision" in pattern else 1) for pattern in learn}
        | {"base": 3e-4 * cosine},
        "tokens": tokens,
        "tokens_per_s": 9000 + 800 * rng.normal(),
        "data_wait": abs(0.03 * rng.normal()),
        "skipped": 1 if name == "everything" and step >= 40 else 0,
    }


def _estimate(value: float, half: float) -> dict:
    return {"value": value, "low": value - half, "high": value + half}


def _health(stage: str, number: int, rng) -> dict:
    sizes = [32, 102, 325, 1033]
    level = {"aligned": min(0.9, 0.5 + 0.09 * number), "random-init": 0.48, "raw-pixels": 0.55}
    targets = []
    for name, metric, second, easier in (
        ("object position", "R2", "error_cm", 0.0),
        ("next actions", "R2", "mse", -0.12),
        ("task identity", "accuracy", "none", 0.3),
    ):
        curves, margins = [], []
        for encoder, top in level.items():
            for probe in ("linear", "mlp"):
                best = min(1.0, top + easier + (0.03 if probe == "mlp" else 0))
                scores = [best * (0.3 + 0.7 * i / 3) + 0.01 * rng.normal() for i in range(4)]
                curves.append(
                    {
                        "encoder": encoder,
                        "probe": probe,
                        "sizes": sizes,
                        "scores": [_estimate(s, 0.1 - 0.02 * i) for i, s in enumerate(scores)],
                        "aulc": _estimate(float(np.mean(scores)), 0.05),
                        "second": [] if second == "none" else [6.0 - 4 * s for s in scores],
                    }
                )
        for control in ("random-init", "raw-pixels"):
            for probe in ("linear", "mlp"):
                gap = level["aligned"] - level[control]
                outcome = "better" if gap > 0.06 else "tie" if gap > -0.06 else "worse"
                estimates = {key: _estimate(gap, 0.06) for key in ("full", "small", "aulc")}
                margins.append({"control": control, "probe": probe, "outcome": outcome, **estimates})
        targets.append(
            {
                "name": name,
                "metric": metric,
                "second": second,
                "chance": 0.0 if metric == "R2" else 0.34,
                "num_samples": 1377,
                "columns_left_out": 1,
                "curves": curves,
                "margins": margins,
                "sentences": [
                    f"aligned beats random-init on {name} by 0.21 [0.15, 0.27] {metric} (linear probe, 1033 training "
                    "samples): good sign."
                ],
            }
        )
    return {
        "stage": stage,
        "subject": "aligned",
        "num_samples": 1377,
        "num_episodes": 45,
        "num_folds": 4,
        "encoders": [{"name": n, "width": 768, "components": 128, "variance_kept": 0.93} for n in level],
        "targets": targets,
        "verdict": "On object position aligned beats random-init and raw-pixels; on task identity it ties.",
        "cautions": ["This is a ranking with uncertainty on frozen features, not a pass or a fail."],
        "seconds": 11.2,
    }


def _eval(root: Path, label: str, share: float, num_clips: int, clip_frames: int) -> dict:
    tasks = []
    for number, task in enumerate(TASKS):
        successes = round(20 * min(1.0, share * (1.3 - 0.3 * number)))
        videos = []
        for clip in range(num_clips):
            videos.append(f"eval/videos/{label}-{task}-{clip}.gif")
            _write_gif(root / videos[-1], 10 * number + clip, clip_frames)
        low, high = max(0.0, successes / 20 - 0.18), min(1.0, successes / 20 + 0.18)
        tasks.append(
            {
                "task": task,
                "successes": successes,
                "episodes": 20,
                "low": low,
                "high": high,
                "mean_length": 140.5,
                "videos": videos,
            }
        )
    return {"label": label, "tasks": tasks, "mean": share, "low": max(0.0, share - 0.11), "high": share + 0.11}


def _frame(seed: int, phase: float, size: int = 128) -> Image.Image:
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (size, size), (196, 178, 150))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, size, size // 3), fill=(120, 130, 145))
    x, y = rng.uniform(0.2, 0.8, 2) * size
    draw.ellipse((x - 9, y - 9, x + 9, y + 9), fill=(200, 40, 40))
    hand = (size * 0.5 * (1 - phase) + x * phase, size * 0.3 * (1 - phase) + y * phase)
    draw.line((size / 2, 0, *hand), fill=(40, 40, 50), width=8)
    return picture


def _write_gif(path: Path, seed: int, num_frames: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [_frame(seed, i / num_frames) for i in range(num_frames)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=80, loop=0)


def _write_samples(root: Path, rng, num_strips: int) -> None:
    (root / "samples").mkdir(exist_ok=True)
    strips = []
    for number in range(num_strips):
        _frame(number, 0.3, 224).save(root / f"samples/{number}.png")
        actions = np.cumsum(rng.normal(0, 0.15, (16, 4)), axis=0)
        strips.append(
            {
                "id": f"metaworld/{number}/37",
                "image": f"samples/{number}.png",
                "instruction": ("push the puck to the goal", "open the drawer <slowly> & fully")[number % 2],
                "state": {"hand_x": 0.01, "hand_y": 0.6123, "hand_z": 0.2, "gripper": 0.93},
                "names": ["dx", "dy", "dz", "gripper"],
                "actions": actions.round(4).tolist(),
                "valid": [True] * 16 if number != 5 else [True] * 11 + [False] * 5,
            }
        )
    _write_json(root / "samples/samples.json", strips)


if __name__ == "__main__":
    make_run(Path(sys.argv[1]))
