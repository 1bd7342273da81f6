"""The YAML dialect: no surprises of YAML 1.1, and text that looks like something else survives."""

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.core.dialect import read_yaml, write_yaml
from trivium.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1e4", 1e4),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("no", "no"),
        ("on", "on"),
        ("010", 10),
        ("12:30", "12:30"),
        ("2026-11-24", "2026-11-24"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("'7'", "7"),
        ("-.inf", -math.inf),
    ],
)
def test_scalars(text, value):
    found = read_yaml(text, "f")
    assert found == value
    assert type(found) is type(value)


SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
WORDS = st.sampled_from(
    ["1e-4", "no", "010", "12:30", "null", "~", "1_0", ".inf", "true", "-", "a: b", "2026-11-24", "=", "<<"]
)
TREE = st.recursive(
    SCALAR | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | WORDS, inner, max_size=3),
)


@settings(max_examples=150)
@given(TREE)
def test_round_trip(tree):
    assert read_yaml(write_yaml(tree), "f") == tree


def test_plain_yaml_readers_agree_on_text_that_we_write():
    assert yaml.safe_load(write_yaml({"a": "no", "b": "1e-4", "c": "12:30"})) == {"a": "no", "b": "1e-4", "c": "12:30"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: 1\nb: 2\na: 3\n", "key 'a' written twice"),
        ("a: [1", "f.yaml: found text that is not YAML (while parsing a flow sequence"),
        ("a: *b", "undefined alias 'b'"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_refusals(text, part):
    with pytest.raises(ConfigError) as caught:
        read_yaml(text, "f.yaml")
    assert part in str(caught.value)
    assert str(caught.value).startswith("f.yaml: found ")
