"""The YAML that Trivium reads and writes: scalars as in YAML 1.2, and no key twice."""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from trivium.core.errors import ConfigError

_SCALARS = {
    "tag:yaml.org,2002:null": (r"~|null|", ["~", "n", ""]),
    "tag:yaml.org,2002:bool": (r"true|false", list("tf")),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+", list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        list("-+.0123456789"),
    ),
}


class Loader(yaml.SafeLoader):
    """A safe loader without the surprises of YAML 1.1.

    PyYAML reads 1e-4 as text, `no` as False, 010 as 8 and 12:30 as 750; this one reads a number, text, 10 and text.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping and refuse a key that is written twice: the first value would be lost in silence."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} written twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """A safe dumper that also quotes the text which only YAML 1.2 takes for a number, such as "1e-4"."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Escape rare line separators, which PyYAML otherwise writes raw and reads back as spaces."""
        style = '"' if set(data) & set("\x85\u2028\u2029\ufeff") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value out each time: anchors make a file hard to edit."""
        return True


for _tag, (_pattern, _first) in _SCALARS.items():
    Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _first)
    Dumper.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _first)
Dumper.add_representer(str, Dumper.represent_str)
Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


def read_yaml(text: str, where: str) -> Any:
    """Read plain data from YAML.

    Raises:
        ConfigError: not YAML, or a key written twice.
    """
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(where, f"text that is not YAML ({problem})", "YAML", "Put text in quotes.") from None


def write_yaml(data: Any) -> str:
    """Write plain data so that `read_yaml` gives it back equal, keys in their order."""
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, width=110, allow_unicode=True)
