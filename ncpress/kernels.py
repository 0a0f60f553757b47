"""How chapters are executed: papermill's engine, kernels of the interpreter that runs the command.

Of papermill, its bar is used on a terminal. Its `parameters` are not: they become a second cell, and the page would
show the defaults above results of other values; `Chapter.with_parameters` writes the values into the chapter's own
cell. Nor is its log: it holds whole outputs without the name of the chapter, and chapters run side by side.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import papermill
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbformat import NotebookNode
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets import default

ENGINE = "ncutil"


class _KernelHere(AsyncKernelManager):
    """Starts kernels with `sys.executable -m ipykernel_launcher`, whatever kernelspecs are installed.

    A record names the versions that this interpreter finds; a kernelspec named "python3" may start another one.
    """

    @default("kernel_spec_manager")
    def _look_in_no_folder(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


class _Engine(NBClientEngine):  # type: ignore[misc]
    """Papermill's own engine, which hands out the notebook that it works on and calls `tell` before each cell."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, tell: Any = None, partly: Any = None, **options: Any
    ) -> Any:
        partly.append(nb_man.nb)
        start, total = nb_man.cell_start, len(nb_man.nb.cells)

        def cell_start(cell: NotebookNode, cell_index: int | None = None, **more: Any) -> None:
            tell((cell_index or 0) + 1, total)
            start(cell, cell_index, **more)

        nb_man.cell_start = cell_start
        return super().execute_managed_notebook(nb_man, kernel_name, **options)


papermill_engines.register(ENGINE, _Engine)


def execute(
    notebook: NotebookNode, folder: Path, bar: dict[str, Any], tell: Callable[[int, int], None]
) -> tuple[NotebookNode, PapermillExecutionError | None]:
    """Execute a notebook in a folder.

    Parameters
    ----------
    notebook : as it is to run
    folder : working folder of its kernel
    bar : options of papermill's progress bar
    tell : called with the number of each cell, from 1, and of all cells, before the cell runs

    Returns
    -------
    The executed notebook, up to the cell that failed if one did, and what that cell raised.
    """
    partly: list[NotebookNode] = []
    try:
        # Without an output path papermill does not write the notebook out around every cell, which cost a quarter of
        # a smoke run.
        done = papermill.execute_notebook(
            notebook,
            None,
            engine_name=ENGINE,
            kernel_name=NATIVE_KERNEL_NAME,
            kernel_manager_class=_KernelHere,
            # Not papermill's `cwd`: it changes the folder of the whole process, and chapters run side by side.
            resources={"metadata": {"path": str(folder)}},
            # Imports make objects by the hundred thousand that live to the end; looking through them for garbage as
            # often as Python does by default costs a tenth of a smoke run.
            extra_arguments=["--IPKernelApp.exec_lines=import gc; gc.set_threshold(100_000)"],
            # All results are in when the last cell is done; a kernel that tidies up takes a second or two for it.
            shutdown_kernel="immediate",
            progress_bar=bar,
            tell=tell,
            partly=partly,
        )
    except PapermillExecutionError as error:
        return partly[0], error
    return done, None
