"""The process in which a submission runs: `python -m ncclass.runner TASK ANSWERS`.

It executes cells, answers what is asked by name, and writes data. It gets no expected value and writes no score, so a
submission that takes it over gains no points. Answers are written after every cell: a submission that ends its own
process keeps what it had answered before.
"""

import json
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ncclass.answers import decode, encode
from ncutil.ground.files import write

LENGTH = 2000
"""Characters of an error message that are handed over."""
LONGEST = 500_000
"""Characters of an answer: one that is out of all proportion must not take the others with it."""

Answers = dict[str, Any]


def perform(task: dict[str, Any], shell: Any, tell: Callable[[Answers], None]) -> Answers:
    """Execute the cells of a task in an IPython shell and answer what each asks; `tell` is called after every cell.

    A task holds `cells`, each with `id`, `sources` and `asks` (`name`, and `inputs` or None), and `cell_seconds`. The
    answer to a cell holds its last `error`, or None; to each ask either `values` or an `error`; and `timed_out`,
    whether the cell or a call that it asks for was stopped because it took too long.
    """
    answers: Answers = {}
    for cell in task["cells"]:
        error: str | None = None
        alarms: list[float] = []
        with suppress(TimeoutError), _time_limit(task["cell_seconds"], alarms):
            for source in cell["sources"]:
                error = _run(shell, source) or error
        given = []
        for ask in cell["asks"]:
            said: Answers = {"error": "out of time"}
            with suppress(TimeoutError), _time_limit(task["cell_seconds"], alarms):
                said = _answer(shell.user_ns, ask)
            given.append(said)
        answers[cell["id"]] = {"error": error, "asks": given, "timed_out": bool(alarms)}
        tell(answers)
    return answers


def _run(shell: Any, source: str) -> str | None:
    try:
        done = shell.run_cell(source, store_history=False)
        error = done.error_before_exec or done.error_in_exec
    except BaseException as raised:  # out of time, or a shell that the submission has changed
        error = raised
    if isinstance(error, AssertionError) and not error.args:
        return f"not true: {_failing_line(error, source)}"
    return None if error is None else _words(error)


def _failing_line(error: BaseException, source: str) -> str:
    """The line of a cell that an assertion without words stands in."""
    lines, trace, number = source.splitlines(), error.__traceback__, 0
    while trace:
        number = trace.tb_lineno if trace.tb_frame.f_code.co_name == "<module>" else number
        trace = trace.tb_next
    return lines[number - 1].strip() if 1 <= number <= len(lines) else "a check"


def _answer(names: dict[str, Any], ask: dict[str, Any]) -> dict[str, Any]:
    name = ask["name"]
    try:
        if name not in names:
            return {"error": f"{name} is not defined"}
        if ask["inputs"] is None:
            values = [encode(names[name])]
        else:
            values = [encode(names[name](*words)) for words in decode(ask["inputs"])]
        if len(json.dumps(values)) > LONGEST:
            return {"error": f"{name} is too large to hand over (more than {LONGEST} characters as JSON)"}
        return {"values": values}
    except BaseException as raised:
        return {"error": _words(raised)}


def _words(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:LENGTH].removesuffix(": ")
    except BaseException:
        return "an error that cannot be put into words"


@contextmanager
def _time_limit(seconds: float, alarms: list[float]) -> Iterator[None]:
    """Interrupt what takes too long, so that the parts behind it are still run; the sandbox limits the whole.

    The alarm is a TimeoutError. It may be raised anywhere until the alarm is switched off, also outside of the block's
    own `try` or in here: every caller has to catch it around the `with`.
    """

    def late(*_: Any) -> None:
        alarms.append(seconds)
        raise TimeoutError(f"stopped after {seconds:g} seconds")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def make_shell() -> Any:
    """An IPython shell without history, as a notebook's kernel has one; needs no kernel around it."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class Shell(InteractiveShell):
        def enable_gui(self, gui: Any = None) -> None:
            """For `%matplotlib inline`: there is no screen."""

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    shell: Any = Shell
    return shell(config=config, user_module=types.ModuleType("__main__"))


def main() -> None:
    """Read the task once, run it, and write what was answered after every cell, whole or not at all."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    target = Path(sys.argv[2]).resolve()
    os.environ.setdefault("MPLBACKEND", "Agg")

    perform(task, make_shell(), lambda answers: write(target, json.dumps(answers)))
    # Threads that a submission left running would keep the process; so might what it has put in place of its output.
    os._exit(0)


if __name__ == "__main__":
    main()
