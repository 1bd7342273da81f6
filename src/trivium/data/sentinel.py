"""The words that mark structure in a document of code, and an escape so that code may speak of them."""

import re
from collections.abc import Mapping

from trivium.core.errors import ConfigError

STARCODER2 = {
    "endoftext": "<|endoftext|>",
    **{
        name: f"<{name}>"
        for name in (
            *("fim_prefix", "fim_middle", "fim_suffix", "repo_name", "file_sep"),
            *("issue_start", "issue_comment", "issue_closed"),
            *("jupyter_start", "jupyter_text", "jupyter_code", "jupyter_output", "jupyter_script", "empty_output"),
            *("pr", "pr_status", "pr_is_merged", "pr_base", "pr_file", "pr_base_code", "pr_diff", "pr_diff_hunk"),
            *("pr_comment", "pr_event_id", "pr_review", "pr_review_state", "pr_review_comment"),
            *("pr_in_reply_to_review_id", "pr_in_reply_to_comment_id", "pr_diff_hunk_comment_line"),
        )
    },
}
"""Spelling by name: https://arxiv.org/abs/2402.19173, table 5."""
SHAPE = re.compile(r"<[^<>\\\s]+>")
"""One word in angle brackets: two of them can then never overlap, so text can be taken apart again."""


class Sentinels:
    r"""Sentinels by name, as plain words; a vocabulary may make one token of them in the texts of these sources alone.

    Code that holds such a word itself (the tokenizer of a language model) gets a backslash in it, `<\file_sep>`, and
    code that holds `<\file_sep>` gets a second one, so that `unescape` gives back every character.
    """

    def __init__(self, changes: Mapping[str, str]) -> None:
        """Take StarCoder2's words, with some spelled otherwise.

        Raises:
            ConfigError: an unknown name, a spelling that is not one word in angle brackets, or two alike.
        """
        unknown = [name for name in changes if name not in STARCODER2]
        if unknown:
            raise ConfigError("sentinels", f"a name {unknown[0]!r}", f"one of {', '.join(STARCODER2)}", "Correct it.")
        self._words = {**STARCODER2, **changes}
        for name, word in self._words.items():
            if not SHAPE.fullmatch(word):
                todo = "Spell it for example <|file_sep|>."
                raise ConfigError(f"sentinels.{name}", repr(word), "one word in angle brackets, without < > \\", todo)
        if len(set(self._words.values())) < len(self._words):
            twice = [w for w in self._words.values() if list(self._words.values()).count(w) > 1]
            raise ConfigError("sentinels", f"{twice[0]!r} for two names", "different words", "Change one of them.")
        self.words = tuple(self._words.values())
        tails = "|".join(re.escape(word[1:]) for word in sorted(self._words.values(), key=len, reverse=True))
        self._plain, self._escaped = re.compile(rf"<(\\*)({tails})"), re.compile(rf"<\\(\\*)({tails})")

    def __getitem__(self, name: str) -> str:
        """Return the word for a name of StarCoder2's table."""
        return self._words[name]

    def escape(self, text: str) -> str:
        """Return text in which no sentinel stands."""
        return self._plain.sub(r"<\\\1\2", text)

    def unescape(self, text: str) -> str:
        """Undo `escape`."""
        return self._escaped.sub(r"<\1\2", text)
