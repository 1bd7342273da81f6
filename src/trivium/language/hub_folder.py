"""A language model as a folder that transformers loads, and back: the trunk, the head and the tokenizer, no hook."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from torch import nn

from trivium.core.errors import CheckpointError
from trivium.language.model import LanguageModel, PretrainedLanguageConfig, TinyLanguageConfig
from trivium.language.trunk import layer_list
from trivium.language.vocab import Vocab
from trivium.nn.hub import load_part, quiet, refuse_missing

TOKENIZER = "tokenizer.json"
TODO = "Export the run again: trivium export RUN"
_WHERE = "language"


def write_language(
    language: LanguageModel, config: PretrainedLanguageConfig | TinyLanguageConfig, folder: Path
) -> set[str]:
    """Write config, weights and tokenizer; `AutoModelForCausalLM` and `AutoTokenizer` read them.

    The vocabulary keeps its added rows: ids from `vocab.extra_start` on have a row and no text.

    Returns:
        Names of the weights, as `language` calls them, that the folder holds; what was hooked in is not among them.
    """
    (trunk,) = language._trunk  # pyright: ignore[reportPrivateUsage] - kept out of the module tree on purpose
    settings = deepcopy(trunk.config)
    settings.vocab_size = language.vocab_size
    settings.tie_word_embeddings = language.head is None
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(settings, attn_implementation="eager")
    names, mine = hub_names(language, model), language.state_dict()
    model.load_state_dict({theirs: mine[ours] for ours, theirs in names.items()}, assign=True, strict=False)
    model.tie_weights()
    empty = [name for name, value in model.state_dict().items() if value.is_meta]
    assert not empty, f"{type(model).__name__} has weights that we have not: {empty[:3]}"
    with quiet():
        model.save_pretrained(folder)
    _write_tokenizer(language.vocab, config, folder)
    return set(names)


def read_language(folder: Path, vocab: dict[str, Any]) -> LanguageModel:
    """Build the model that `write_language` wrote, in float32, with every id where it was.

    Args:
        folder: the transformers folder.
        vocab: what `vocab_to_json` said.

    Raises:
        SetupError: files or weights are missing.
        ConfigError: not what transformers reads.
        CheckpointError: a tokenizer that is damaged or does not fit.
    """
    load = transformers.AutoModelForCausalLM.from_pretrained
    model, report = load_part(
        load, str(folder), _WHERE, dtype=torch.float32, output_loading_info=True, use_safetensors=True
    )
    refuse_missing(report["missing_keys"], str(folder), _WHERE)
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        known = Vocab(tokenizer, **vocab)
    except Exception as error:  # tokenizers raises bare Exception
        found = f"{type(error).__name__}: {error}"
        raise CheckpointError(str(folder / TOKENIZER), found, "the tokenizer that was exported", TODO) from error
    return LanguageModel(model, known, model.config.num_hidden_layers)


def vocab_to_json(vocab: Vocab, config: PretrainedLanguageConfig | TinyLanguageConfig) -> dict[str, Any]:
    """Return what, beside the tokenizer, makes the vocabulary again."""
    return {
        "end": vocab.end,
        "extra_start": vocab.extra_start,
        "num_extra": vocab.num_extra,
        "spans": dict(config.spans),
        "sentinels": list(config.sentinels),
    }


def hub_names(language: LanguageModel, model: Any) -> dict[str, str]:
    """Return what transformers calls each of our weights; those that it has no place for are left out."""
    prefix, layers = model.base_model_prefix, layer_list(model.base_model)
    by_module: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
    theirs, found = model.state_dict().keys(), {}
    for name in language.state_dict():
        part, _, rest = name.partition(".")
        if part == "embedding":
            there = f"{by_module[model.get_input_embeddings()]}.{rest}"
        elif part == "head":
            there = f"{by_module[model.get_output_embeddings()]}.{rest}"
        else:
            there = f"{prefix}.{layers if part == 'layers' else part}.{rest}"
        if there in theirs:
            found[name] = there
    return found


def held_names(language: LanguageModel) -> set[str]:
    """Return the names of the weights that a transformers folder of this model holds."""
    (trunk,) = language._trunk  # pyright: ignore[reportPrivateUsage] - kept out of the module tree on purpose
    with torch.device("meta"):  # a copy: transformers writes the attention into the config that it is given
        model = transformers.AutoModelForCausalLM.from_config(deepcopy(trunk.config), attn_implementation="eager")
    return set(hub_names(language, model))


def _write_tokenizer(vocab: Vocab, config: PretrainedLanguageConfig | TinyLanguageConfig, folder: Path) -> None:
    """Write the model's own tokenizer with its chat template, and our setting of it, whose ids are the same."""
    end = vocab.tokenizer.id_to_token(vocab.end)
    if isinstance(config, PretrainedLanguageConfig):
        tokenizer = load_part(transformers.AutoTokenizer.from_pretrained, config.path, "model.language.path")
    else:
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=vocab.tokenizer, eos_token=end)
    tokenizer.save_pretrained(folder)
    vocab.tokenizer.save(str(folder / TOKENIZER))
