"""Weights of a connector from a file: one of ours, or those that InternVL publishes."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from trivium.core.errors import ConfigError, SetupError
from trivium.core.log import warn

_PATH = "connect.path"
_OURS = ("connect.", "model.connect.")
_UNORDERED = "mlp1."
"""How InternVL's own checkpoints name their connector; they hold either order of pixel shuffle."""


@torch.no_grad()
def load_weights(module: nn.Module, path: str, published: Mapping[str, str]) -> None:
    """Copy all weights of a connector from a safetensors file, or from those of a folder.

    Args:
        module: the connector, changed in place.
        path: of the file or folder.
        published: how others name the parts of such a connector, and what they are called here.

    Raises:
        SetupError: there is no such file.
        ConfigError: it holds no such connector, or one for other widths or of another order.
    """
    files = _files(path)
    wanted = module.state_dict()
    found: dict[str, Tensor] = {}
    unordered = False
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for stranger in opened.keys():  # noqa: SIM118 - it is no mapping
                    name = _rename(stranger, published)
                    if name is not None:
                        shape = tuple(opened.get_slice(stranger).get_shape())
                        _check_shape(name, shape, wanted, file)
                        found[name] = opened.get_tensor(stranger)
                        unordered |= stranger.startswith(_UNORDERED)
        except SafetensorError as error:
            todo = "Fetch the file again."
            raise ConfigError(
                _PATH, f"{file}, which cannot be read ({error})", "a whole safetensors file", todo
            ) from None
    if missing := [name for name in wanted if name not in found]:
        begins = ", ".join([*_OURS, *published])
        raise ConfigError(
            _PATH,
            f"{path} without {len(missing)} of the connector's {len(wanted)} weights, such as {missing[0]}",
            f"all of them, under names that begin with one of {begins}",
            f"Name the file of a {type(module).__name__}, or set connect.path=null to start fresh.",
        )
    if bad := [name for name, value in found.items() if not (value.is_floating_point() and value.isfinite().all())]:
        raise ConfigError(_PATH, f"{path}, whose {bad[0]} is not of finite numbers", "weights", "Fetch the file again.")
    if unordered:
        _check_order(Path(path))
    module.load_state_dict(found)


def _files(path: str) -> list[Path]:
    place = Path(path).expanduser()
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
    if not files or not files[0].is_file():
        found = f"no safetensors file in {path}" if place.is_dir() else f"no file {path}"
        raise SetupError(_PATH, found, "weights of a connector", "Give another path, or set connect.path=null.")
    if files[0].suffix != ".safetensors":
        todo = "Pickled weights are never read: write them as safetensors first."
        raise ConfigError(_PATH, path, "a file that ends in .safetensors", todo)
    return files


def _rename(stranger: str, published: Mapping[str, str]) -> str | None:
    for prefix in _OURS:
        if stranger.startswith(prefix):
            return stranger.removeprefix(prefix)
    part, _, last = stranger.removeprefix("model.").rpartition(".")
    return f"{published[part]}.{last}" if part in published else None


def _check_shape(name: str, shape: tuple[int, ...], wanted: Mapping[str, Tensor], file: Path) -> None:
    if name not in wanted:
        raise ConfigError(
            _PATH,
            f"{file} with a weight {name}",
            f"the weights of this connector: {', '.join(list(wanted)[:8])}",
            "It belongs to a connector of another kind or depth: change connect, or set connect.path=null.",
        )
    if shape != tuple(wanted[name].shape):
        raise ConfigError(
            _PATH,
            f"{file} with {name} of shape {shape}",
            f"{tuple(wanted[name].shape)}",
            "It was made for other widths: take the encoder, connect settings and language model that it was trained "
            "between, or set connect.path=null to start fresh.",
        )


def _check_order(path: Path) -> None:
    """Refuse the older order of pixel shuffle; say so where nobody wrote down which it is."""
    about = (path if path.is_dir() else path.parent) / "config.json"
    try:
        version = json.loads(about.read_text()).get("ps_version")
    except (OSError, ValueError, AttributeError):
        version = None
    if version is None:
        warn(
            f"{_PATH}: {path} does not say in which order it folds patches; taken as ps_version v2 (InternVL 1.5 and "
            "later). Weights of v1 would see every picture transposed"
        )
    elif version != "v2":
        raise ConfigError(
            _PATH,
            f"{about} with ps_version {version!r}",
            "'v2', the order in which patches are folded here",
            "Take InternVL 1.5 or later, or set connect.path=null.",
        )
