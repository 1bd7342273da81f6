"""The walls: length of files and functions, depth of folders, names that say nothing."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]

FILE_LINES = 400
FUNCTION_LINES = 60
LOOP_LINES = 100
"""For `run_stage` in train/loop.py alone: the one loop that trains every stage is read from top to bottom."""
DEPTH = 3
FORBIDDEN = {"utils", "util", "common", "helpers", "helper", "misc"}
FOLDERS = ("src/trivium", "recipes", "bench", "scripts", "tests")


def violations(root: Path) -> list[str]:
    """Say what breaks a wall in the repository at `root`."""
    found: list[str] = []
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*.py")):
            name = file.relative_to(root)
            inside = file.relative_to(root / folder)
            if len(inside.parts) > DEPTH:
                found.append(f"{name}: {len(inside.parts)} deep, the wall is {DEPTH}")
            found += [f"{name}: a name that says nothing" for word in inside.with_suffix("").parts if word in FORBIDDEN]
            found += [f"{name}{problem}" for problem in _contents(file.read_text(), str(name))]
    return found


def _contents(text: str, name: str) -> list[str]:
    found: list[str] = []
    num_lines = len(text.splitlines())
    if num_lines > FILE_LINES:
        found.append(f": {num_lines} lines, the wall is {FILE_LINES}")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            found.append(f":{node.lineno}: __future__ annotations blind the shape checks")
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        wall = LOOP_LINES if name == "src/trivium/train/loop.py" and node.name == "run_stage" else FUNCTION_LINES
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > wall:
            found.append(f":{node.lineno}: {node.name} has {length} lines, the wall is {wall}")
    return found


def function(name: str, lines: int) -> str:
    return f"def {name}():\n" + "    pass\n" * (lines - 1)


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_the_house_keeps_its_walls():
    found = violations(ROOT)
    assert not found, "\n".join(found)


def test_every_wall_is_seen_to_hold(tmp_path):
    write(tmp_path, "src/trivium/train/loop.py", function("run_stage", 101) + function("other", 61))
    write(tmp_path, "src/trivium/train/optim.py", function("run_stage", 61))
    write(tmp_path, "src/trivium/a/b/c/d.py", "from __future__ import annotations\n")
    write(tmp_path, "src/trivium/utils/long.py", "\n" * 401)
    write(tmp_path, "recipes/common.py", "class A:\n" + "\n".join("    " + x for x in function("f", 61).splitlines()))
    assert violations(tmp_path) == [
        "src/trivium/a/b/c/d.py: 4 deep, the wall is 3",
        "src/trivium/a/b/c/d.py:1: __future__ annotations blind the shape checks",
        "src/trivium/train/loop.py:1: run_stage has 101 lines, the wall is 100",
        "src/trivium/train/loop.py:102: other has 61 lines, the wall is 60",
        "src/trivium/train/optim.py:1: run_stage has 61 lines, the wall is 60",
        "src/trivium/utils/long.py: a name that says nothing",
        "src/trivium/utils/long.py: 401 lines, the wall is 400",
        "recipes/common.py: a name that says nothing",
        "recipes/common.py:2: f has 61 lines, the wall is 60",
    ]


def test_at_the_wall_is_within_it(tmp_path):
    write(tmp_path, "src/trivium/train/loop.py", function("run_stage", 100) + function("other", 60))
    write(tmp_path, "src/trivium/eval/sim/metaworld.py", "\n" * 400)
    assert violations(tmp_path) == []
