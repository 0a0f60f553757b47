"""The problem sets as the book shows them: which there are, what each is about, its points, its time.

Only their text is read; `ncclass` executes, releases and grades them.
"""

import re
from collections.abc import Iterator

from nbformat import NotebookNode

from ncpress.project import Project, read_chapter


def names(project: Project) -> list[str]:
    """Names of the problem sets, in order."""
    return sorted(path.stem for path in (project.notebooks / "assignments").glob("[0-9][0-9]-*.md"))


def table(project: Project) -> str:
    """A table of the problem sets for the book: what each is about, its points, its time; nothing of a solution."""
    lines = ["| set | title | objectives | points | time |", "| --- | --- | --- | --- | --- |"]
    for name in names(project):
        notebook = read_chapter(project.notebooks / "assignments" / f"{name}.md").notebook
        found = re.search(r"\*\*Objectives\.\*\*(.+?)\n\n", notebook.cells[0].source, re.DOTALL)
        objectives = " ".join(found[1].split()) if found else ""
        grading = [cell.metadata.get("nbgrader", {}) for cell in notebook.cells]
        points = sum(cell.get("points", 0) for cell in grading)
        title = next(headings(notebook))[1].partition(": ")[2]
        minutes = notebook.metadata.get("ncutil", {}).get("minutes", 0)
        lines.append(f"| {name} | {title} | {objectives} | {points:g} | {minutes} min |")
    return "\n".join(lines)


def headings(notebook: NotebookNode) -> Iterator[tuple[int, str]]:
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            for match in re.finditer(r"^#{1,2} +(.+)$", cell.source, re.MULTILINE):
                yield number, match[1]
