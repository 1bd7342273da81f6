"""The chat template of a language model, as runs of ids around what is said."""

from dataclasses import dataclass
from typing import Any

from trivium.core.errors import ConfigError

_MARKS = ("\u2460", "\u2461", "\u2462", "\u2463")
"""Stand for the words of four turns while the template is taken apart; no template contains them."""


@dataclass(frozen=True)
class Chat:
    """What stands between the words of a conversation, so that they read as the model's own template renders them.

    The words themselves are encoded apart and without special tokens: "<|im_end|>" in a question ends no turn.
    """

    opening: tuple[int, ...]
    """Before the first words of the user: a begin of text, the template's own system prompt, the user's header."""
    reply: tuple[int, ...]
    """Between the user's words and the answer."""
    close: tuple[int, ...]
    """Behind an answer: what the model learns to end a turn with."""
    again: tuple[int, ...]
    """Between `close` and the user's next words."""


def read_chat(tokenizer: Any, where: str) -> Chat:
    """Take the chat template of a transformers tokenizer apart.

    Args:
        tokenizer: a fast tokenizer with a template.
        where: dotted path of the setting, for errors.

    Raises:
        ConfigError: no template, or one whose turns are not simply put side by side.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise _unusable(where, "a tokenizer without a chat template", "Set chat=False: a base model has none.")
    roles = ("user", "assistant", "user", "assistant")
    said = [{"role": role, "content": mark} for role, mark in zip(roles, _MARKS, strict=True)]
    try:
        # A date would make tomorrow's tokens others than today's.
        text: str = tokenizer.apply_chat_template(said, tokenize=False, date_string="26 Jul 2024")
    except Exception as error:  # templates are programs of strangers, and raise what they like
        raise _unusable(where, f"a chat template that fails ({error})", "Set chat=False.") from error
    pieces = [text]
    for mark in _MARKS:
        pieces[-1:] = pieces[-1].split(mark)
    if len(pieces) != 5:
        raise _unusable(where, "a chat template that leaves words out or says them twice", "Set chat=False.")
    opening, reply, between, second, close = pieces
    close = close.rstrip()  # a blank behind the last answer says nothing
    if reply != second or not close or not between.startswith(close):
        raise _unusable(where, "a chat template whose turns depend on their place", "Set chat=False.")
    ids = (
        tokenizer(piece, add_special_tokens=False).input_ids for piece in (opening, reply, close, between[len(close) :])
    )
    return Chat(*map(tuple, ids))


def _unusable(where: str, found: str, todo: str) -> ConfigError:
    return ConfigError(where, found, "a template that puts user and assistant turns side by side", todo)
