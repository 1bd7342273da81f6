"""Nothing dead: config fields that nobody reads, fields without a meaning, modules that nobody imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

NUM_FIELDS = 350
"""Budget of config fields in the whole house."""


def parsed(root: Path) -> dict[Path, ast.Module]:
    return {file.relative_to(root): ast.parse(file.read_text()) for file in sorted(root.rglob("*.py"))}


def configs(modules: dict[Path, ast.Module]) -> Iterator[tuple[Path, ast.ClassDef]]:
    """Yield every class that descends from Config, by name, over any number of modules."""
    classes = [
        (file, node) for file, tree in modules.items() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    ]
    known, size = {"Config"}, 0
    while len(known) > size:
        size = len(known)
        for _, node in classes:
            bases = {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases}
            if bases & known:
                known.add(node.name)
    yield from ((file, node) for file, node in classes if node.name in known - {"Config"})


def fields(node: ast.ClassDef) -> Iterator[tuple[ast.AnnAssign, str, bool]]:
    """Yield every field of a config class: the statement, its name, and whether a string stands under it."""
    for statement, below in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        value = below.value if isinstance(below, ast.Expr) else None
        documented = isinstance(value, ast.Constant) and isinstance(value.value, str)
        yield statement, statement.target.id, documented


def dead_fields(root: Path) -> list[str]:
    """Say which fields nobody reads and which have no doc string; `kind` is read by pydantic."""
    modules = parsed(root)
    read = {node.attr for tree in modules.values() for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found: list[str] = []
    for file, config in configs(modules):
        for statement, name, documented in fields(config):
            if name == "kind":
                continue
            if name not in read:
                found.append(f"{file}:{statement.lineno}: nobody reads {config.name}.{name}")
            if not documented:
                found.append(
                    f"{file}:{statement.lineno}: {config.name}.{name} has no string under it that says its meaning"
                )
    return found


def dead_modules(root: Path, *users: Path) -> list[str]:
    """Say which modules neither the package nor a user (recipes, bench) imports; what runs by itself is alive."""
    modules = parsed(root)
    trees = [*modules.values(), *(tree for user in users for tree in parsed(user).values())]
    used: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    found: list[str] = []
    for file, tree in modules.items():
        dotted = ".".join((root.name, *file.with_suffix("").parts))
        runs = any("__name__" in ast.dump(node.test) for node in tree.body if isinstance(node, ast.If))
        if dotted not in used and file.stem != "__init__" and not runs and len(tree.body) > 1:
            found.append(f"{file}: nobody imports it")
    return found


def test_every_field_is_read_and_has_a_meaning():
    found = dead_fields(ROOT / "src" / "trivium")
    assert not found, "\n".join(found)


def test_every_module_is_imported():
    found = dead_modules(ROOT / "src" / "trivium", ROOT / "recipes", ROOT / "bench")
    assert not found, "\n".join(found)


def test_the_budget_of_fields_holds():
    modules = parsed(ROOT / "src" / "trivium")
    num_fields = sum(1 for _, config in configs(modules) for _ in fields(config))
    assert 0 < num_fields < NUM_FIELDS, f"{num_fields} config fields, the budget is {NUM_FIELDS}"


def test_planted_dead_things_are_seen(tmp_path):
    root = tmp_path / "trivium"
    root.mkdir()
    (root / "a.py").write_text(
        '''"""A."""
from trivium.core.config import Config
class Base(Config):
    kind: str = "a"
    used: int
    """Good."""
    unread: int
    """Bad."""
    silent: int
class Leaf(Base):
    more: int = 3
    """Bad."""
class Other:
    free: int
def f(base): return base.used + base.silent
'''
    )
    (root / "b.py").write_text('"""B."""\nfrom trivium.a import f\n')
    (root / "script.py").write_text('"""Runs."""\nif __name__ == "__main__":\n    pass\n')
    (root / "words.py").write_text('"""A legend is no code."""\n')
    assert dead_fields(root) == [
        "a.py:7: nobody reads Base.unread",
        "a.py:9: Base.silent has no string under it that says its meaning",
        "a.py:11: nobody reads Leaf.more",
    ]
    assert dead_modules(root) == ["b.py: nobody imports it"]
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "r.py").write_text("from trivium import b\n")
    assert dead_modules(root, recipes) == []
