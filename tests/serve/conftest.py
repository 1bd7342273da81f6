"""Small runs, trained once, and what was exported of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import small_run

from trivium import curriculum
from trivium.cli.handover import export_run
from trivium.run import Run


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write_set(tmp_path_factory.mktemp("serve") / "set")


@pytest.fixture(scope="package")
def train(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train a variant of the small run, without a simulator."""

    def train(change: Callable[[Run], Run] = lambda config: config, health: bool = False) -> Path:
        folder = tmp_path_factory.mktemp("run") / "run"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(curriculum, "roll_out", small_run.no_simulator)
            if not health:
                patch.setattr(curriculum, "check_health", small_run.no_health)
            curriculum.execute(change(small_run.small_run(data, workers=0)), folder)
        return folder

    return train


@pytest.fixture(scope="package")
def run(train: Callable[..., Path]) -> Path:
    return train(health=True)


@pytest.fixture(scope="package")
def export(run: Path) -> Path:
    return export_run(run)
