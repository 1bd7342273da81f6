import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.core.errors import ConfigError, DataError
from trivium.data.sentinel import STARCODER2, Sentinels
from trivium.data.source.fim import FILE_SHARE, fill, unfill
from trivium.data.source.repository import CodeFile, Drawing, cut_lines, pieces, unpack

PLAIN = Sentinels({})
WORDS = [*STARCODER2.values(), "<", ">", "\\", "\n", "file_sep>", "<\\", "a", "é", "\U0001f600", "x = 1\n"]
CODE = st.lists(st.sampled_from(WORDS), max_size=120).map("".join)
PATHS = st.lists(st.sampled_from([word for word in WORDS if "\n" not in word]), min_size=1, max_size=4).map("".join)
FILES = st.dictionaries(PATHS, CODE, min_size=1, max_size=6)


def drawing(**changes) -> Drawing:
    return Drawing(**({"sentinels": PLAIN, "max_chars": 600, "metadata": 0.5, "fim": 1.0, "seed": 0} | changes))


def told(draw: Drawing, repo: str, files: dict[str, str]) -> list[str]:
    return [p.text for p in pieces(draw, repo, [CodeFile(path=path, content=code) for path, code in files.items()])]


def joined(texts: list[str]) -> tuple[set[str | None], list[tuple[str | None, str]]]:
    """Undo the texts of a repository and put the parts of a file together."""
    found: list[tuple[str | None, str]] = []
    names = set()
    for text in texts:
        repo, files = unpack(PLAIN, text)
        names.add(repo)
        for path, code in files:
            if found and path is not None and found[-1][0] == path:
                found[-1] = path, found[-1][1] + code
            else:
                found.append((path, code))
    return names, found


@settings(max_examples=150, deadline=None)
@given(FILES, PATHS, st.integers(0, 10_000))
def test_texts_with_names_give_every_file_back_once(files, repo, seed):
    texts = told(drawing(metadata=1.0, seed=seed), repo, files)
    names, found = joined(texts)
    assert names == {repo}
    assert dict(found) == files
    assert len(found) == len(files)
    assert max(map(len, texts)) <= 600


@settings(max_examples=150, deadline=None)
@given(FILES, st.integers(0, 10_000))
def test_texts_without_names_give_all_code_back(files, seed):
    texts = told(drawing(metadata=0.0, seed=seed), "r", files)
    names, found = joined(texts)
    assert names == {None}
    code = "".join(code for _, code in found)
    order = [dict_code for dict_code in files.values() if dict_code]
    assert sorted(code) == sorted("".join(order))
    assert all(part in code for part in order)


@settings(max_examples=150, deadline=None)
@given(CODE, st.integers(0, 10_000))
def test_rearranging_is_undone(code, seed):
    escaped = PLAIN.escape(code)
    for head in ("", "a/b.py\n"):
        assert unfill(PLAIN, fill(PLAIN, head, escaped, np.random.default_rng(seed))) == head + escaped


@given(st.text(), CODE)
def test_escaping_is_undone_and_leaves_no_sentinel(text, code):
    for given_text in (text, code, text + code):
        escaped = PLAIN.escape(given_text)
        assert PLAIN.unescape(escaped) == given_text
        assert not any(word in escaped for word in STARCODER2.values())


def test_the_layout_of_the_paper():
    files = {"a.py": "one\n", "b.py": "two\n"}
    plain = drawing(fim=0.0, metadata=1.0)
    [text] = told(plain, "me/it", files)
    first, second = ("a.py", "b.py") if text.index("a.py") < text.index("b.py") else ("b.py", "a.py")
    assert text == (
        f"<repo_name>me/it<file_sep>{first}\n{files[first]}<file_sep>{second}\n{files[second]}<|endoftext|>"
    )
    [text] = told(drawing(fim=0.0, metadata=0.0), "me/it", files)
    assert text in ("<file_sep>one\n<file_sep>two\n<|endoftext|>", "<file_sep>two\n<file_sep>one\n<|endoftext|>")


def test_both_ways_of_rearranging_and_their_shares():
    seen = {"plain": 0, "psm": 0, "spm": 0}
    for seed in range(2000):
        text = fill(PLAIN, "p\n", "abcdefgh", np.random.default_rng(seed))
        if text == "p\nabcdefgh":
            seen["plain"] += 1
        elif text.startswith("<fim_prefix><fim_suffix>"):
            seen["spm"] += 1
            assert re.fullmatch("<fim_prefix><fim_suffix>[a-h]*<fim_middle>p\n[a-h]*", text)
        else:
            seen["psm"] += 1
            assert re.fullmatch("<fim_prefix>p\n[a-h]*<fim_suffix>[a-h]*<fim_middle>[a-h]*", text)
    assert abs(seen["plain"] / 2000 - FILE_SHARE) < 0.04
    assert abs(seen["psm"] - seen["spm"]) < 150


def test_shares_of_repositories():
    files = {f"{j}.py": "abc\n" * 5 for j in range(8)}
    texts = ["".join(told(drawing(fim=0.5), f"r{j}", files)) for j in range(600)]
    assert abs(sum(text.startswith("<repo_name>") for text in texts) / 600 - 0.5) < 0.07
    # A chosen repository of 8 files stays as it was by chance once in 256.
    assert abs(sum("<fim_middle>" in text for text in texts) / 600 - 0.5) < 0.07


def test_draws_depend_on_names_and_seed_alone():
    files = {f"{j}.py": f"code {j}\n" for j in range(9)}
    first = told(drawing(), "r", files)
    assert told(drawing(), "r", dict(reversed(files.items()))) == first
    assert told(drawing(seed=1), "r", files) != first
    orders = {tuple(re.findall(r"code (\d)", "".join(told(drawing(fim=0.0), f"r{j}", files)))) for j in range(20)}
    assert len(orders) == 20


def test_cuts_fall_between_files_then_lines_then_characters():
    files = {"a": "x" * 200 + "\n", "b": "y" * 200 + "\n", "c": "".join(f"line {j}\n" for j in range(200))}
    texts = told(drawing(fim=0.0, metadata=0.0, max_chars=512), "r", files)
    for text in texts:
        _, found = unpack(PLAIN, text)
        assert all(code.endswith("\n") for _, code in found)
    assert ["".join(text) for text in texts if "<|endoftext|>" in text] == texts[-1:]
    assert sum("x" * 200 in text for text in texts) == sum("y" * 200 in text for text in texts) == 1
    assert list(cut_lines("ab\ncdefgh\n", 4)) == ["ab\n", "cdef", "gh\n"]
    assert list(cut_lines("", 4)) == [""]
    assert list(cut_lines("abcd", 4)) == ["abcd"]


def test_a_file_full_of_sentinels_still_fits():
    files = {"tokens.txt": "<pr>" * 1000}
    texts = told(drawing(metadata=1.0, max_chars=512), "r", files)
    assert max(map(len, texts)) <= 512
    assert dict(joined(texts)[1]) == files


def test_names_that_leave_no_room(tmp_path):
    with pytest.raises(DataError, match="found names and sentinels that leave 5 of 600 characters for code"):
        told(drawing(metadata=1.0, fim=0.0), "r" * 80, {"p" * (600 - 80 - 11 - 13 - 10 - 1 - 5): "x"})
    with pytest.raises(DataError, match="a line break in the path 'a\\\\nb'"):
        told(drawing(), "r", {"a\nb": "x"})


def test_sentinels_spelled_otherwise():
    sentinels = Sentinels({"file_sep": "<|file_sep|>"})
    [text] = told(drawing(sentinels=sentinels, fim=0.0, metadata=0.0), "r", {"a": "<file_sep><|file_sep|>"})
    assert text == "<|file_sep|><file_sep><\\|file_sep|><|endoftext|>"
    with pytest.raises(ConfigError, match="found a name 'file'; expected one of endoftext"):
        Sentinels({"file": "<f>"})
    with pytest.raises(ConfigError, match=r"sentinels.file_sep: found 'FILE'; expected one word in angle brackets"):
        Sentinels({"file_sep": "FILE"})
    with pytest.raises(ConfigError, match="found '<pr>' for two names"):
        Sentinels({"file_sep": "<pr>"})
