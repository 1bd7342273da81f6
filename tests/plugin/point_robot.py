"""A robot that is a point on a table, seen by two cameras: sets for the audit with every clock known."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from trivium.core.files import publish_folder
from trivium.data.audit.recording import SIDE, Recording, recording
from trivium.data.source.episode import Trajectories
from trivium.data.source.lerobot_schema import SetSpec
from trivium.data.source.lerobot_write import Episode, LeRobotWriter

FPS = 20
VIEWS = ("front", "side")


def trajectories(episodes: int = 24, length: int = 60, seed: int = 0) -> Trajectories:
    """A sluggish point that follows smooth random commands: action[t] pulls from frame t to t+1."""
    rng = np.random.default_rng(seed)
    states, actions = [], []
    for _ in range(episodes):
        place, speed, wish = rng.uniform(-0.3, 0.3, 2), np.zeros(2), rng.standard_normal(2)
        for _ in range(length):
            wish = 0.8 * wish + 0.6 * rng.standard_normal(2) - 0.5 * place
            states.append(place)
            actions.append(wish)
            speed = 0.6 * speed + 0.03 * wish
            place = place + speed
    ends = np.arange(1, episodes + 1) * length
    return Trajectories(
        fps=FPS,
        number=np.arange(episodes) + 100,
        end=ends,
        state=np.array(states, np.float32),
        action=np.array(actions, np.float32),
        state_names=("x", "y"),
        action_names=("dx", "dy"),
        tasks=("wander",),
        task=np.zeros(len(states), np.int64),
    )


def see(state: np.ndarray, view: str) -> np.ndarray:
    """Draw a blob where the point is; the cameras have backgrounds and directions of their own."""
    grid = np.linspace(-1, 1, SIDE)
    u, v = (state[:, 0], state[:, 1]) if view == "front" else (-state[:, 1], state[:, 0])
    blob = np.exp(-((grid - u[:, None, None]) ** 2 + (grid[:, None] - v[:, None, None]) ** 2) / 0.08)
    back = 60 * (grid[:, None] > 0.2) + 0 * grid if view == "front" else 60 * (grid > -0.3) + 0 * grid[:, None]
    return (20 + back + 160 * blob).astype(np.uint8)


def point_robot(episodes: int = 24, length: int = 60, seed: int = 0, views: tuple[str, ...] = VIEWS) -> Recording:
    found = trajectories(episodes, length, seed)
    return recording("points", found, {view: see(found.state, view).reshape(len(found.state), -1) for view in views})


def late(seen: Recording, e: int, stream: str, frames: int, start: int = 0) -> Recording:
    """Store one stream of an episode late by so many frames, from a frame on; the ends repeat."""
    span = seen.spans()[e]
    n = span.stop - span.start
    index = np.arange(len(seen.state))
    moved = np.arange(n) - frames * (np.arange(n) >= start)
    index[span] = span.start + np.clip(moved, 0, n - 1)
    if stream == "pictures":
        return replace(seen, looks={view: looks[index] for view, looks in seen.looks.items()})
    if stream in seen.looks:
        return replace(seen, looks=dict(seen.looks) | {stream: seen.looks[stream][index]})
    return replace(seen, **{stream: getattr(seen, stream)[index]})


def without(seen: Recording, e: int, at: int, rows: int) -> Recording:
    """Lose rows of an episode from every stream."""
    begin = int(seen.begin[e]) + at
    kept = np.delete(np.arange(len(seen.state)), np.arange(begin, begin + rows))
    end = seen.end - rows * (np.arange(len(seen.end)) >= e)
    looks = {view: values[kept] for view, values in seen.looks.items()}
    begins = np.concatenate([[0], end[:-1]])
    return replace(seen, begin=begins, end=end, state=seen.state[kept], action=seen.action[kept], looks=looks)


def write_points(folder: Path, seen: Recording) -> Path:
    """Write a recording as a LeRobot set."""
    columns = {"observation.state": seen.state_names, "action": seen.action_names}
    spec = SetSpec(
        fps=FPS, robot_type="point", views=dict.fromkeys(seen.looks, (SIDE, SIDE)), columns=columns, license="MIT"
    )
    writer = LeRobotWriter(folder.with_name(f"{folder.name}.staging"), spec)
    for e, span in enumerate(seen.spans()):
        frames = {v: np.repeat(x[span].reshape(-1, SIDE, SIDE, 1), 3, axis=3) for v, x in seen.looks.items()}
        values = {"observation.state": seen.state[span], "action": seen.action[span]}
        writer.add(f"{e:03d}", Episode("wander", values, frames))
    publish_folder(folder, lambda partial: writer.fill(partial, writer.keys()))
    return folder
