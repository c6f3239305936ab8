"""The import graph of the package as its files say it, with what is imported for types only."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path


def modules(root: Path) -> dict[str, Path]:
    """Every module below the package folder `root`, by its dotted name."""
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def graph(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """Which of these modules each of them imports: at the top, in a function, or under `if TYPE_CHECKING`."""
    edges: dict[str, set[str]] = {}
    for module, path in files.items():
        imported: set[str] = set()
        for name in _imported(ast.parse(path.read_text("utf-8"), str(path))):
            # `from package import thing` names a module or something in one.
            found = name if name in files else name.rpartition(".")[0]
            if found in files and found != module:
                imported.add(found)
        edges[module] = imported
    return edges


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def circles(edges: Mapping[str, set[str]]) -> list[frozenset[str]]:
    """The sets of modules that reach each other (Tarjan's strongly connected components of two and more)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    found: list[frozenset[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        path.append(module)
        for other in sorted(edges[module]):
            if other not in order:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in path:
                low[module] = min(low[module], order[other])
        if low[module] == order[module]:
            circle = path[path.index(module) :]
            del path[path.index(module) :]
            if len(circle) > 1:
                found.append(frozenset(circle))

    for module in sorted(edges):
        if module not in order:
            visit(module)
    return found
