"""The book's table of problem sets: their objectives, points and times, from their text.

`ncclass` executes, releases and grades them.
"""

import re
from collections.abc import Iterator

from nbformat import NotebookNode

from ncpress.project import Project, read_chapter


def names(project: Project) -> list[str]:
    """Names of the problem sets, in order."""
    return sorted(path.stem for path in (project.notebooks / "assignments").glob("[0-9][0-9]-*.md"))


def table(project: Project) -> str:
    """A table in Markdown: what each set is about, its points, its time; nothing of a solution."""
    lines = ["| set | title | objectives | points | time |", "| --- | --- | --- | --- | --- |"]
    for name in names(project):
        notebook = read_chapter(project.notebooks / "assignments" / f"{name}.md").notebook
        found = re.search(r"\*\*Objectives\.\*\*(.+?)\n\n", notebook.cells[0].source, re.DOTALL)
        objectives = " ".join(found[1].split()) if found else ""
        points = sum(cell.metadata.get("nbgrader", {}).get("points", 0) for cell in notebook.cells)
        title = next(headings(notebook))[1].partition(": ")[2]
        minutes = notebook.metadata.get("ncutil", {}).get("minutes", 0)
        # A bar would end the cell, as in $P(a|b)$.
        title, objectives = (text.replace("|", r"\|") for text in (title, objectives))
        lines.append(f"| {name} | {title} | {objectives} | {points:g} | {minutes} min |")
    return "\n".join(lines)


def headings(notebook: NotebookNode) -> Iterator[tuple[int, str]]:
    """Titles and headings of the second level, each with the number of its cell."""
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            for match in re.finditer(r"^#{1,2} +(.+)$", cell.source, re.MULTILINE):
                yield number, match[1]
