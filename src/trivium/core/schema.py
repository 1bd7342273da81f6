"""The tree of types beside a tree of settings: which class stands at a path, and what to say when it refuses."""

import types
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from trivium.core.errors import ConfigError

Model = type[BaseModel]


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """Flatten Annotated, unions and None away: Annotated[A | B | None, ...] gives (A, B)."""
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(found for member in get_args(annotation) for found in alternatives(member))
    return () if annotation is type(None) else (annotation,)


def models(annotation: Any) -> list[Model]:
    """Return the config classes among the alternatives."""
    return [found for found in alternatives(annotation) if isinstance(found, type) and issubclass(found, BaseModel)]


def kinds(model: Model) -> tuple[str, ...]:
    """Return the values that the `kind` of a config class may take, none when it has no such field."""
    return get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()


def model_at(annotation: Any, value: Any) -> Model | None:
    """Return the config class that a mapping selects, by its `kind` when there are several."""
    found = models(annotation)
    if len(found) < 2:
        return found[0] if found else None
    kind = cast(dict[str, Any], value).get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return next((model for model in found if kind in kinds(model)), None)


def child(annotation: Any, value: Any, key: str | int) -> Any:
    """Return the annotation of one field of a config or one item of a container; Any where there is none."""
    model = model_at(annotation, value)
    if model is not None and key in model.model_fields:
        return model.model_fields[str(key)].annotation
    for found in alternatives(annotation):
        arguments = get_args(found)
        if get_origin(found) is tuple and isinstance(key, int):
            return arguments[0] if arguments[-1] is Ellipsis else arguments[min(key, len(arguments) - 1)]
        if get_origin(found) in (dict, Mapping):
            return arguments[1]
    return Any


def suggest(word: str, known: Sequence[str], otherwise: str) -> str:
    """Ask "Did you mean" when one of the known words is near, else say what to do `otherwise`."""
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else otherwise


def unknown_key(where: str, key: str, model: Model) -> ConfigError:
    """Build the error for a key that a config class does not have."""
    names = list(model.model_fields)
    todo = suggest(key, names, "`trivium show RECIPE` lists every setting.")
    return ConfigError(where, f"an unknown key {key!r}", f"one of {', '.join(names)}", todo)


def say(value: Any) -> str:
    """Name a value in the words of YAML, so that "7" and 7 do not look alike."""
    if value is None:
        return "nothing"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, (dict, BaseModel)):
        return "a mapping"
    words: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    text = repr(value) if len(repr(value)) < 80 else repr(value)[:77] + "..."
    return f"{text} ({words.get(type(value), type(value).__name__)})"


def explain(cls: Model, data: object, error: ValidationError, where: str) -> ConfigError:
    """Turn the first of pydantic's complaints into a `ConfigError` with the dotted path, and count the others."""
    errors = error.errors(include_url=False)
    first = _translate(cls, data, errors[0], where)
    if len(errors) == 1:
        return first
    more = f"{first.todo} ({len(errors) - 1} more to mend after this.)"
    return ConfigError(first.where, first.found, first.expected, more)


def _translate(cls: Model, data: object, detail: ErrorDetails, where: str) -> ConfigError:
    path, annotation, node, parent = _locate(cls, data, detail["loc"])
    place = f"{where}: {'.'.join(path)}" if path else where
    key = path[-1] if path else ""
    if detail["type"] == "extra_forbidden" and parent is not None:
        return unknown_key(place, key, parent)
    if detail["type"].startswith("union_tag"):
        return _wrong_kind(place, annotation, detail.get("ctx", {}).get("tag"))
    info = parent.model_fields.get(key) if parent else None
    doc = " ".join((info.description or "").split()) if info else ""
    todo = f"{key}: {doc}" if doc else "`trivium show RECIPE` explains every setting."
    if detail["type"] == "missing":
        return ConfigError(place, "nothing", f"a value for {key!r}", todo)
    if detail["type"] == "literal_error":
        literals = [
            arg for found in alternatives(annotation) if get_origin(found) is Literal for arg in get_args(found)
        ]
        todo = suggest(str(node), [str(literal) for literal in literals], todo)
    expected = detail["msg"]
    for prefix in ("Input should be ", "Value error, ", "Assertion failed, "):
        expected = expected.removeprefix(prefix)
    return ConfigError(place, say(node), expected, todo)


def _wrong_kind(place: str, annotation: Any, tag: str | None) -> ConfigError:
    known = [kind for model in models(annotation) for kind in kinds(model)]
    found = "no kind" if tag is None else f"kind {tag!r}"
    todo = suggest(tag or "", known, "Write one of them.")
    return ConfigError(f"{place}.kind", found, f"one of {', '.join(known)}", todo)


def _locate(cls: Model, data: object, loc: Sequence[str | int]) -> tuple[list[str], Any, Any, Model | None]:
    """Walk pydantic's location down types and data together, leaving out the union tags that it puts between.

    Returns:
        The dotted path, the annotation and the value there, and the config class that holds it.
    """
    path: list[str] = []
    annotation: Any = cls
    node: Any = data
    parent: Model | None = None
    tagged = False
    for item in loc:
        if len(models(annotation)) > 1 and not tagged:
            tagged = True
            continue
        if not isinstance(node, (dict, list, tuple)):
            continue  # a label such as "int", from a union of scalars
        parent, tagged = model_at(annotation, node), False
        annotation = child(annotation, node, item)
        path.append(str(item))
        if isinstance(node, dict):
            node = cast(dict[Any, Any], node).get(item)
        else:
            items = cast(Sequence[Any], node)
            node = items[item] if isinstance(item, int) and item < len(items) else None
    return path, annotation, node, parent
