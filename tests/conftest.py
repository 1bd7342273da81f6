"""Settings that every test shares: one thread, no network, a software renderer."""

import os
from ctypes.util import find_library

GL = next((name for name, library in (("osmesa", "OSMesa"), ("egl", "EGL")) if find_library(library)), None)

# Before torch, transformers or mujoco are imported anywhere: they read these once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's: two workers with two threads each are eight times slower
if GL:
    os.environ.setdefault("MUJOCO_GL", GL)

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # several pytest workers share few cores, and a sum must not depend on their number
settings.register_profile("trivium", deadline=None, derandomize=True, database=None)  # a failure is found again
settings.load_profile("trivium")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot do, saying why."""
    no_gpu = pytest.mark.skip(reason="no CUDA device")
    no_gl = pytest.mark.skip(reason="neither libOSMesa nor libEGL is installed: run scripts/setup_gl.sh")
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if item.get_closest_marker("sim") and GL is None:
            item.add_marker(no_gl)
