"""How dense the code is: `python tests/code_shape.py [PATH ...]`, by default the package.

Prints for each file its lines and its syntax-tree nodes a code line, and each comprehension or
conditional expression inside another. For comparison: nanochat has 8.9, rlhf-book 7.2.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
NESTABLE = (*COMPREHENSIONS, ast.IfExp)


def code_lines(source: str, tree: ast.Module) -> int:
    """Lines that are neither blank nor comment nor docstring."""
    prose: set[int] = set()
    for node in ast.walk(tree):
        value = getattr(node, "value", None)
        if isinstance(node, ast.Expr) and isinstance(getattr(value, "value", None), str):
            prose.update(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(
        1 for i, line in lines if line.strip(" #") and i not in prose and line.strip()[0] != "#"
    )


def nested(tree: ast.Module) -> list[int]:
    """Line numbers of comprehensions and conditional expressions that hold another."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, NESTABLE):
            inner = [child for child in ast.walk(node) if isinstance(child, NESTABLE)]
            if len(inner) > 1:
                found.append(node.lineno)
    return found


def measure(paths: list[Path]) -> tuple[int, float, list[str]]:
    """Lines, nodes a code line, and the places of nested expressions, over all files."""
    lines = code = nodes = 0
    places = []
    for path in paths:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        lines += source.count("\n")
        code += code_lines(source, tree)
        nodes += sum(1 for _ in ast.walk(tree))
        places += [f"{path}:{number}" for number in nested(tree)]
    return lines, nodes / max(code, 1), places


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


if __name__ == "__main__":
    for argument in sys.argv[1:] or ["ddpo_utils"]:
        total, density, places = measure(python_files(Path(argument)))
        print(
            f"{argument}: {total} lines, {density:.2f} syntax-tree nodes a code line",
            *places,
            sep="\n  ",
        )
