"""Submissions to problem sets, made from the release and from edits of the reference, and what they score."""

import ast
import builtins
import contextlib
import copy
import functools
import json
import re
import tempfile
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from conftest import PROJECT
from nbformat import NotebookNode

from ncclass import collection, grading, problem_sets
from ncclass.problem_sets import (
    PICTURES,
    REGIONS,
    ProblemSet,
    read_set,
    role,
)
from ncclass.runner import perform
from ncpress.assignments import names

NAMES = names(PROJECT)
SEED = 2027


@functools.cache
def problem_set(name: str, seed: int = SEED) -> ProblemSet:
    """A problem set with the numbers of one class, read once."""
    return read_set(PROJECT, name, seed)


@functools.cache
def pictures(name: str) -> dict[str, bytes]:
    """The pictures in the hints of a set, drawn once."""
    return problem_sets.pictures(PROJECT, name)


def seen_in_pictures(name: str) -> dict[str, Any]:
    """The values that a student would read from the pictures in hints, if all could be read."""
    asks = [ask for part in problem_set(name, PICTURES).parts for ask in part.asks if ask.inputs is None]
    return {ask.name: np.asarray(ask.expected[0]).tolist() for ask in asks}


def answers(name: str) -> dict[str, Any]:
    """The wrong and the sloppy answers to a problem set."""
    return yaml.safe_load((Path(__file__).parent / "answers" / f"{name}.yml").read_text())


def reference(item: ProblemSet) -> dict[str, str]:
    """What the reference writes into each cell for a solution."""
    found = {}
    for cell in item.source.cells:
        if role(cell) in ("solution", "by hand"):
            lines = [line for line in cell.source.splitlines() if not re.search("(BEGIN|END) SOLUTION", line)]
            found[cell.metadata.nbgrader.grade_id] = "\n".join(lines)
    return found


def edited(item: ProblemSet, change: Mapping[str, Any]) -> str:
    """The source of a cell with a change to the reference; every edit has to find its place."""
    if "code" in change:
        return change["code"]
    source = reference(item)[change["cell"]]
    if "picture" in change:
        return f"{source}\n{change['picture']} = {seen_in_pictures(item.name)[change['picture']]!r}"
    for old, new in change["edit"].items():
        assert old in source, (change["why"], old)
        source = source.replace(old, new)
    return source


def fill(item: ProblemSet, sources: Mapping[str, str]) -> NotebookNode:
    """The released notebook with some of its cells filled in."""
    notebook = copy.deepcopy(item.released)
    for cell in notebook.cells:
        name = collection.grade_id(cell)
        if name in sources:
            cell.source = sources[name]
    return notebook


class Shell:
    """What `perform` needs of a shell, without one: cells run in a namespace of their own."""

    def __init__(self) -> None:
        self.user_ns: dict[str, Any] = {"__name__": "__main__"}

    def run_cell(self, source: str, store_history: bool = False) -> Any:
        error = None
        try:
            exec(compile(source, "cell", "exec"), self.user_ns)
        except Exception as raised:
            error = raised
        return types.SimpleNamespace(error_before_exec=None, error_in_exec=error)


def handed_over(item: ProblemSet, notebook: NotebookNode) -> tuple[dict[str, Any], dict[str, str]]:
    """What a notebook hands over, by cell, and its texts, by the same code that runs a class, in this process."""
    task, texts = collection.make_task(item, notebook)
    task = json.loads(json.dumps(task))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for file, content in item.files.items():
            Path(file).write_bytes(content)
        return perform(task, Shell(), lambda _: None), texts


def scores(item: ProblemSet, notebook: NotebookNode) -> dict[str, Any]:
    """Scores by part, by the same code that grades a class."""
    answers, texts = handed_over(item, notebook)
    return grading.judge(item, {"texts": texts, "answers": json.dumps(answers)})


MODULES = {"np", "pd", "plt", "chsh", "information", "itertools", "neurashed"}
WORK = (ast.BinOp, ast.UnaryOp, ast.Call, ast.Compare, ast.Subscript, ast.comprehension)


class _Bare(ast.NodeTransformer):
    """All variables get one name, and so does what stands in brackets, but for numbers, text and slices."""

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return node if node.id in MODULES or hasattr(builtins, node.id) else ast.Name("_", node.ctx)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if not any(isinstance(part, (ast.Constant, ast.Slice)) for part in ast.walk(node.slice)):
            node.slice = ast.Name("_", ast.Load())
        return self.generic_visit(node)


def bare_expressions(source: str, solution: bool = False) -> set[str]:
    """Expressions of at least three steps with the names of their variables taken away, of a cell or its solution."""
    lines = ["" if line.startswith(("%", "!")) else line for line in source.splitlines()]
    begin, end = REGIONS["solution"]
    inside, counted = not solution, set()
    for number, line in enumerate(lines, 1):
        inside = (inside or begin in line) and not (solution and end in line)
        counted |= {number} if inside else set()
    found = set()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.expr) and node.lineno in counted:
            bare = _Bare().visit(copy.deepcopy(node))
            # Numbers with signs are no calculation.
            if sum(isinstance(part, WORK) for part in ast.walk(bare)) >= 3 and "_" in (text := ast.unparse(bare)):
                found.add(text)
    return found
