"""Strict typed configs: did-you-mean, dotted overrides, and a resolved YAML that runs again."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from trivium.core.dialect import read_yaml, write_yaml
from trivium.core.errors import ConfigError
from trivium.core.schema import child, explain, model_at, models, say, suggest, unknown_key

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of every config: frozen, strict, unknown keys refused; the string under a field documents it.

    Constructing one raises `ConfigError`, never pydantic's own error, so that a recipe and a YAML file answer alike.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    if not TYPE_CHECKING:  # a visible __init__ would hide the typed one that editors derive from the fields

        def __init__(self, **data: Any) -> None:
            try:
                super().__init__(**data)
            except ValidationError as error:
                raise explain(type(self), data, error, type(self).__name__) from None

        # Without this mark pydantic would call __init__ for nested mappings and lose the path in front of them.
        __init__.__pydantic_base_init__ = True

    def replace(self: C, **changes: Any) -> C:
        """Return a checked copy with some fields changed: how a recipe varies another.

        Raises:
            ConfigError: an unknown field or a wrong value.
        """
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    def model_copy(self: C, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> C:
        """Do what `replace` does: pydantic's own copy would take any key and any value unchecked."""
        return self.replace(**(update or {}))


@dataclass(frozen=True)
class Setting:
    """One leaf of a config tree: where it is, what it is, what it means."""

    path: str
    value: Any
    doc: str


def parse(cls: type[C], data: object, where: str = "config") -> C:
    """Build a config from plain data (mappings, lists, scalars), as read from YAML.

    Checked by the rules of JSON: a list may stand for a tuple and 1 for 1.0, but "7" is no number and true no count.

    Args:
        cls: the config class to build.
        data: what was read.
        where: what an error names in front of the dotted path: a file, usually.

    Raises:
        ConfigError: an unknown key, a wrong type or value, or something missing.
    """
    try:
        text = json.dumps(data)
    except (TypeError, ValueError) as error:
        raise ConfigError(where, f"data that is not plain ({error})", "mappings, lists, numbers, text", "") from None
    try:
        return cls.model_validate_json(text)
    except ValidationError as error:
        raise explain(cls, data, error, where) from None


def to_yaml(config: Config) -> str:
    """Write every setting out, defaults too, so that the file runs again whatever the defaults become."""
    return write_yaml(_plain(config))


def from_yaml(cls: type[C], text: str, where: str) -> C:
    """Read what `to_yaml` wrote, or a person.

    Raises:
        ConfigError: not YAML, a key written twice, or a config that `parse` refuses.
    """
    return parse(cls, read_yaml(text, where), where)


def override(config: C, assignments: Sequence[str]) -> C:
    """Apply dotted assignments such as `stages.1.steps=500`, in order, and check the result as a whole.

    A list item is named by its index or by its `name` field (`stages.joint.steps=5`). The value is YAML, so
    `learn=[connect, action]` and `model.action={kind: flow, horizon: 8}` work; a mapping replaces the sub-tree, and
    `stages.encoder=null` takes a config out of a list.
    Another `kind` starts that part afresh from its defaults.

    Raises:
        ConfigError: not of the form PATH=VALUE, an unknown key (with a suggestion), or a wrong value.
    """
    data = _plain(config)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not (path and equals):
            todo = "Write for example stages.1.steps=500."
            raise ConfigError(f"override {assignment!r}", "no path or no '='", "PATH=VALUE", todo)
        _assign(type(config), data, path.split("."), read_yaml(text, path))
    return parse(type(config), data, "override")


def describe(config: Config, path: str = "") -> list[Setting]:
    """List every setting with its meaning; the meaning of a `kind` is the first line of its config class."""
    settings: list[Setting] = []
    for name, info in type(config).model_fields.items():
        doc = " ".join((info.description or "").split())
        if name == "kind" and not doc:
            doc = (type(config).__doc__ or "").strip().split("\n")[0]
        settings += _settings(getattr(config, name), f"{path}.{name}" if path else name, doc)
    return settings


def _settings(value: Any, path: str, doc: str) -> Iterator[Setting]:
    if isinstance(value, Config):
        yield from describe(value, path)
        return
    items: list[tuple[Any, Any]] = []
    if isinstance(value, tuple):
        items = list(enumerate(cast(tuple[Any, ...], value)))
    elif isinstance(value, Mapping):
        items = list(cast(Mapping[Any, Any], value).items())
    if not any(isinstance(item, Config) for _, item in items):
        yield Setting(path, value, doc)
        return
    for key, item in items:
        yield from _settings(item, f"{path}.{key}", doc)


def _plain(config: Config) -> dict[str, Any]:
    # serialize_as_any: a field declared as a base class writes what a subclass added too, instead of dropping it.
    return config.model_dump(mode="json", serialize_as_any=True)


def _assign(annotation: Any, node: Any, keys: list[str], value: Any) -> None:
    """Put one value at its place in plain data; types say which keys there may be."""
    done: list[str] = []
    while keys:
        free = isinstance(node, dict) and model_at(annotation, node) is None and not models(annotation)
        if free and not models(child(annotation, node, keys[0])):
            keys = [".".join(keys)]  # the keys of a free mapping may hold dots: "vision.blocks.0-3"
        key, *keys = keys
        done.append(key)
        step: Any = key if free else _step(annotation, node, key, ".".join(done))
        if not keys:
            _put(node, step, value)
            return
        annotation = child(annotation, node, step)
        node = cast(dict[str, Any], node).setdefault(step, {}) if isinstance(node, dict) else node[step]


def _put(node: Any, step: str | int, value: Any) -> None:
    if step == "kind" and node.get("kind") != value:
        node.clear()  # the fields of another class would only be refused
    if value is None and isinstance(node, list) and isinstance(cast(Any, node)[step], dict):
        del cast(Any, node)[step]  # a stage or a bucket that is left out; a list of configs has no empty places
        return
    cast(Any, node)[step] = value


def _step(annotation: Any, node: Any, key: str, here: str) -> str | int:
    """Check one key of a path against what is there; list items may be named."""
    if isinstance(node, list):
        return _index(cast(list[Any], node), key, here)
    model = model_at(annotation, node)
    if model is None and models(annotation) and key == "kind":
        return key
    if model is None:
        raise ConfigError(f"override: {here}", f"{say(node)} where {key!r} should be", "a path that ends above", "")
    if key not in model.model_fields:
        raise unknown_key(f"override: {here}", key, model)
    return key


def _index(items: list[Any], key: str, here: str) -> int:
    names = [cast(dict[str, Any], item).get("name") if isinstance(item, dict) else None for item in items]
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    if key in names:
        return names.index(key)
    named = [str(name) for name in names if name is not None]
    expected = f"an index below {len(items)}" + (f" or one of {', '.join(named)}" if named else "")
    todo = suggest(key, named, "`trivium show RECIPE` lists every setting.")
    raise ConfigError(f"override: {here}", f"no item {key!r}", expected, todo)
