"""Imports point downwards: the floors of the house, and no circles inside a folder."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

FLOORS = {
    name: floor
    for floor, names in enumerate(
        [
            "core",
            "nn data train",
            "clean synth vision language action connect",
            "policy",
            "probe eval",
            "serve report run",
            "cli",
        ],
        start=1,
    )
    for name in names.split()
}
"""Folder to floor. Files at the top of the package count as one folder, "run"."""


def part(module: Path) -> str:
    """Return the folder that decides about a module; the package's own __init__.py belongs to none ("")."""
    if len(module.parts) > 1:
        return module.parts[0]
    return "" if module.stem == "__init__" else "run"


def imports(file: Path, root: Path) -> Iterator[Path]:
    """Yield what a file imports of its own package, wherever the import stands: in a function, under TYPE_CHECKING."""
    here = (root.name, *file.relative_to(root).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        dotted: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            dotted = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            dotted = [(*base, alias.name) for alias in node.names]
        for name in dotted:
            if name[0] == root.name:
                yield resolve(name[1:], root)


def resolve(name: tuple[str, ...], root: Path) -> Path:
    """Return the file that holds a dotted name: a module, a package, or whichever of the two defines the last word."""
    for length in range(len(name), -1, -1):
        stem = Path(*name[:length])
        for path in (stem.with_suffix(".py") if length else None, stem / "__init__.py"):
            if path and (root / path).is_file():
                return path
    return Path(*name[:1], "__init__.py")  # a folder without __init__.py


def circle(graph: dict[Path, set[Path]]) -> list[Path]:
    """Return one circle of a graph, its first member repeated at the end, or nothing."""
    done: set[Path] = set()

    def visit(node: Path, path: list[Path]) -> list[Path]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        found = next((c for other in sorted(graph.get(node, ())) if (c := visit(other, [*path, node]))), [])
        done.add(node)
        return found

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def violations(root: Path) -> list[str]:
    """Say every import that points upwards or sideways, every circle inside a folder, every folder without a floor."""
    found: list[str] = []
    inside: dict[str, dict[Path, set[Path]]] = {}
    for file in sorted(root.rglob("*.py")):
        module = file.relative_to(root)
        mine = part(module)
        if mine and mine not in FLOORS:
            found.append(f"{module}: {mine} has no floor; give it one in tests/test_floors.py")
            continue
        for target in sorted(set(imports(file, root))):
            theirs = part(target)
            if theirs == mine:
                inside.setdefault(mine, {}).setdefault(module, set()).add(target)
            elif theirs and FLOORS.get(theirs, 99) >= FLOORS.get(mine, 0):
                here, there = (f"{name or root.name} (floor {FLOORS.get(name, 0)})" for name in (mine, theirs))
                found.append(f"{module} imports {target}: {here} may not see {there}")
    for folder, graph in inside.items():
        if loop := circle(graph):
            found.append(f"circle in {folder}: {' -> '.join(map(str, loop))}")
    return found


def plant(tmp_path: Path, **files: str) -> Path:
    root = tmp_path / "trivium"
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_house_stands():
    found = violations(ROOT / "src" / "trivium")
    assert not found, "\n".join(found)


def test_upward_imports_are_seen_wherever_they_hide(tmp_path):
    root = plant(
        tmp_path,
        vision__encoder="",
        policy__vla="from trivium.vision import encoder\n",
        data__plan="from trivium.vision.encoder import Encoder\n",
        data__row="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import trivium.vision.encoder\n",
        data__pack="def f():\n    from trivium.cli import main\n",
        data__source__a="from ...vision import encoder\n",
        cli__main="import trivium.data.plan\n",
    )
    sentence = "data (floor 2) may not see vision (floor 3)"
    assert violations(root) == [
        "data/pack.py imports cli/main.py: data (floor 2) may not see cli (floor 7)",
        f"data/plan.py imports vision/encoder.py: {sentence}",
        f"data/row.py imports vision/encoder.py: {sentence}",
        f"data/source/a.py imports vision/encoder.py: {sentence}",
    ]


def test_siblings_are_strangers_and_the_package_itself_sees_nobody(tmp_path):
    root = plant(
        tmp_path,
        language__model="from trivium.vision.encoder import Encoder\n",
        vision__encoder="from trivium import __version__\n",
        report__page="from trivium.run import Run\n",
        run="import trivium.cost\n",
        cost="",
    )
    (root / "__init__.py").write_text("from trivium.cost import cost\n")
    assert violations(root) == [
        "__init__.py imports cost.py: trivium (floor 0) may not see run (floor 6)",
        "language/model.py imports vision/encoder.py: language (floor 3) may not see vision (floor 3)",
        "report/page.py imports run.py: report (floor 6) may not see run (floor 6)",
    ]


def test_circles_and_folders_without_a_floor_are_seen(tmp_path):
    root = plant(
        tmp_path,
        data__a="from trivium.data import b\n",
        data__b="def f():\n    from trivium.data.c import x\n",
        data__c="from trivium.data.a import y\n",
        tools__x="",
    )
    assert violations(root) == [
        "tools/x.py: tools has no floor; give it one in tests/test_floors.py",
        "circle in data: data/a.py -> data/b.py -> data/c.py -> data/a.py",
    ]
