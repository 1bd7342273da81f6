"""The guided tour is true: every path, command and caption in README.md, CONTRIBUTING.md and docs."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from trivium.cli import app

ROOT = Path(__file__).parents[1]

MADE = ("runs/", "build/", "data/", ".venv/")
"""Places that commands make: a document may name them though a fresh clone lacks them."""
CLICK_ERROR: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
"""Typer may carry a click of its own."""
SUFFIXES = (".py", ".md", ".toml", ".yaml", ".sh", ".txt")


def documents(root: Path) -> list[Path]:
    found = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]
    return [path for path in found if path.is_file()]


def first_sentence(file: Path) -> str:
    """Return the caption of a module: its docstring up to the first full stop."""
    doc = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].split())
    return re.split(r"\.(?:\s|$)", doc)[0]


def tree(root: Path) -> list[str]:
    """Draw the tree that README.md must show: every folder and every top-level file of the package, captioned."""
    package = root / "src" / "trivium"
    entries = [*sorted(package.glob("*/__init__.py")), *sorted(f for f in package.glob("*.py") if f.stem != "__init__")]
    names = [f"{e.parent.name}/" if e.stem == "__init__" else e.name for e in entries]
    return ["src/trivium/", *(f"  {n:15}{first_sentence(e)}" for n, e in zip(names, entries, strict=True))]


def wrong_paths(file: Path, root: Path) -> Iterator[str]:
    """Say which links and which paths in backticks lead nowhere."""
    text = re.sub(r"```.*?```", "", file.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        path = file.parent / name if name else file
        if "://" in target or name.startswith("mailto:"):
            continue
        if not path.exists():
            yield f"links to {target}, which is not there"
        elif anchor and anchor not in headings(path):
            yield f"links to {target}, but {path.name} has no such heading"
    for quoted in re.findall(r"`([^`\n]+)`", text):
        looks_like_path = re.fullmatch(r"[\w.*/-]+", quoted) and ("/" in quoted.strip("/") or quoted.endswith(SUFFIXES))
        if not looks_like_path or quoted.startswith(MADE):
            continue
        if not any(any(base.glob(quoted.strip("/"))) for base in (root, root / "src" / "trivium")):
            yield f"names `{quoted}`, which is not there"


def headings(file: Path) -> set[str]:
    found = re.findall(r"^#+ (.+)$", file.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in found}


def commands(file: Path) -> Iterator[list[str]]:
    """Yield every `make ...` and `trivium ...` that a document tells the reader to type, as words."""
    text = file.read_text()
    blocks = [line for block in re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines()]
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in [*blocks, *quoted]:
        line = re.sub(r"^\s*\$ ", "", line).removeprefix(".venv/bin/")
        if re.match(r"\s*(make|trivium) ", line):
            yield shlex.split(line, comments=True)


def wrong_commands(file: Path, root: Path, group: Any) -> Iterator[str]:
    """Say which commands would not even start: no such verb, option, target or recipe."""
    targets = re.findall(r"^([\w-]+):(?!=)", (root / "Makefile").read_text(), flags=re.MULTILINE)
    for tool, *words in commands(file):
        line = " ".join([tool, *words])
        if tool == "make":
            unknown = [word for word in words if "=" not in word and not word.startswith("-") and word not in targets]
            yield from (f"says `{line}`: the Makefile has no {word}" for word in unknown)
            continue
        command = group.commands.get(words[0]) if words else None
        if command is None:
            yield f"says `{line}`: trivium has no such verb; it has {', '.join(sorted(group.commands))}"
            continue
        if any(word.isupper() for word in words):  # a form, not a command: RUN and RECIPE stand for the reader's own
            continue
        try:
            command.make_context(words[0], words[1:])
        except CLICK_ERROR as error:
            yield f"says `{line}`: {error.format_message()}"
        for word in words[1:]:
            if word.endswith(".py") and not (root / word).is_file():
                yield f"says `{line}`: {word} is not there"


def wrong_tree(root: Path) -> Iterator[str]:
    """Say where the tree in README.md differs from the captions in the modules."""
    shown = (root / "README.md").read_text()
    block = next((b for b in re.findall(r"```\w*\n(.*?)```", shown, flags=re.DOTALL) if b.startswith("src/")), "")
    if block.rstrip().splitlines() != tree(root):
        yield "shows a tree that differs from the docstrings; it should be:\n" + "\n".join(tree(root))


def violations(root: Path, group: Any) -> list[str]:
    """Say everything in the documents that is not true."""
    found = [f"README.md {problem}" for problem in wrong_tree(root)]
    for file in documents(root):
        name = file.relative_to(root)
        found += [f"{name} {problem}" for problem in (*wrong_paths(file, root), *wrong_commands(file, root, group))]
    return found


def trivium_group() -> Any:
    return get_command(app)


def test_the_tour_is_true():
    assert len(documents(ROOT)) >= 6
    found = violations(ROOT, trivium_group())
    assert not found, "\n".join(found)


def test_every_folder_of_the_package_has_a_caption():
    folders = {file.parent for file in (ROOT / "src" / "trivium").rglob("*.py")}
    missing = [str(f.relative_to(ROOT)) for f in sorted(folders) if not (f / "__init__.py").is_file()]
    missing += [
        str(f) for f in sorted(folders) if (f / "__init__.py").is_file() and not first_sentence(f / "__init__.py")
    ]
    assert not missing, f"no __init__.py with a sentence in: {', '.join(missing)}"


def plant(tmp_path: Path, readme: str) -> list[str]:
    package = tmp_path / "src" / "trivium" / "core"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""The words. More of them."""\n')
    (package.parent / "run.py").write_text('"""The whole\nexperiment.\n\nAnd more.\n"""\n')
    (tmp_path / "Makefile").write_text("VENV := .venv\ndemo: setup\nsetup:\n")
    (tmp_path / "README.md").write_text(readme)
    return violations(tmp_path, trivium_group())


TREE = "# Title here\n```text\nsrc/trivium/\n  core/          The words\n  run.py         The whole experiment\n```\n"


def test_a_true_readme_passes(tmp_path):
    text = (
        "`core/__init__.py` `src/*/run.py` [a](Makefile) [b](#title-here) `runs/x.py` `bucket` `trivium show RECIPE`\n"
    )
    assert (
        plant(tmp_path, TREE + text + "```sh\n$ make -j demo X=1  # a word\n.venv/bin/trivium report runs/a\n```\n")
        == []
    )


def test_planted_untruths_are_seen(tmp_path):
    text = """
`core/gone.py` `gone.md` [a](docs/gone.md) [b](README.md#nowhere) `make deno` `trivium tain recipes/x.py`
```sh
trivium train recipes/gone.py stages.1.steps=5
trivium eval runs/x --episode 5
trivium report
```
"""
    found = plant(tmp_path, TREE.replace("The words", "Words") + text)
    assert found[0].startswith("README.md shows a tree that differs from the docstrings; it should be:\nsrc/trivium/\n")
    assert [line.split("; it has")[0] for line in found[1:]] == [
        "README.md links to docs/gone.md, which is not there",
        "README.md links to README.md#nowhere, but README.md has no such heading",
        "README.md names `core/gone.py`, which is not there",
        "README.md names `gone.md`, which is not there",
        "README.md says `trivium train recipes/gone.py stages.1.steps=5`: recipes/gone.py is not there",
        "README.md says `trivium eval runs/x --episode 5`: No such option: --episode (Possible options: --episodes)",
        "README.md says `trivium report`: Missing argument 'folder'.",
        "README.md says `make deno`: the Makefile has no deno",
        "README.md says `trivium tain recipes/x.py`: trivium has no such verb",
    ]
