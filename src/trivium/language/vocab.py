"""Text to ids and back, with room for ids that no text can produce."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers


class Vocab:
    """A tokenizer and, above everything it can emit, `num_extra` ids for actions and the like.

    Text is encoded without special tokens: "<|im_end|>" in a caption is nine characters, not the end of a document.
    Pickles, so that loader workers can hold one.
    """

    def __init__(self, tokenizer: Tokenizer, end: int, extra_start: int, num_extra: int) -> None:
        """Wrap a tokenizer.

        Args:
            tokenizer: a `tokenizers` tokenizer; it is set to spell special tokens out.
            end: id that ends a document.
            extra_start: first extra id, not below any id of the tokenizer.
            num_extra: how many extra ids there are.
        """
        highest = max(tokenizer.get_vocab(with_added_tokens=True).values())
        assert extra_start > highest, f"extra ids start at {extra_start}, the tokenizer reaches {highest}"
        tokenizer.encode_special_tokens = True
        self.tokenizer = tokenizer
        self.end = end
        self.extra_start = extra_start
        self.num_extra = num_extra

    def __getstate__(self) -> dict:
        """Name what pickle would lose: a tokenizer forgets `encode_special_tokens` on the way to a worker."""
        return {**self.__dict__, "tokenizer": self.tokenizer.to_str()}

    def __setstate__(self, state: dict) -> None:
        """Restore the tokenizer with its setting."""
        self.__dict__.update(state)
        self.tokenizer = Tokenizer.from_str(state["tokenizer"])
        self.tokenizer.encode_special_tokens = True

    @property
    def size(self) -> int:
        """Rows that the embedding has: text ids, gaps of a padded embedding, extra ids."""
        return self.extra_start + self.num_extra

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without any begin or end token."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; extra ids show as <extra_0>, <extra_1>, ..."""
        pieces: list[str] = []
        run: list[int] = []
        for token in ids:
            if token < self.extra_start:
                run.append(token)
                continue
            pieces += [self.tokenizer.decode(run), f"<extra_{token - self.extra_start}>"]
            run = []
        return "".join([*pieces, self.tokenizer.decode(run)])


def byte_tokenizer() -> Tokenizer:
    """Build a tokenizer whose ids 0..255 are the bytes of UTF-8 and 256 ends a document: small, exact, no download."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer
