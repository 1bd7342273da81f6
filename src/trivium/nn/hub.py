"""Pretrained parts of transformers: loading them with errors a person can act on, and running them on our attention."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.utils import logging

from trivium.core.errors import ConfigError, SetupError
from trivium.nn.attention import Chunks, attend, attend_in_chunks


def load_part(load: Callable[..., Any], path: str, where: str, **options: Any) -> Any:
    """Call a transformers `from_pretrained` quietly, never with remote code, and name what went wrong.

    Args:
        load: such as `AutoConfig.from_pretrained`.
        path: a local folder or a hub name.
        where: dotted path of the config field that holds `path`.
        options: passed on to `load`.

    Raises:
        SetupError: the folder is not there, lacks files, or the name is neither cached nor to be downloaded.
        ConfigError: the files are there and are not what `load` reads.
    """
    found, gguf = find_gguf(path, where)
    folder = Path(found)
    if path.startswith((".", "/", "~")) and not folder.is_dir():
        raise SetupError(where, f"no folder {path}", "a folder with pretrained weights", _TODO)
    if folder.is_dir() and not gguf and not (folder / "config.json").is_file():
        raise SetupError(where, f"no config.json in {path}", "a folder with pretrained weights", _TODO)
    try:
        with quiet():
            return load(found, trust_remote_code=False, **options, **gguf)
    except OSError as error:
        raise SetupError(where, f"{path}: {first_line(error)}", "a complete folder or cached name", _TODO) from error
    except Exception as error:  # a stranger's files in a stranger's code: whatever goes wrong, they are named
        raise ConfigError(
            where,
            f"{path}: {first_line(error)}",
            "a model that transformers reads without remote code",
            "Check that the folder holds the right kind of model and whole files.",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing: what a person must know, we say."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def find_gguf(path: str, where: str) -> tuple[str, dict[str, str]]:
    """Return the folder of a GGUF file and the option by which transformers reads it; other paths come back unchanged.

    A folder counts as one when it has no config.json and just one such file. transformers unpacks the weights into
    full precision. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

    Raises:
        SetupError: no such file, or a package that reads it is missing.
        ConfigError: not a GGUF file, or several in a folder.
    """
    place = Path(path)
    files = [place] if path.endswith(".gguf") else []
    if place.is_dir() and not (place / "config.json").is_file():
        files = sorted(place.glob("*.gguf"))
    if not files:
        return path, {}
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:3])
        todo = "Name the file itself; the parts of a split one must be joined first (llama-gguf-split --merge)."
        raise ConfigError(where, f"{len(files)} GGUF files in {path}: {names}", "one", todo)
    (file,) = files
    if not file.is_file():
        raise SetupError(where, f"no file {file}", "a GGUF file", _TODO)
    if missing := [name for name in ("gguf", "accelerate") if not find_spec(name)]:
        todo = "Type: pip install -e '.[weights]'"
        raise SetupError(where, f"a GGUF file and no package {missing[0]!r}", "the extra `weights`", todo)
    with file.open("rb") as head:
        magic = head.read(4)
    if magic != b"GGUF":
        raise ConfigError(where, f"{file} that begins with {magic!r}", "a GGUF file", "Fetch the file again.")
    return str(file.parent), {"gguf_file": file.name}


def use_our_attention(model: PreTrainedModel) -> None:
    """Make a transformers model attend by `nn.attention.attend` (faster in bfloat16 on a CPU, the same elsewhere)."""
    AttentionInterface.register(_NAME, _attend)
    model.set_attn_implementation(_NAME)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    chunks: Chunks | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    if softcap is not None or s_aux is not None:
        raise NotImplementedError("attention with soft-capped scores or sinks")
    if chunks is not None and attention_mask is not None:
        return attend_in_chunks(query, key, value, attention_mask, chunks, scaling, dropout).transpose(1, 2), None
    return attend(query, key, value, attention_mask, scaling, dropout).transpose(1, 2), None


_NAME = "trivium"


def refuse_missing(missing: set[str] | list[str], path: str, where: str) -> None:
    """Refuse weights that do not cover the model: transformers fills the gaps with random numbers.

    Raises:
        SetupError: some weights are missing.
    """
    if missing:
        names = sorted(missing)
        raise SetupError(
            where,
            f"{path} without {len(names)} of its weights, such as {names[0]}",
            "a folder with all shards of the model",
            _TODO,
        )


def first_line(error: Exception) -> str:
    """Return what a stranger's error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_TODO = (
    "Run `make demo` once for the demo's own weights, or download the model on a machine with internet "
    "and give the path of its folder."
)
