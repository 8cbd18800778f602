"""All points of the library, as its sources name them."""

from __future__ import annotations

import ast
from pathlib import Path

import absurd
from absurd.context.ops import REACHED


def find_points() -> set[str]:
    """The names in all calls of ``failpoints.hook``; those that are looked up in ``REACHED`` are all of its values."""
    found: set[str] = set()
    for path in Path(absurd.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.hook":
                name = node.args[0]
                found |= {str(name.value)} if isinstance(name, ast.Constant) else set(REACHED.values())
    return found
