"""Recording demonstrations of scripted experts: the engine behind `trivium demo-data`."""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trivium.core.errors import DataError
from trivium.core.files import lock_folder, publish_folder, write_json
from trivium.core.log import console, note, warn
from trivium.eval.demo_episode import open_staging, record_episode, start_worker
from trivium.eval.demo_settings import EpisodeSettings
from trivium.eval.demo_text import write_texts
from trivium.eval.sim.metaworld import MetaWorldConfig, check_views, load_simulator, task_text


class DemoDataConfig(MetaWorldConfig):
    """Demonstrations to record, and the captions, spatial questions and texts that go with them."""

    tasks: tuple[str, ...] = ("button-press-topdown-v3", "faucet-open-v3", "door-unlock-v3")
    """Meta-World v3 names; the order decides the order of the episodes in the set."""
    episodes: int = Field(default=100, ge=1, le=100_000)
    """Successful episodes a task; 25 are too few to find an object in pictures, 80 and more work."""
    action_noise: float = Field(default=0.5, ge=0, le=2)
    """Largest spread of the smooth noise on executed moves (the recorded label stays the expert's clean action), so
    that the policy sees how to come back; 0 records perfect episodes only. How much an expert bears depends on the
    task; what fails is not kept, and is counted."""
    steps_after_success: int = Field(default=5, ge=0, le=200)
    """Control steps (1 / `control_hz` seconds) that are kept after the first success."""
    max_steps: int = Field(default=150, ge=10, le=2000)
    """An episode without success after this many control steps counts as failed and is not kept."""
    caption_every: int = Field(default=12, ge=1)
    """One captioned picture in this many frames."""
    questions: int = Field(default=3, ge=0, le=8)
    """Spatial questions a captioned picture."""
    seed: int = Field(default=0, ge=0, le=1000)
    """Another seed records other episodes."""

    def build(self, folder: Path, workers: int | None = None) -> "Recorder":
        """Return the recorder of this set."""
        return Recorder(self, folder, workers)


@dataclass(frozen=True)
class DemoReport:
    """What `record` did."""

    folder: Path
    episodes: dict[str, int]
    """Kept episodes by task."""
    failures: dict[str, int]
    """Episodes by task in which the expert failed; none of them is in the set."""
    frames: int
    captions: int
    questions: int
    seconds: float
    already_there: bool = False


def record(config: DemoDataConfig, folder: Path, workers: int | None = None) -> DemoReport:
    """Record a set, or continue one that was interrupted, or recognise one that is complete.

    The folder then holds robot/ (LeRobot v3.0), captions/ and spatial_qa/ (image-text Parquet), text/ (jsonl) and
    demo.json. It appears complete or not at all; finished episodes wait in a hidden folder beside it.

    Args:
        config: what to record.
        folder: where the set goes.
        workers: processes; None takes one a core.

    Raises:
        DataError: the folder holds something else, or the expert fails at a task again and again.
        ConfigError: unknown task or view.
        SetupError: the simulator cannot be loaded.
    """
    return config.build(folder, workers).run()


class Recorder:
    """Runs the episodes of one set in worker processes and publishes the set at the end."""

    def __init__(self, config: DemoDataConfig, folder: Path, workers: int | None = None) -> None:
        """Check everything that can be wrong before the first episode."""
        self.config, self.folder = config, folder
        self.workers = workers or os.cpu_count() or 1
        check_views(config.views)
        self.texts = {task: task_text(task) for task in config.tasks}
        self.staging = folder.with_name(f".{folder.name}.recording")
        self.settings = EpisodeSettings(
            folder=self.staging / "episodes",
            world=config,
            action_noise=config.action_noise,
            steps_after_success=config.steps_after_success,
            max_steps=config.max_steps,
            caption_every=config.caption_every,
            questions=config.questions,
            seed=config.seed,
        )

    def run(self) -> DemoReport:
        """Record what is missing and publish."""
        if self.folder.exists() and any(self.folder.iterdir()):
            report = self._finished()
            shutil.rmtree(self.staging, ignore_errors=True)  # a process killed right after publishing leaves it
            note(f"{self.folder} is complete already: {sum(report.episodes.values())} episodes.")
            return report
        load_simulator()
        self.staging.parent.mkdir(parents=True, exist_ok=True)
        with lock_folder(self.staging):
            self._claim()
            start = time.monotonic()
            outcomes = self._record()
            report = self._publish(outcomes, start)
        shutil.rmtree(self.staging)
        return report

    def _finished(self) -> DemoReport:
        about_file = self.folder / "demo.json"
        if not about_file.is_file():
            raise DataError(
                str(self.folder),
                "files that `trivium demo-data` did not write",
                "an empty or a new folder",
                "Give another folder.",
            )
        about = json.loads(about_file.read_text())
        self._compare(self.folder, about["settings"])
        return DemoReport(**(about["report"] | {"folder": self.folder, "already_there": True}))

    def _claim(self) -> None:
        path = self.staging / "settings.json"
        if path.is_file():
            self._compare(self.staging, json.loads(path.read_text()))
        else:
            write_json(path, self.config.model_dump(mode="json"))

    def _compare(self, folder: Path, settings: dict[str, Any]) -> None:
        wanted = self.config.model_dump(mode="json")
        different = [key for key in wanted if settings.get(key) != wanted[key]]
        if different:
            key = different[0]
            raise DataError(
                str(folder),
                f"a recording made with {key}={settings.get(key)!r}",
                f"{key}={wanted[key]!r} as asked now",
                f"Remove that folder (rm -r '{folder}') or give another one.",
            )

    def _record(self) -> dict[str, dict[int, bool]]:
        """Play seeds 0, 1, 2, ... of every task until enough have succeeded; return seed -> kept, by task.

        The kept seeds do not depend on the number of workers: a task takes the shortest run of seeds that holds
        the asked number of successes.
        """
        outcomes: dict[str, dict[int, bool]] = {task: self._recorded(task) for task in self.config.tasks}
        queue = [(task, seed) for task in self.config.tasks for seed in self._wanted(outcomes[task])]
        with _progress() as bar, _pool(self.workers) as pool:
            line = bar.add_task("recording", total=self.config.episodes * len(outcomes))
            running: dict[Future, tuple[str, int]] = {}
            while True:
                kept = sum(sum(seeds.values()) for seeds in outcomes.values())
                bar.update(line, completed=kept, description=queue[0][0] if queue else "recording")
                while queue and len(running) < 2 * self.workers:
                    task, seed = queue.pop(0)
                    running[pool.submit(record_episode, self.settings, task, seed)] = (task, seed)
                if not running:
                    return outcomes
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task, seed = running.pop(future)
                    outcomes[task][seed] = future.result()
                    if not outcomes[task][seed]:
                        self._give_up(task, outcomes[task])
                        queue.insert(0, (task, len(outcomes[task]) + _count(task, queue, running)))

    def _recorded(self, task: str) -> dict[int, bool]:
        """Return what an earlier run has played: seed -> kept."""
        folder = self.settings.folder
        found = {int(path.name.rsplit("-", 1)[1]): True for path in folder.glob(f"{task}-[0-9]*")}
        failed = {int(path.stem.rsplit("-", 1)[1]): False for path in folder.glob(f".failed-{task}-[0-9]*.json")}
        return found | failed

    def _wanted(self, outcomes: dict[int, bool]) -> Iterator[int]:
        num_seeds = self.config.episodes + sum(not kept for kept in outcomes.values())
        return (seed for seed in range(num_seeds) if seed not in outcomes)

    def _give_up(self, task: str, outcomes: dict[int, bool]) -> None:
        failures = sum(not kept for kept in outcomes.values())
        if failures > 10 + self.config.episodes:
            raise DataError(
                f"task {task}",
                f"{failures} failed episodes out of {len(outcomes)}",
                "an expert that succeeds in every second episode at least",
                "Lower `action_noise`, raise `max_steps`, or leave the task out.",
            )

    def _publish(self, outcomes: dict[str, dict[int, bool]], start: float) -> DemoReport:
        keys = [f"{task}-{seed:06d}" for task in outcomes for seed, kept in sorted(outcomes[task].items()) if kept]
        texts = {text.instruction: text for text in self.texts.values()}
        failures = {task: sum(not kept for kept in seeds.values()) for task, seeds in outcomes.items()}
        reports: list[DemoReport] = []

        def fill(folder: Path) -> None:
            writer = open_staging(self.settings, texts)
            writer.fill(folder / "robot", keys)
            counts = write_texts(folder, self.settings, keys, tuple(texts.values()))
            info = json.loads((folder / "robot/meta/info.json").read_text())
            report = DemoReport(
                folder=self.folder,
                episodes={task: sum(seeds.values()) for task, seeds in outcomes.items()},
                failures=failures,
                frames=info["total_frames"],
                captions=counts["captions"],
                questions=counts["questions"],
                seconds=round(time.monotonic() - start, 1),
            )
            about = {key: value for key, value in report.__dict__.items() if key not in ("folder", "already_there")}
            write_json(folder / "demo.json", {"settings": self.config.model_dump(mode="json"), "report": about})
            reports.append(report)

        if self.folder.exists():
            self.folder.rmdir()  # empty, as `run` has seen
        publish_folder(self.folder, fill)
        for task, count in failures.items():
            if count:
                warn(f"{task}: the expert failed in {count} episodes, which were not kept.")
        return reports[0]


def _count(task: str, queue: list[tuple[str, int]], running: dict[Future, tuple[str, int]]) -> int:
    return Counter(name for name, _ in [*queue, *running.values()])[task]


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Start worker processes; on an error or Ctrl-C the episodes not yet begun are dropped.

    Raises:
        DataError: a worker was killed.
    """
    # spawn: a forked copy of a process that has used torch or GL is not safe.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=start_worker)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise DataError(
            "recording",
            "a worker process that was killed (often because memory ran out)",
            "workers that live until the last episode",
            "Type the same command again: it goes on where it stopped. Fewer workers need less memory.",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("episodes"))
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
