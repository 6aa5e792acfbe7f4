"""Which code a result depends on, as a hash for each module: an edited loss trains again, an edited comment does not.

The code of a step is found from its ``build`` function, without running anything:

- in the module that defines ``build``: the top-level definition that holds it, and the definitions which that uses;
- of each other module of the package that these import, at the top or inside a function: the whole module, and the
  modules that it imports in turn.

A module is hashed as its syntax tree, without docstrings, comments, layout and the order of its imports.  Files beside
the modules that are not Python, such as a template, count by their bytes; documentation (``.md``) does not count.  A
module that is loaded by a computed name (``importlib.import_module``) is not found: do not load code of a step so.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from bncap.pipeline.paths import PACKAGE, ROOT

NEUTRAL = ("bncap.pipeline", "bncap.config", "bncap.settings", "bncap.errors", "bncap.commands", "bncap.__main__")
"""Modules that cannot change a step's result: what runs the steps, and the settings, whose values are in the key."""
RECORDED_PACKAGES = (
    "torch", "torchvision", "timm", "transformers", "diffusers", "sentence-transformers", "bert-score", "sacrebleu",
    "nltk", "scikit-learn", "umap-learn", "numpy", "matplotlib",
)  # fmt: skip


class SourceTree:
    """The modules of the package in ``folder``, read once: a later edit is not what this process runs.

    The modules and packages ``neutral`` are left out of the code of a step.
    """

    def __init__(self, folder: Path, neutral: Sequence[str] = NEUTRAL) -> None:
        self.neutral = tuple(neutral)
        self._sources: dict[str, str] = {}
        self._data: dict[str, list[Path]] = {}  # package -> files in its folder that are not Python
        for path in sorted(folder.rglob("*.py")):
            name = ".".join(path.relative_to(folder.parent).with_suffix("").parts)
            if path.name == "__init__.py":
                name = name.removesuffix(".__init__")
                files = (p for p in path.parent.iterdir() if p.is_file() and p.suffix not in (".py", ".md"))
                self._data[name] = sorted(files)
            self._sources[name] = path.read_text("utf-8")
        self._statements: dict[str, list[ast.stmt]] = {}
        self._modules: dict[str, tuple[str, frozenset[str]]] = {}

    def code_hash(self, modules: Iterable[str], neutral: Sequence[str] = ()) -> dict[str, str]:
        """Module -> hash, of ``modules`` and all that they import in the package but the ``neutral`` ones.

        Names from outside the package are ignored, and so are modules without content.
        """
        waiting, hashes = list(modules), {}
        while waiting:
            module = waiting.pop()
            left_out = any(f"{module}.".startswith(f"{package}.") for package in neutral)
            if module in hashes or module not in self._sources or left_out:
                continue
            hashes[module], imported = self._module(module)
            waiting += [*imported, module.rpartition(".")[0]]
        return {module: hashes[module] for module in sorted(hashes) if hashes[module]}

    def step_code(self, build: Callable[..., Any]) -> dict[str, str]:
        """Module -> hash, of the code that ``build`` runs; empty for a function from outside the package."""
        while isinstance(build, functools.partial):
            build = build.func
        module = build.__module__
        if module not in self._sources:
            return {}
        used = self._used(module, build.__qualname__.partition(".")[0])
        imported = {name for statement in used for name in _imported(statement, self._package(module))}
        hashes = self.code_hash(imported, self.neutral) | {module: _digest(used)}
        return dict(sorted(hashes.items()))

    def _module(self, module: str) -> tuple[str, frozenset[str]]:
        """The hash of a module with the files that it names, "" if it is empty; and the names of what it imports."""
        if module not in self._modules:
            statements, package = self._parsed(module), self._package(module)
            content = _digest(statements) if statements else ""
            for path in self._data.get(package, ()):
                if path.name in self._sources[module]:
                    content = hashlib.sha256(content.encode() + path.read_bytes()).hexdigest()
            imported = frozenset(name for statement in statements for name in _imported(statement, package))
            self._modules[module] = content, imported
        return self._modules[module]

    def _parsed(self, module: str) -> list[ast.stmt]:
        if module not in self._statements:
            tree = _WithoutDocstrings().visit(ast.parse(self._sources[module], filename=module))
            self._statements[module] = _split_imports(tree.body)
        return self._statements[module]

    def _package(self, module: str) -> str:
        return module if module in self._data else module.rpartition(".")[0]

    def _used(self, module: str, definition: str) -> list[ast.stmt]:
        """The top-level statements of ``module`` that ``definition`` uses, directly or through others of them.

        A statement that binds no name, such as a registration, and a plain ``import a.b`` always count.
        """
        used: list[ast.stmt] = []
        names, before = {definition}, -1
        while len(used) > before:
            before = len(used)
            used = [s for s in self._parsed(module) if isinstance(s, ast.Import) or not _bound(s) or _bound(s) & names]
            names |= {node.id for statement in used for node in ast.walk(statement) if isinstance(node, ast.Name)}
        return used


SOURCES = SourceTree(PACKAGE)  # when imported, so that a result is not recorded under code which is edited meanwhile


def imported_names(source: str) -> set[str]:
    """What Python ``source`` imports: names of modules, and ``module.name`` for ``from module import name``."""
    return {name for statement in ast.parse(source).body for name in _imported(statement, "")}


class _WithoutDocstrings(ast.NodeTransformer):
    """Removes docstrings, those of constants and fields too: every statement that is a string alone."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node


def _imported(statement: ast.stmt, package: str) -> Iterator[str]:
    """The names of the modules, or of what is in them, that a statement of ``package`` imports at any depth."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                source = resolve_name("." * node.level + source, package)
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _split_imports(statements: Sequence[ast.stmt]) -> list[ast.stmt]:
    """``from a import b, c`` as two statements, so that one can count without the other."""
    split: list[ast.stmt] = []
    for statement in statements:
        if isinstance(statement, ast.ImportFrom):
            split += [ast.ImportFrom(statement.module, [alias], statement.level) for alias in statement.names]
        else:
            split.append(statement)
    return split


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a top-level statement gives a value to."""
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    if isinstance(statement, definitions):
        return {statement.name}
    names = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, definitions):
            names.add(node.name)
    return names


def _digest(statements: Sequence[ast.stmt]) -> str:
    imports = sorted(_canonical(s) for s in statements if isinstance(s, ast.Import | ast.ImportFrom))
    others = [_canonical(s) for s in statements if not isinstance(s, ast.Import | ast.ImportFrom)]
    return hashlib.sha256("\n".join([*imports, *others]).encode()).hexdigest()


def _canonical(value: Any) -> str:
    """A syntax tree as text, the same in every version of Python: ``ast.dump`` shows empty fields in some of them."""
    if isinstance(value, ast.AST):
        parts = (f"{name}={_canonical(part)}" for name, part in ast.iter_fields(value) if part not in (None, []))
        return f"{type(value).__name__}({','.join(parts)})"
    if isinstance(value, list):
        return f"[{','.join(map(_canonical, value))}]"
    return repr(value)


@functools.cache
def git_commit() -> str:
    """The commit of the working tree, with ``+`` if files of it are changed; "unknown" outside a checkout."""
    try:
        run = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
        commit = run(["git", "rev-parse", "HEAD"]).stdout.strip()
        return commit + ("+" if run(["git", "status", "--porcelain", "-uno"]).stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@functools.cache
def package_versions() -> dict[str, str]:
    """Package -> version of :data:`RECORDED_PACKAGES`; "missing" where it is not installed."""
    return {name: installed_version(name) or "missing" for name in RECORDED_PACKAGES}


def locked_versions() -> dict[str, str]:
    """Direct dependency of pyproject.toml -> the version that requirements.txt locks; empty if a file is missing."""
    project, lock = ROOT / "pyproject.toml", ROOT / "requirements.txt"
    if not (project.is_file() and lock.is_file()):
        return {}
    direct = tomllib.loads(project.read_text("utf-8"))["project"]["dependencies"]
    names = {match[0] for requirement in direct if (match := re.match(r"[\w.-]+", requirement))}
    locked = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text("utf-8"), re.MULTILINE))
    return {name: version for name, version in locked.items() if name in names}


def installed_version(name: str) -> str | None:
    """The version, such as "2.14.1+cpu"; None if the package is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
