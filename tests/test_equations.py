"""Each numbered equation of the paper is one function, found by its docstring."""

import ast
import re
from pathlib import Path

import bncap

PACKAGE = Path(bncap.__file__).parent


def numbered_docstrings():
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found = re.match(r"Eq\. \((\d+)\)", ast.get_docstring(node) or "")
                if found:
                    yield int(found[1]), f"{path.stem}.{node.name}"


def test_every_equation_is_the_docstring_of_exactly_one_function():
    numbers = sorted(number for number, _ in numbered_docstrings())
    assert numbers == list(range(1, 14))


def test_the_page_of_the_notebooks_names_the_function_of_every_equation():
    readme = (PACKAGE.parent / "notebooks/README.md").read_text("utf-8")
    for number, name in numbered_docstrings():
        assert re.search(rf"\| Eq\. {number}\b.*{name.split('.')[-1]}", readme), f"Eq. {number}: {name}"
