"""Checkpoints: a folder appears whole or not at all, and the last good one stays until the next is safe."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from trivium.core.errors import CheckpointError
from trivium.core.files import publish_folder, sweep_folder, write_atomic, write_json
from trivium.core.log import warn
from trivium.train import parallel
from trivium.train.optim import Optimizer
from trivium.train.state import State

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
MANIFEST = "manifest.json"
LATEST = "latest"


@dataclass(frozen=True)
class Saved:
    """A checkpoint whose every byte has been checked."""

    folder: Path
    state: State

    def restore(self, module: nn.Module, optimizer: Optimizer | None = None) -> None:
        """Put the weights back, and the moments where training goes on.

        Raises:
            CheckpointError: the checkpoint belongs to another model or another choice of what learns.
        """
        load_weights(module, self.folder)
        if optimizer is not None:
            path = self.folder / "optimizer.safetensors"
            optimizer.load(_read(path), str(path))


class Checkpoints:
    """The checkpoints of one run: `STAGE/step-000123/` folders and a text file `latest` that names one of them.

    The order of saving is the whole secret: the folder is filled under another name, flushed and renamed; then
    `latest` moves; then older folders go. A process may die between any two of these and the run resumes. Rank 0
    writes; one process at a time may own the folder (`core.files.lock_folder`).
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """Open or start a folder of checkpoints.

        Args:
            folder: `checkpoints` of a run folder.
            keep: how many to keep, at least 1; the disk must hold one more while saving.
        """
        assert keep >= 1, "a run that keeps no checkpoint cannot resume"
        self.folder = folder
        self._keep = keep
        if parallel.rank() == 0:
            for place in [folder, *folder.glob("*/")]:
                sweep_folder(place)

    def save(self, state: State, module: nn.Module, optimizer: Optimizer) -> None:
        """Write a checkpoint, make it the latest, and delete those beyond `keep`.

        Args:
            state: counters, as they are now.
            module: everything whose weights the run needs again: the whole model, and the heads of this stage.
            optimizer: of this stage.

        Raises:
            CheckpointError: the disk is full; the checkpoints from before are untouched.
        """
        if parallel.rank() == 0:
            name = f"{state.stage}/step-{state.step:06d}"
            publish_folder(self.folder / name, lambda folder: _fill(folder, state, module, optimizer))
            write_atomic(self.folder / LATEST, f"{name}\n")
            self._prune(state)
        parallel.barrier()

    def find(self) -> Saved | None:
        """Return the latest checkpoint that is whole, or None when the run has not saved any.

        A damaged one is named in a warning, and the newest of the others is taken.

        Raises:
            CheckpointError: there are checkpoints, and none is whole.
        """
        others = sorted(self._all(), key=lambda folder: _place(folder), reverse=True)
        latest = self.folder / LATEST
        named = [self.folder / latest.read_text().strip()] if latest.exists() else []
        trouble: CheckpointError | None = None
        for folder in dict.fromkeys([*named, *others]):
            try:
                return open_checkpoint(folder)
            except CheckpointError as error:
                warn(f"{error} Now trying an older checkpoint.")
                trouble = trouble or error
        if trouble is not None:
            raise trouble
        return None

    def _all(self) -> list[Path]:
        return [folder for folder in self.folder.glob("*/step-*") if folder.is_dir()]

    def _prune(self, state: State) -> None:
        now = (state.stage_index, state.step)
        older = sorted((folder for folder in self._all() if _place(folder) < now), key=_place, reverse=True)
        # One that lies ahead is of a future that was given up when the run went back to an older checkpoint.
        ahead = [folder for folder in self._all() if _place(folder) > now]
        for folder in [*older[self._keep - 1 :], *ahead]:
            # Renamed first: a process killed in here must not leave half a folder under a good name.
            doomed = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
            folder.rename(doomed)
            rmtree(doomed)


def open_checkpoint(folder: Path) -> Saved:
    """Check size and sha256 of every file, and read where training stood.

    Raises:
        CheckpointError: a file is missing, truncated or changed; the text names it.
    """
    path = folder / MANIFEST
    files = _read_json(path).get("files")
    if not isinstance(files, dict) or set(files) != set(FILES):
        raise _damaged(path, "a manifest that does not list the files", ", ".join(FILES))
    for name, entry in files.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size != entry["size"]:
            found = "no such file" if size is None else f"{size} bytes"
            raise _damaged(file, found, f"{entry['size']} bytes, as the manifest says")
        if (found := file_sha256(file)) != entry["sha256"]:
            raise _damaged(file, f"sha256 {found[:12]}...", f"{entry['sha256'][:12]}..., as the manifest says")
    path = folder / "state.json"
    return Saved(folder, State.from_json(_read_json(path), str(path)))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return every weight of a checkpoint by name, tied ones under each of their names.

    Raises:
        CheckpointError: the file is missing or is no safetensors file.
    """
    path = folder / "model.safetensors"
    tensors = _read(path)
    with safe_open(path, framework="pt") as file:
        aliases = json.loads((file.metadata() or {}).get("aliases", "{}"))
    return tensors | {alias: tensors[name] for alias, name in aliases.items()}


def load_weights(module: nn.Module, folder: Path, prefix: str = "") -> None:
    """Copy the weights below a prefix into a module, all of them or none.

    Args:
        module: takes the weights.
        folder: of one checkpoint.
        prefix: such as "model." when the checkpoint holds more than the module.

    Raises:
        CheckpointError: a name, shape or type differs.
    """
    saved = {
        name.removeprefix(prefix): tensor for name, tensor in read_weights(folder).items() if name.startswith(prefix)
    }
    mine: dict[str, Tensor] = module.state_dict()
    wrong = [f"no {name!r}" for name in mine.keys() - saved.keys()]
    wrong += [f"an unknown {name!r}" for name in saved.keys() - mine.keys()]
    for name in mine.keys() & saved.keys():
        here, there = mine[name], saved[name]
        if (here.shape, here.dtype) != (there.shape, there.dtype):
            wrong.append(f"{name!r} as {tuple(there.shape)} {there.dtype}, not {tuple(here.shape)} {here.dtype}")
    if wrong:
        raise CheckpointError(
            str(folder / "model.safetensors"),
            f"{len(wrong)} weights that do not fit: {'; '.join(sorted(wrong)[:3])}",
            f"the {len(mine)} weights of {type(module).__name__}",
            "Resume with the config of the run folder, or start another run folder with --run.",
        )
    module.load_state_dict(saved)


def _fill(folder: Path, state: State, module: nn.Module, optimizer: Optimizer) -> None:
    tensors, aliases = _unshared(module.state_dict())
    save_file(tensors, folder / FILES[0], {"aliases": json.dumps(aliases)})
    save_file(optimizer.tensors(), folder / FILES[1])
    write_json(folder / FILES[2], state.to_json())
    files = {name: {"size": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)} for name in FILES}
    about = {"stage": state.stage, "step": state.step, "torch": torch.__version__, "ranks": parallel.world_size()}
    write_json(folder / MANIFEST, {"format": 1, **about, "files": files})


def _unshared(tensors: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Keep a tied weight once and note its other names: safetensors refuses tensors that share memory."""
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    for name, tensor in tensors.items():
        assert isinstance(tensor, Tensor), f"{name}: a state_dict may hold tensors only, for files without pickle"
        storage = tensor.untyped_storage()
        place = (storage.data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if place in first:
            aliases[name] = first[place]
            continue
        first[place] = name
        whole = storage.nbytes() == tensor.nbytes and tensor.is_contiguous()
        kept[name] = tensor if whole else tensor.clone(memory_format=torch.contiguous_format)
    return kept, aliases


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise _damaged(path, str(error), "a safetensors file") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _damaged(path, f"no readable JSON ({error})", "the JSON that was saved") from error
    if not isinstance(value, dict):
        raise _damaged(path, f"a {type(value).__name__}", "a JSON object")
    return value


def _place(folder: Path) -> tuple[int, int]:
    """Order by stage, then step; what cannot be read comes first of all, as the least to be trusted."""
    try:
        state = _read_json(folder / "state.json")
        return int(state["stage_index"]), int(state["step"])
    except (CheckpointError, KeyError, TypeError, ValueError):
        return -1, -1


def file_sha256(path: Path) -> str:
    """Hash a file, whatever its size, in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path, found: str, expected: str) -> CheckpointError:
    return CheckpointError(
        str(path),
        found,
        expected,
        "The checkpoint is damaged: delete its folder, or put it back from a copy.",
    )
