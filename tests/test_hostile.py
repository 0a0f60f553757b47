"""A class full of hostile and broken submissions: what each scores, what is said of it, and that nobody else notices.

The problem set is a small one, so that a submission takes a second; running, judging and writing are those of
`ncutil class grade`, with limits short enough for a test.
"""

import copy
import csv
import functools
import hashlib
import html
import io
import json
import os
import pickle
import platform
import re
import signal
import socket
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from conftest import clone_environment, make_small_clone
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat import NotebookNode
from nbgrader.api import Gradebook
from test_sandbox import head, isolated

from ncclass import (
    collection,
    commands,
    gradebook,
    grading,
    runner,
    submissions,
    tables,
)
from ncclass.answers import KEYS, agree, decode
from ncclass.collection import grade_id
from ncclass.problem_sets import GIVEN, ProblemSet, read_set
from ncclass.runner import LONGEST
from ncclass.sandbox import isolation, syscalls
from ncclass.tables import FORMULA
from ncpress.project import PressError, Project
from ncutil.ground.files import digest

SET, SEED = "01-tiny", 7

SOURCE = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
ncutil:
  minutes: 5
---

# Problem set 1: Tiny

```{code-cell} ipython3
:tags: [parameters]

seed = 0
```

```{code-cell} ipython3
import numpy as np

data = np.random.default_rng([seed, 1]).integers(100, 999, 8)
```

## Part 1: Twice (2 points)

```{code-cell} ipython3
:nbgrader: {grade_id: double, solution: true}

### BEGIN SOLUTION
def double(x):
    return 2 * x
### END SOLUTION
```

```{code-cell} ipython3
:nbgrader: {grade_id: double-check, points: 2}

assert double(1) == 2
### BEGIN HIDDEN TESTS
from ncclass.answers import answer, call

asked = [call(double, (21,), (-0.5,), points=2, says="twice a number")]
### END HIDDEN TESTS
```

## Part 2: The largest (3 points)

```{code-cell} ipython3
:nbgrader: {grade_id: largest, solution: true}

largest = ...
### BEGIN SOLUTION
largest = int(data.max())
### END SOLUTION
```

```{code-cell} ipython3
:nbgrader: {grade_id: largest-check, points: 3}

assert largest > 0
### BEGIN HIDDEN TESTS
asked = [answer("largest", largest, points=3, says="the largest number")]
### END HIDDEN TESTS
```

+++ {"nbgrader": {"grade_id": "argue", "solution": true, "points": 4}}

Because.
"""

DATA = GIVEN + digest("import numpy as np\n\ndata = np.random.default_rng([seed, 1]).integers(100, 999, 8)")[:8]
"""Name of the cell that makes the data."""
DOUBLE = "def double(x):\n    return 2 * x\n"
LARGEST = "largest = int(data.max())\n"
WRONG = "def double(x):\n    return 3 * x\n"


pytestmark = isolated


# ---------------------------------------------------------------------------------------------------------------------
# The submissions

Shape = Callable[[Path, NotebookNode], None]
"""Puts something into the folder of a submission, given the notebook that an honest student would put there."""


Text = str | re.Pattern[str]
"""What is read somewhere: exactly this, or a pattern of all of it where it depends on the machine."""

NOTHING = "nothing was handed over"
UNDEFINED = "largest is not defined"
UNTRUE = "not true: assert double(1) == 2"
LATE = "TimeoutError: stopped after 2 seconds"
FORBIDDEN = "PermissionError: [Errno 1] Operation not permitted"


def here(*cases: "Case") -> list["Case"]:
    """Cases of what the filter of system calls forbids, where there is one."""
    return [*cases] if platform.machine() in syscalls.MACHINES else []


@dataclass(frozen=True)
class Case:
    """A submission: the code of its two parts or what its folder holds, and everything that has to come of it."""

    student: str
    double: str = DOUBLE
    largest: str = LARGEST
    points: tuple[float, float] = (2, 3)
    status: str = "run"
    note: str = ""
    """What the table of grades notes, and the student reads."""
    said: tuple[Text, Text] = ("", "")
    """What the parts raised, as the student reads it."""
    given: tuple[Text, Text] = ("42; -1.0", "887")
    """What the student reads to have given where the two checks look."""
    shape: Shape | None = None


def program(
    student: str,
    attack: str,
    points: tuple[float, float] = (2, 3),
    status: str = "run",
    said: Text = "",
    given: tuple[Text, Text] | None = None,
) -> Case:
    """An attack between the two parts, after a right first answer; a right second answer stands behind it."""
    unanswered = UNDEFINED if status == "run" else NOTHING
    default = ("42; -1.0" if points[0] else NOTHING, "887" if points[1] else unanswered)
    return Case(student, DOUBLE, attack + "\n" + LARGEST, points, status, said=("", said), given=given or default)


def cheat(student: str, attack: str, given: Text = "63; -1.5", said: Text = UNTRUE, shape: Shape | None = None) -> Case:
    """An attempt to have a wrong first answer counted as right."""
    return Case(student, attack, points=(0, 3), said=(said, ""), given=(given, "887"), shape=shape)


def value(student: str, largest: str, given: Text, kind: str = "") -> Case:
    """A second answer that is no number; where it is of some `kind`, the check that a student sees says so."""
    said = f"TypeError: '>' not supported between instances of '{kind}' and 'int'" if kind else ""
    return Case(student, DOUBLE, largest, (2, 0), said=("", said), given=("42; -1.0", given))


def broken(student: str, shape: Shape, note: str) -> Case:
    """A folder without a notebook that could be run."""
    return Case(student, points=(0, 0), status="not run", note=note, given=(NOTHING, NOTHING), shape=shape)


def text(content: str | bytes) -> Shape:
    """A notebook file of this content."""

    def shape(folder: Path, notebook: NotebookNode) -> None:
        data = content.encode() if isinstance(content, str) else content
        (folder / f"{SET}.ipynb").write_bytes(data)

    return shape


def edit(change: Callable[[NotebookNode], None]) -> Shape:
    """An honest notebook, changed."""

    def shape(folder: Path, notebook: NotebookNode) -> None:
        change(notebook)
        (folder / f"{SET}.ipynb").write_text(json.dumps(notebook))

    return shape


def cell(notebook: NotebookNode, name: str) -> NotebookNode:
    return next(c for c in notebook.cells if grade_id(c) == name)


SILENCE = "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0)\n"
"""Else a cell might go on before what it has started is seen, or be stopped on a busy machine."""


def mark(course: Path) -> str:
    """Seconds to sleep that no other run of these tests, at the same time, has in its command lines."""
    return f"86.{zlib.crc32(bytes(course)):010d}"


def limits_that_run_out() -> list[Case]:
    fork = SILENCE + "import os\nwhile True:\n    try:\n        os.fork()\n    except BaseException:\n        pass"
    hogs = (
        SILENCE + "import os, time\n"
        "for i in range(4):\n    if os.fork() == 0:\n        x = b'a' * 15 * 10**7; time.sleep(600)\n"
        "time.sleep(600)"
    )
    decoy = (
        "import ctypes, os, time\n"
        "ready, tell = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.fork() == 0 and (os.setsid(), ctypes.CDLL(None).prctl(15, b'timeout'), os.write(tell, b'1'), "
        "time.sleep(600))\n"
        "    os._exit(0)\n"
        "os.wait(); os.read(ready, 1)\n"
    )
    stop = (
        "import os, signal\n"
        "wrapper = int(open(f'/proc/{os.getppid()}/stat').read().split()[3])\n"
        "os.kill(wrapper, signal.SIGSTOP)\n"
    )
    hidden = SILENCE + "import ctypes, time\nctypes.CDLL(None).prctl(4, 0)\ntime.sleep(600)"
    wall, early = "stopped: wall time", "stopped: ended early"
    return [
        program("loop", "while True: pass", (2, 0), said=LATE),
        program("loop that silences its alarm", SILENCE + "while True: pass", (2, 0), wall),
        program("loop in C", "max(iter(int, 1))", (2, 0), wall),
        program("loop in a function", "def double(x):\n    while True: pass", (2, 3)),
        cheat("loop in an answer", "def double(x):\n    while x != 1: pass\n    return 2", LATE, ""),
        program("sleep", "import time; time.sleep(10**6)", (2, 0), said=LATE),
        program("memory bomb", "x = bytes(10**9)", (2, 0), said="MemoryError"),
        program("memory bomb of many", hogs, (2, 0), "stopped: memory"),
        program("memory bomb behind a decoy", decoy + hogs, (2, 0), "stopped: memory"),
        program("memory bomb of a stopped wrapper", stop + hogs, (0, 0), "stopped: memory"),
        program("hides its memory", hidden, (2, 0), "stopped: memory"),
        *memory_without_an_owner(),
        program("fork bomb", fork, (2, 0), wall),
        program(
            "disk bomb", SILENCE + "with open('x', 'wb') as f:\n    while True: f.write(bytes(10**6))", (2, 0), early
        ),
        program("file bomb", "for i in range(4000): open(f'x{i}', 'w')", (0, 0), "stopped: disk"),
        Case(
            "gigabyte",
            largest=LARGEST + "import os\nfor i in range(1000): os.write(1, b'a' * 10**6)",
            said=("", re.compile(f"({LATE})?")),
        ),
        program("endless error", "raise ValueError('x' * 10**6)", (2, 0), said="ValueError: " + "x" * 288),
    ]


def memory_without_an_owner() -> list[Case]:
    """Pages that no process has mapped any more, where they would count."""
    rest = "import mmap\nx = [mmap.mmap(-1, 2**20) for i in range(1000)]\nfor m in x: m.madvise(mmap.MADV_DONTNEED)"
    zeros = "import mmap, os\nmmap.mmap(os.open('/dev/zero', os.O_RDWR), 2**20)"
    buffers = "import socket\nfor s in socket.socketpair(): s.setsockopt(socket.SOL_SOCKET, socket.SO_%s, 2**30)"
    return here(
        program("shares memory without a file", rest, (2, 0), said=FORBIDDEN),
        program("shares zeros", zeros, (2, 0), said="OSError: [Errno 19] No such device"),
        program("pins pages in a pipe", called("vmsplice", -1, 0, 0, 0), (2, 0), said=FORBIDDEN),
        program("makes room in a socket", buffers % "SNDBUF", (2, 0), said=FORBIDDEN),
        program("makes room at its other end", buffers % "RCVBUF", (2, 0), said=FORBIDDEN),
        program("connects to itself", "import socket; socket.create_server(('127.0.0.1', 0))", (2, 0), said=FORBIDDEN),
    )


def ends_and_signals(course: Path) -> list[Case]:
    early = "stopped: ended early"
    parent = SILENCE + "import os, time; os.kill(os.getppid(), 9); time.sleep(600)"
    flush = (
        "import sys, time\n"
        "class Slow:\n    write = lambda self, text: None\n    flush = lambda self: time.sleep(10**6)\n"
        "sys.stdout = Slow()"
    )
    return [
        program("sys.exit", "import sys; sys.exit(0)", (2, 0), said="SystemExit: 0"),
        program("exit of IPython", "exit()", (2, 0), said=re.compile("AttributeError: .*ask_exit.*")),
        program("os._exit", "import os; os._exit(0)", (2, 0), early),
        program("os._exit, unhappy", "import os; os._exit(1)", (2, 0), early),
        program("kills its kernel", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", (2, 0), early),
        program("kills its parent", parent, (2, 0), early),
        program("kills all", "import os; os.kill(-1, 9)", (0, 0), early),
        program("signals its parent", "import os, signal; os.kill(os.getppid(), signal.SIGWINCH)"),
        program("segmentation fault", "import ctypes; ctypes.string_at(0)", (2, 0), early),
        program("KeyboardInterrupt", "raise KeyboardInterrupt", (2, 0), said="KeyboardInterrupt"),
        program("waits for words", "input()", (2, 0), said="EOFError: EOF when reading a line"),
        program("threads", "import threading, time\nthreading.Thread(target=time.sleep, args=(10**6,)).start()"),
        program(
            "daemon",
            f"import subprocess; subprocess.Popen(['setsid', 'sleep', '{mark(course)}'], start_new_session=True)",
        ),
        program("exit handlers", "import atexit, time; atexit.register(time.sleep, 10**6)"),
        program("output that sleeps", flush),
    ]


def called(name: str, *words: int) -> str:
    """A system call that fails with an error as Python's own do."""
    machine = syscalls.MACHINES.get(platform.machine(), (0, 0))
    call = ", ".join(map(str, (syscalls.DENIED[name][machine[0]], *words)))
    return (
        "import ctypes, os\n"
        f"if ctypes.CDLL(None, use_errno=True).syscall({call}) < 0:\n"
        "    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))"
    )


HEADS = head(b"x", b"\x80" + (2**80).to_bytes(11, "big")) + head(b"L", b"1") * 3
"""Of an archive whose reader would take all memory, or call itself without end."""


def hands_on_others(course: Path, port: int) -> list[Case]:
    other = course / "submitted" / "ada" / SET / f"{SET}.ipynb"
    marker = course.parent / "escaped"
    tries = f"""
import os, shutil
for path in ({str(course)!r}, {str(marker)!r}, '/etc/cron.d/x', '/usr/lib/x', os.path.dirname(os.__file__) + '/x'):
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, 'w').write('was here')
    except OSError:
        pass
for path in ('/folder', '/tmp', '/etc', '/dev', '/.sandbox'):
    shutil.rmtree(path, ignore_errors=True)
"""
    forged = f"""{SILENCE}
import glob, os
for path in glob.glob('/proc/[0-9]*/fd/[12]'):
    try:
        with open(path, 'wb') as file:
            file.write({HEADS!r})
    except OSError:
        pass
"""
    leaves = "import os\nos.remove('answers.json'); os.symlink('/etc/hostname', 'answers.json'); os._exit(0)"
    return [
        program(
            "reads others",
            f"found = open({str(other)!r}).read()",
            (2, 0),
            said=f"FileNotFoundError: [Errno 2] No such file or directory: {str(other)!r}",
        ),
        program(
            "reads the class",
            f"import os\nfound = os.listdir({str(course)!r})",
            (2, 0),
            said=f"FileNotFoundError: [Errno 2] No such file or directory: {str(course)!r}",
        ),
        program(
            "opens the gradebook",
            f"import sqlite3\nsqlite3.connect({str(course / 'gradebook.db')!r}).execute('delete from grade')",
            (2, 0),
            said="OperationalError: unable to open database file",
        ),
        value(
            "reads variables",
            # Besides these there are those that the shell sets, which differ from one to the other.
            "import os\nlargest = ' '.join(sorted(set(os.environ) - {'PWD', 'OLDPWD', 'SHLVL', '_'}))",
            "'HOME IPYTHONDIR LANG MKL_NUM_THREADS MPLBACKEND MPLCONFIGDIR OMP_NUM_THREADS OPENBLAS_NUM_THREADS PATH "
            "PYTHONDONTWRITEBYTECODE PYTHONPATH'",
            "str",
        ),
        value(
            "reads variables of others",
            "import glob\nlargest = ''\nfor p in glob.glob('/proc/[0-9]*/environ'):\n"
            "    try: largest += open(p).read()\n    except OSError: pass",
            re.compile(r"'OMP_NUM_THREADS=1\\x00MKL_NUM_THREADS=1\\x00.*"),
            "str",
        ),
        program(
            "calls home",
            f"{SILENCE}import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/')",
            (2, 0),
            said=re.compile(r"URLError: <urlopen error \[Errno (1|111)\] .*>"),
        ),
        program(
            "resolves",
            "import socket; socket.getaddrinfo('example.org', 80)",
            (2, 0),
            said=re.compile(r"gaierror: \[Errno -[23]\] .*"),
        ),
        *here(
            program("calls the host of a virtual machine", "import socket; socket.socket(40)", (2, 0), said=FORBIDDEN),
            program("reads keys", called("keyctl", 0, -3, 0), (2, 0), said=FORBIDDEN),
            program("takes over others", called("ptrace", 16, 1, 0), (2, 0), said=FORBIDDEN),
            program("takes files of others", called("pidfd_getfd", 3, 1, 0), (2, 0), said=FORBIDDEN),
            program("reads the kernel's log", called("syslog", 3, 0, 0), (2, 0), said=FORBIDDEN),
        ),
        # The pipe belongs to who grades; root's cannot be opened anew, and a user's can.
        program("forged archive", forged)
        if os.geteuid() == 0
        else program("forged archive", forged, (0, 0), "stopped: ended early"),
        program("deletes and rewrites", tries),
        program(
            "deletes its task", "import os\nfor name in os.listdir():\n    os.path.isfile(name) and os.remove(name)"
        ),
        program("rewrites its task", "open('task.json', 'w').write('[]')"),
        program(
            "changes the package",
            "import ncclass.answers as a\nopen(a.__file__, 'a').write('x')",
            (2, 0),
            said=re.compile(r"(PermissionError: \[Errno 13\]|OSError: \[Errno 30\]) .*"),
        ),
        program("leaves a link", leaves, (0, 0), "stopped: ended early"),
        program(
            "shell",
            SILENCE + "!rm -rf ~ / 2>/dev/null; kill -9 1 2>/dev/null\nget_ipython().run_cell = None",
            said="TypeError: 'NoneType' object is not callable",
        ),
    ]


def cheats() -> list[Case]:
    opened = "import json\ntask = json.load(open('task.json'))\n"
    forged = (
        opened + "ids = [c['id'] for c in task['cells']]\n"
        "json.dump({i: {'error': None, 'score': 99, 'asks': [{'values': [1, 1], 'passed': True}]} for i in ids}, "
        "open('answers.json', 'w'))\nimport os; os._exit(0)"
    )
    frames = (
        SILENCE + WRONG + "import sys, inspect\n"
        "for record in inspect.stack():\n    names = record.frame.f_locals\n"
        "    if 'task' in names and 'answers' in names:\n"
        "        names['answers']['double-check'] = {'error': None, 'asks': [{'values': [1], 'passed': True}]}\n"
        "        for c in names['task']['cells']:\n"
        "            c['asks'] = c['asks'] if c['id'] == 'largest-check' else []\n"
    )
    return [
        cheat("prints a pass", WRONG + "print('1 passed', 'Score: 5/5', 'all tests passed')"),
        cheat(
            "numpy.testing",
            SILENCE + WRONG + "import numpy.testing as t\nfor n in dir(t):\n"
            "    n.startswith('a') and setattr(t, n, lambda *a, **k: None)",
        ),
        cheat(
            "builtins",
            WRONG + "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.all = builtins.any = lambda x: True",
        ),
        cheat(
            "AssertionError",
            WRONG + "import builtins\nclass Never(Exception): pass\nbuiltins.AssertionError = Never",
            said="AssertionError",
        ),
        Case(
            "breaks builtins",
            double="import builtins\nbuiltins.isinstance = None",
            points=(0, 0),
            status="stopped: ended early",
            given=(NOTHING, NOTHING),
        ),
        cheat(
            "always equal",
            "class Yes:\n    __eq__ = lambda a, b: True\n    __hash__ = None\ndef double(x): return Yes()",
            "TypeError: not data but Yes (expected numbers, text, lists, dicts, arrays, tables)",
            "",
        ),
        cheat(
            "equal float",
            "class Yes(float):\n    __eq__ = lambda a, b: True\ndef double(x): return Yes(1)",
            "1.0; 1.0",
            "",
        ),
        cheat(
            "equal array",
            "class Yes(np.ndarray):\n    __eq__ = lambda a, b: True\ndef double(x): return np.zeros(3).view(Yes)",
            "[0.0, 0.0, 0.0]; [0.0, 0.0, 0.0]",
            "",
        ),
        cheat("truthy array", "def double(x): return np.array(['yes'], dtype=object)", "['yes']; ['yes']"),
        cheat("not a number", "def double(x): return float('nan')", "nan; nan"),
        cheat("infinite", "def double(x): return float('inf')", "inf; inf"),
        cheat(
            "patches encode",
            WRONG + "import ncclass.answers as a, sys\nr = sys.modules['__main__']\na.encode = lambda *w: True",
        ),
        cheat("frames", frames, NOTHING),
        Case("forges answers", double=forged, points=(0, 0), given=("1; 1", "1; 1")),
        cheat("forges a score", WRONG, shape=edit(lambda n: n.metadata.update(score=5, grade=5))),
        cheat(
            "points of its own",
            WRONG,
            shape=edit(lambda n: cell(n, "double-check").metadata.nbgrader.update(points=1000)),
        ),
        cheat("edits a test", WRONG, shape=edit(lambda n: cell(n, "double-check").update(source="pass"))),
        Case(
            "removes the tests",
            note="released cells are missing from the notebook: double-check, largest-check",
            shape=edit(lambda n: n.update(cells=[c for c in n.cells if not str(grade_id(c)).endswith("check")])),
        ),
        Case(
            "removes a part",
            points=(0, 3),
            note="released cells are missing from the notebook: double",
            said=("NameError: name 'double' is not defined", ""),
            given=("double is not defined", "887"),
            shape=edit(lambda n: n.cells.remove(cell(n, "double"))),
        ),
        Case(
            "moves its tests up",
            shape=edit(lambda n: n.cells.insert(0, n.cells.pop(n.cells.index(cell(n, "largest-check"))))),
        ),
        Case(
            "twice the same part",
            points=(0, 3),
            said=(UNTRUE, ""),
            given=("63; -1.5", "887"),
            shape=edit(lambda n: n.cells.append({**cell(n, "double"), "source": WRONG})),
        ),
        Case("twice the same id", shape=edit(lambda n: [c.update(id="same") for c in n.cells] and None)),
        cheat("forged outputs", WRONG, shape=edit(forge_outputs)),
        Case("outputs that are none", shape=edit(empty_outputs)),
    ]


def forge_outputs(notebook: NotebookNode) -> None:
    for c in notebook.cells:
        if c.cell_type == "code":
            c["outputs"] = [
                {"output_type": "stream", "name": "stdout", "text": "Score: 5/5 <script>alert(1)</script>"},
                {"output_type": "display_data", "metadata": {}, "data": {"text/html": "<script>alert(2)</script>"}},
            ]


def empty_outputs(notebook: NotebookNode) -> None:
    cell(notebook, "double")["outputs"] = [{}] * 12_000
    for c in notebook.cells:
        c.update(id="same", attachments={str(i): {} for i in range(1000)})


def data_of_a_stranger(marker: Path) -> list[Case]:
    trap = f"import os\nclass Trap:\n    def __reduce__(self):\n        return (os.system, ('touch {marker}',))\n"
    quits = "\nimport os; os._exit(0)"
    early = "stopped: ended early"
    pairs = "'[' + ','.join(f'[{k * (2**61 - 1)}, 0]' for k in range(%d)) + ']'"
    opened = SILENCE + "import json\nids = [c['id'] for c in json.load(open('task.json'))['cells']]\n"

    def hand_over(student: str, answer: str, given: str = "something that is not data") -> Case:
        """Writes the file of answers itself; `answer` is an expression for the text of the second one."""
        attack = (
            f'text = \'{{"error": null, "asks": [{{"values": [\' + {answer} + \']}}]}}\'\n'
            "each = [f'\"{i}\": ' + (text if i == 'largest-check' else '{}') for i in ids]\n"
            "open('answers.json', 'w').write('{' + ','.join(each) + '}')"
        )
        return program(student, opened + attack + quits, (0, 0), given=(NOTHING, given))

    def steer(notebook: NotebookNode) -> None:
        source = (
            "import numpy as np\ndef default_rng(*words):\n"
            "    raise ValueError('\\x1b]0;title\\x07\\x1b[2J\\ud800\\u202e\\nline')\n"
            "np.random.default_rng = default_rng"
        )
        notebook.cells.insert(0, NotebookNode(cell_type="code", metadata=NotebookNode(), source=source, outputs=[]))

    steered = r"ValueError: \x1b]0;title\x07\x1b[2J\ud800\u202e line"
    trapped = "TypeError: not data but Trap (expected numbers, text, lists, dicts, arrays, tables)"
    deep = "TypeError: lists within lists, more than 12 deep"
    beyond = re.compile(r"ValueError: Exceeds the limit \(4300.*")
    return [
        value("pickled value", trap + "largest = Trap()", trapped, "Trap"),
        value("pickled array", trap + "largest = np.array([Trap()], dtype=object)", trapped, "Trap"),
        program(
            "pickled answers",
            trap + "import pickle\nopen('answers.json', 'wb').write(pickle.dumps(Trap()))" + quits,
            (0, 0),
            early,
        ),
        program("answers of zeros", "open('answers.json', 'wb').truncate(15 * 10**6)" + quits, (0, 0), early),
        program(
            "answers of noise",
            """open('answers.json', 'wb').write(b'{"x": "' + b'\\xff' * (8 * 2**20 - 9) + b'"}')""" + quits,
            (0, 0),
            early,
        ),
        program("deep answers", "open('answers.json', 'w').write('[' * 10**6)" + quits, (0, 0), early),
        hand_over("keys that collide", f"""'{{"dict": ' + {pairs % 10_000} + '}}'"""),
        hand_over(
            "very many keys", f"""'{{"dict": ' + {pairs % 200_000} + '}}'""", "more than 500000 characters as JSON"
        ),
        hand_over(
            "texts as an array",
            """json.dumps({'array': ['x' * 400_000] + [''] * 20_000, 'shape': [20_001]})""",
        ),
        hand_over("a shape without end", """json.dumps({'array': [], 'shape': [10**6] * 40_000})"""),
        value(
            "huge value",
            "largest = [0] * 300_000",
            "largest is too large to hand over (more than 500000 characters as JSON)",
            "list",
        ),
        value("huge number", "largest = 10**5000", beyond),
        value("deep value", "largest = []\nfor i in range(10**4): largest = [largest]", deep, "list"),
        value("value in a circle", "largest = []\nlargest.append(largest)", deep, "list"),
        value("half a character", "largest = '\\ud800'", r"'\ud800'", "str"),
        value(
            "script in a value",
            "largest = '</td><script>alert(1)</script>'",
            "'</td><script>alert(1)</script>'",
            "str",
        ),
        Case(
            "script in an error",
            largest="raise ValueError('<img src=x onerror=alert(1)>')",
            points=(2, 0),
            said=("", "ValueError: <img src=x onerror=alert(1)>"),
            given=("42; -1.0", UNDEFINED),
        ),
        Case(
            "steers the terminal",
            points=(2, 0),
            note=rf"a given cell failed (`import numpy as np`: {steered})",
            said=(steered, "NameError: name 'data' is not defined"),
            given=("42; -1.0", UNDEFINED),
            shape=edit(steer),
        ),
        Case('=HYPERLINK("file:x";1)'),
        Case("'=1+1"),
        Case("<b onmouseover=alert(1)>; =1+1"),
    ]


def broken_files() -> list[Case]:
    def big(folder: Path, notebook: NotebookNode) -> None:
        notebook.metadata["padding"] = "x" * 50_000_000
        (folder / f"{SET}.ipynb").write_text(json.dumps(notebook))

    def zipped(folder: Path, notebook: NotebookNode) -> None:
        with zipfile.ZipFile(folder / "work.zip", "w") as archive:
            archive.writestr("../../../../escaped", "was here")
            archive.writestr(f"../{SET}.ipynb", json.dumps(notebook))

    def linked(folder: Path, notebook: NotebookNode) -> None:
        (folder / f"{SET}.ipynb").symlink_to(folder.parents[1] / "ada" / SET / f"{SET}.ipynb")

    def two(folder: Path, notebook: NotebookNode) -> None:
        for name in ("first", "second"):
            (folder / f"{name}.ipynb").write_text(json.dumps(notebook))

    def other_name(folder: Path, notebook: NotebookNode) -> None:
        (folder / "Untitled (3).ipynb").write_text(json.dumps(notebook))

    def pipe(folder: Path, notebook: NotebookNode) -> None:
        os.mkfifo(folder / f"{SET}.ipynb")

    def stamped(folder: Path, notebook: NotebookNode) -> None:
        (folder / f"{SET}.ipynb").write_text(json.dumps(notebook))
        (folder / "timestamp.txt").symlink_to("/dev/zero")

    def shut(folder: Path, notebook: NotebookNode) -> None:
        (folder / f"{SET}.ipynb").write_text(json.dumps(notebook))
        folder.chmod(0)

    def beside(folder: Path, notebook: NotebookNode) -> None:
        (folder / "work.ipynb").write_text(json.dumps(notebook))
        (folder / "._work.ipynb").write_bytes(b"\0\5\x16\7")

    def language(notebook: NotebookNode) -> None:
        notebook.metadata["kernelspec"] = {"name": "ir", "display_name": "R", "language": "=cmd|' /C calc'!A0"}

    def formula_note(notebook: NotebookNode) -> None:
        notebook.metadata["ncutil"] = {"seed": "=1+1"}

    def nothing_of_ours(notebook: NotebookNode) -> None:
        for c in notebook.cells:
            c["metadata"] = {}

    empty = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
    no_part = "none of its cells belongs to this problem set; some editors drop the names of cells"
    return [
        broken(
            "broken JSON",
            text('{"cells": [\n{"cell_type": "code",'),
            "the file is not a notebook: broken JSON in line 2",
        ),
        broken(
            "version 99",
            text(json.dumps({**empty, "nbformat": 99})),
            "the notebook has version 99 of the format; save it with version 4",
        ),
        broken(
            "version 2",
            text(json.dumps({**empty, "nbformat": 2})),
            "the notebook has version 2 of the format; save it with version 4",
        ),
        broken("no version", text("{}"), "the file is not a notebook: it has no version of the format"),
        broken("a list", text("[1, 2]"), "the file is not a notebook: it has no version of the format"),
        broken("not UTF-8", text(b"\xff\xfe" + "{}".encode("utf-16-le")), "the file is not UTF-8 text"),
        broken("empty", text(""), "the file is empty"),
        broken("white", text(" \n\n"), "the file is empty"),
        broken("deep", text("[" * 100_000), "the file is not a notebook: a number or a nesting beyond all bounds"),
        broken(
            "long number",
            text('{"nbformat": ' + "4" * 10_000 + "}"),
            "the file is not a notebook: a number or a nesting beyond all bounds",
        ),
        broken(
            "cells that are none",
            text(json.dumps({**empty, "cells": ["x"]})),
            "the file is not a notebook: one of its cells has no text or no type",
        ),
        broken("a pickle", text(pickle.dumps(print)), "the file is not UTF-8 text"),
        broken("50 MB", big, "the notebook is larger than 10 MB; clear its outputs and hand it in again"),
        broken("zip", zipped, "there is no notebook in the folder, only 'work.zip'"),
        broken("link", linked, "the notebook is not a file but a link or something else"),
        broken("pipe", pipe, "the notebook is not a file but a link or something else"),
        broken(
            "folder",
            lambda folder, _: (folder / f"{SET}.ipynb").mkdir(),
            f"there is no notebook in the folder, only '{SET}.ipynb'",
        ),
        broken("two", two, f"there are 2 notebooks in the folder, and none is called {SET}.ipynb"),
        broken("nothing", lambda folder, _: None, "there is no notebook in the folder"),
        broken(
            "very many cells",
            text(json.dumps({**empty, "cells": [{}] * 2000})),
            "the notebook has over 1000 cells",
        ),
        Case("shut folder", shape=shut)
        if os.geteuid() == 0
        else broken("shut folder", shut, "the folder cannot be read (Permission denied)"),
        Case("beside what a system leaves", shape=beside),
        broken("no cells", text(json.dumps(empty)), no_part),
        broken("names of cells lost", edit(nothing_of_ours), no_part),
        Case("another name", shape=other_name),
        Case(
            "byte order mark",
            shape=lambda f, n: (f / f"{SET}.ipynb").write_bytes(b"\xef\xbb\xbf" + json.dumps(n).encode()) and None,
        ),
        Case("endless timestamp", shape=stamped),
        Case(
            "another kernel",
            shape=edit(language),
            note="the notebook's kernel speaks \"=cmd|' /C calc'!A0\"; it was run as Python",
        ),
        Case(
            "another class",
            shape=edit(formula_note),
            note="the notebook was released for another class: its numbers are others",
        ),
    ]


def corpus(course: Path, port: int) -> list[Case]:
    return [
        *limits_that_run_out(),
        *ends_and_signals(course),
        *hands_on_others(course, port),
        *cheats(),
        *data_of_a_stranger(course.parent / "escaped"),
        *broken_files(),
    ]


HONEST = [
    Case("ada"),
    cheat("ben", WRONG),
    Case(
        "zoe",
        largest="",
        points=(2, 0),
        said=("", "NameError: name 'largest' is not defined"),
        given=("42; -1.0", UNDEFINED),
    ),
]
STRAYS = {
    "wrong set": "'01-tinny' is no problem set; expected 01-tiny",
    "loose file": "'work.zip' is not in a folder of a problem set, such as 01-tiny; it was not opened",
    "linked set": "'01-tiny' is a link; links are not followed",
    "linked": "the student's folder is a link; links are not followed",
}


# ---------------------------------------------------------------------------------------------------------------------
# The class

GRADE = """
import sys
from dataclasses import replace
from ncpress.__main__ import main
from ncclass.sandbox import monitor
from ncclass import collection
from ncclass.sandbox.isolation import Limits

limits = Limits(wall=60, cpu=20, memory=400, processes=40, disk=20, entries=1000)
run = collection.run_submission


# What runs until the wall time is given less of it; everything else has time also where the machine is busy.
def run_bounded(item, submission, tool, limits):
    ends = submission.student in ("loop that silences its alarm", "loop in C", "fork bomb")
    return run(item, submission, tool, replace(limits, wall=8) if ends else limits)


monitor.PATIENCE = 5.0
collection.CELL_SECONDS, collection.LIMITS, collection.run_submission = 2, limits, run_bounded
sys.exit(main(["class", "grade", *sys.argv[1:]]))
"""


@dataclass(frozen=True)
class Graded:
    """A class after grading: its folder, the submissions, what the command said, and what knocked at a closed door."""

    course: Path
    cases: list[Case]
    status: int
    said: str
    knocks: int

    def rows(self) -> dict[str, dict[str, str]]:
        return {row["student"].removeprefix("'"): row for row in csv.DictReader(io.StringIO(self.table("grades")))}

    def table(self, name: str) -> str:
        return (self.course / f"{name}.csv").read_text()

    def record(self, student: str) -> dict[str, Any]:
        return json.loads((self.course / "results" / student / f"{SET}.json").read_text())

    def page(self, student: str) -> str:
        return (self.course / "feedback" / student / "feedback.html").read_text()


def hand_in(course: Path, problem_set: ProblemSet, case: Case) -> None:
    notebook = copy.deepcopy(problem_set.released)
    cell(notebook, "double").source = case.double
    cell(notebook, "largest").source = case.largest
    folder = course / "submitted" / case.student / SET
    folder.mkdir(parents=True)
    (case.shape or edit(lambda n: None))(folder, notebook)


def hand_in_strays(course: Path) -> None:
    place = course / "submitted"
    for student in ("wrong set", "loose file", "linked set"):
        (place / student).mkdir(parents=True)
    (place / "wrong set" / "01-tinny").mkdir()
    (place / "wrong set" / "01-tinny" / f"{SET}.ipynb").write_text("{}")
    (place / "loose file" / "work.zip").write_bytes(b"PK")
    (place / "linked set" / SET).symlink_to(place / "ada" / SET)
    (place / "linked").symlink_to(place / "ada")


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(str(path.relative_to(folder)).encode("utf-8", "replace"))
        if path.is_file() and not path.is_symlink():
            found.update(path.read_bytes())
    return found.hexdigest()


def grade(clone: Path, course: Path) -> subprocess.CompletedProcess[str]:
    environment = clone_environment(clone) | {"TEACHERS_TOKEN": "hush-hush", "TERM": "dumb"}
    words = [sys.executable, "-c", GRADE, str(course), "--jobs", "2"]
    return subprocess.run(words, cwd=clone, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small clone with one small problem set."""
    target = make_small_clone(tmp_path_factory.mktemp("hostile") / "clone")
    (target / "notebooks" / "assignments").mkdir(exist_ok=True)
    for path in (target / "notebooks" / "assignments").glob("*.md"):
        path.unlink()
    (target / "notebooks" / "assignments" / f"{SET}.md").write_text(SOURCE)
    return target


@pytest.fixture(scope="module")
def problem_set(clone: Path) -> ProblemSet:
    return read_set(Project(clone), SET, SEED)


@pytest.fixture(scope="module")
def graded(clone: Path, problem_set: ProblemSet, tmp_path_factory: pytest.TempPathFactory) -> Graded:
    """The class, three honest students in it, graded once, however many processes run these tests."""
    place = tmp_path_factory.getbasetemp()
    place = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "hostile-class"
    place.mkdir(exist_ok=True)
    with FileLock(place / "lock"):
        if not (place / "said.json").exists():
            grade_once(clone, problem_set, place)
    cases = [*HONEST, *corpus(place / "course", 0)]
    return Graded(place / "course", cases, **json.loads((place / "said.json").read_text()))


def grade_once(clone: Path, problem_set: ProblemSet, place: Path) -> None:
    course = place / "course"
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.setblocking(False)
        for case in [*HONEST, *corpus(course, door.getsockname()[1])]:
            hand_in(course, problem_set, case)
        hand_in_strays(course)
        (course / "course.yml").write_text(f"seed: {SEED}\ndue: {{{SET}: 2027-03-01 18:00}}\n")
        before = digest(course / "submitted")
        done = grade(clone, course)
        assert "Traceback" not in done.stderr, done.stderr
        knocks = 0
        try:
            door.accept()
            knocks += 1
        except BlockingIOError:
            pass
    assert digest(course / "submitted") == before
    found = {"status": done.returncode, "said": done.stdout + done.stderr, "knocks": knocks}
    (place / "said.json").write_text(json.dumps(found))


CASES = [*HONEST, *corpus(Path("course"), 0)]


def case(graded: Graded, student: str) -> Case:
    return next(found for found in graded.cases if found.student == student)


def test_the_corpus_is_large() -> None:
    students = [found.student for found in CASES]
    assert len(set(students)) == len(students) >= 40 + len(HONEST)


@functools.cache
def in_gradebook(course: Path) -> dict[str, dict[str, float | None]]:
    """Scores by student and part."""
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        return {
            submission.student.id: {entry.name: entry.auto_score for entry in submission.notebooks[0].grades}
            for submission in book.assignment_submissions(SET)
        }


@pytest.mark.parametrize("student", [found.student for found in CASES])
class TestEverySubmission:
    def test_what_the_table_says(self, graded: Graded, student: str) -> None:
        expected, row = case(graded, student), graded.rows()[student]
        given = {key: row[key].removeprefix("'") for key in ("score", "of", "to_mark", "status", "note")}
        assert given == {
            "score": f"{sum(expected.points):g}",
            "of": "9",
            "to_mark": "0",
            "status": expected.status,
            "note": expected.note,
        }

    def test_what_the_gradebook_says(self, graded: Graded, student: str) -> None:
        found = in_gradebook(graded.course)[student]
        assert (found["double-check"], found["largest-check"], found["argue"]) == (*case(graded, student).points, 0)

    def test_what_is_kept(self, graded: Graded, student: str) -> None:
        expected, record = case(graded, student), graded.record(student)
        status = {"run": "done"}.get(expected.status, expected.status.removeprefix("stopped: "))
        assert record["status"] == status
        assert "; ".join(filter(None, (record["note"], record["remark"]))) == expected.note
        checks = (("double-check", "twice a number", 2), ("largest-check", "the largest number", 3))
        for (part, says, most), score, said, answer in zip(
            checks, expected.points, expected.said, expected.given, strict=True
        ):
            judged = record["judged"][part]
            (check,) = judged["checks"]
            assert (judged["score"], check["passed"]) == (score, score == most)
            assert (check["says"], check["points"]) == (says, most)
            assert same(judged["said"], said)
            assert same(check["given"], answer)
        assert record["judged"]["argue"] == {"score": 0, "checks": [], "said": "not answered"}

    def test_what_the_student_reads(self, graded: Graded, student: str) -> None:
        """What is kept, and nothing else."""
        expected, record, shown = case(graded, student), graded.record(student), Shown(graded.page(student))
        paragraph = next(words for words in shown.paragraphs if "of 9 points" in words)
        assert paragraph.startswith(f"{sum(expected.points):g} of 9 points.")
        assert (f"Note: {expected.note}." in paragraph) if expected.note else ("Note:" not in paragraph)
        stopped = expected.status.startswith("stopped: ")
        ended = f"did not come to its end ({expected.status.removeprefix('stopped: ')})"
        assert (ended in paragraph) if stopped else ("did not come to its end" not in paragraph)
        parts = [record["judged"][part] for part in ("double-check", "largest-check")]
        said = [f"Your notebook said: {part['said']}" for part in parts if part["said"]]
        assert [words for words in shown.paragraphs if words.startswith("Your notebook said:")] == said
        checks = zip(parts, ("twice a number", "the largest number"), (2, 3), strict=True)
        assert shown.rows == [
            [
                f"✓ passed: {says}" if part["score"] else f"✗ failed: {says}",
                f"{part['score']}/{most}",
                " ".join(part["checks"][0]["given"].split()),
            ]
            for part, says, most in checks
        ]

    def test_nothing_of_it_runs_in_a_browser(self, graded: Graded, student: str) -> None:
        assert foreign(graded.page(student)) == set()
        assert "default-src 'none'" in graded.page(student)


def same(text: str, expected: Text) -> bool:
    """Whether a text that is shown is as expected; of long ones only the beginning is shown."""
    return text == expected[: grading.SHOWN] if isinstance(expected, str) else expected.fullmatch(text) is not None


class Shown(HTMLParser):
    """What a page shows: its paragraphs, the cells of its tables by row, and its lists by their heading."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.paragraphs: list[str] = []
        self.rows: list[list[str]] = []
        self.lists: dict[str, list[str]] = {}
        self.heading, self.words = "", ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("p", "td", "li", "h2", "h3"):
            self.words = ""
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        self.words += data

    def handle_endtag(self, tag: str) -> None:
        words = " ".join(self.words.split())
        if tag == "p":
            self.paragraphs.append(words)
        elif tag == "td":
            self.rows[-1].append(words)
        elif tag == "tr" and not self.rows[-1]:  # a row of headings
            self.rows.pop()
        elif tag == "li":
            self.lists.setdefault(self.heading, []).append(words)
        elif tag in ("h2", "h3"):
            self.heading = words


def foreign(page: str) -> set[str]:
    """Elements and attributes of a page that could run or fetch something."""
    found = set()

    class Look(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag in ("script", "iframe", "object", "embed", "a", "form", "base", "link", "svg", "b"):
                found.add(tag)
            for name, value in attrs:
                if name.startswith("on") or (
                    name in ("src", "href") and not (value or "").startswith("data:image/png")
                ):
                    found.add(f"{tag} {name}")

    Look().feed(page)
    return found


class TestTheClass:
    def test_honest_students_are_graded_as_if_alone(
        self, graded: Graded, clone: Path, problem_set: ProblemSet, tmp_path: Path
    ) -> None:
        apart = tmp_path / "course"
        for honest in HONEST:
            hand_in(apart, problem_set, honest)
        (apart / "course.yml").write_text((graded.course / "course.yml").read_text())
        assert grade(clone, apart).returncode == 0
        theirs = Graded(apart, HONEST, 0, "", 0)
        for honest in HONEST:
            assert graded.rows()[honest.student] == theirs.rows()[honest.student]
            assert graded.page(honest.student) == theirs.page(honest.student)
            ours, alone = (some.record(honest.student) | {"seconds": 0} for some in (graded, theirs))
            assert ours == alone

    def test_hostile_class_summary_and_exit_status(self, graded: Graded) -> None:
        stopped = sum(found.status.startswith("stopped") for found in graded.cases)
        not_run = sum(found.status == "not run" for found in graded.cases)
        assert graded.status == 1
        assert f"{len(graded.cases)} handed in, {len(STRAYS)} missing" in graded.said
        assert (
            f"{stopped} stopped before their end, {not_run} could not be run, {len(STRAYS)} not recognised"
            in graded.said
        )
        for found in graded.cases:
            if found.status != "run":
                assert f"{found.student}, {SET}: {found.status}" in graded.said

    @pytest.mark.parametrize("student", STRAYS)
    def test_what_is_no_submission_is_said(self, graded: Graded, student: str) -> None:
        line = STRAYS[student]
        assert graded.rows()[student]["status"] == "missing"
        assert line in html.unescape(graded.page(student))
        assert f"{student}: {line}" in graded.said
        assert f"{student}: {line}" in html.unescape((graded.course / "report.html").read_text())

    def test_report_names_problems_and_runs_nothing(self, graded: Graded) -> None:
        page = (graded.course / "report.html").read_text()
        assert foreign(page) == set()
        shown, cases = Shown(page), sorted(graded.cases, key=lambda found: found.student)
        assert shown.lists["Not recognised as submissions"] == [f"{who}: {STRAYS[who]}" for who in sorted(STRAYS)]
        assert shown.lists["Missing"] == sorted(STRAYS)
        for heading, lines in {
            "Stopped before the end": [f"{c.student}: {c.status}" for c in cases if c.status.startswith("stopped")],
            "Could not be run": [f"{c.student}: {c.note}" for c in cases if c.status == "not run"],
            "Notes": [f"{c.student}: {c.note}" for c in cases if c.note and c.status != "not run"],
        }.items():
            assert shown.lists[heading] == lines
        first, second = (str(sum(c.points[part] == 0 for c in cases)) for part in (0, 1))
        assert [row[1:] for row in shown.rows[3:]] == [["the largest number", second], ["twice a number", first]]

    def test_nothing_steers_the_terminal(self, graded: Graded) -> None:
        assert all(line.isprintable() for line in graded.said.split("\n"))

    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    def test_no_formula_in_a_table(self, graded: Graded, separator: str) -> None:
        for name in ("grades", "manual"):
            for row in csv.reader(io.StringIO(graded.table(name)), delimiter=separator):
                assert not [value for value in row if value.startswith(FORMULA)]

    def test_hostile_class_reaches_and_leaves_nothing(self, graded: Graded) -> None:
        assert graded.knocks == 0
        assert not (graded.course.parent / "escaped").exists()
        assert not list(graded.course.parent.rglob("escaped"))
        alive = [p.info["cmdline"] for p in psutil.process_iter(["cmdline", "status"]) if p.info["status"] != "zombie"]
        assert not [words for words in alive if mark(graded.course) in (words or [])]
        for path in graded.course.rglob("*"):
            if path.is_file() and path.suffix in (".html", ".csv", ".json", ".db"):
                assert b"hush-hush" not in path.read_bytes()

    def test_what_is_written_is_bounded(self, graded: Graded) -> None:
        for path in [*(graded.course / "results").rglob("*.json"), *(graded.course / "feedback").rglob("*.html")]:
            assert path.stat().st_size < 9_000_000, path


# ---------------------------------------------------------------------------------------------------------------------
# What no program above happened to do


def test_unforeseen_error_concerns_one_submission_only(
    problem_set: ProblemSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One program runs; the others of the class give what it gave, but for those whose running or judging stumbles."""
    errors = {error.__name__: error for error in (RecursionError, MemoryError, OverflowError, PermissionError)}
    stumbling = [f"bad {what} {name}" for what in ("run", "verdict") for name in errors]
    for student in ("ada", *stumbling, "zoe"):
        hand_in(tmp_path, problem_set, Case(student))
    (tmp_path / "course.yml").write_text(f"seed: {SEED}\n")
    course = collection.read_course(tmp_path)
    run, judge, run_task, mended = collection.run_submission, grading.judge, collection.run_task, False
    ran: list[dict[str, Any]] = []

    def run_one_task(*how: Any) -> dict[str, Any]:
        if not ran:
            ran.append(run_task(*how))
        return copy.deepcopy(ran[0])

    def stumbling_run(item: ProblemSet, submission: submissions.Submission, *how: Any) -> collection.Record:
        kind, _, error = submission.student.rpartition(" ")
        if kind == "bad run" and not mended:
            raise errors[error]("hush")
        return run(item, submission, *how)

    def stumbling_judge(item: ProblemSet, record: collection.Record) -> dict[str, Any]:
        kind, _, error = record["student"].rpartition(" ")
        if kind == "bad verdict" and record["status"] == "done" and not mended:
            raise errors[error]("hush")
        return judge(item, record)

    monkeypatch.setattr(collection, "run_task", run_one_task)
    monkeypatch.setattr(collection, "run_submission", stumbling_run)
    monkeypatch.setattr(grading, "judge", stumbling_judge)

    def bring_up_to_date() -> dict[str, collection.Record]:
        submissions, _ = collection.collect(course, [SET])
        records = commands._bring_up_to_date(course, {SET: problem_set}, submissions, 1, False, False)
        return {student: record for (student, _), record in records.items()}

    records = bring_up_to_date()
    for student in stumbling:
        note = f"grading it failed ({student.split()[-1]}); it is tried again with the next grading"
        assert (records[student]["status"], records[student]["note"]) == ("not run", note)
        assert sum(part["score"] for part in records[student]["judged"].values()) == 0
    for student in ("ada", "zoe"):
        assert (records[student]["status"], records[student]["judged"]["double-check"]["score"]) == ("done", 2)
    mended = True
    records = bring_up_to_date()
    assert records.keys() == {"ada", *stumbling, "zoe"}
    assert {record["status"] for record in records.values()} == {"done"}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["dict", "array", "shape", "values", "error", "asks", "x"]), inner, max_size=3
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["double-check", "largest-check", "double", DATA]), ANYTHING))
@settings(max_examples=200)
def test_judging_never_fails_and_never_gives_points_away(problem_set: ProblemSet, answers: dict[str, Any]) -> None:
    record = {"answers": json.dumps(answers), "texts": {}}
    judged = grading.judge(problem_set, record)
    assert isinstance(grading.remark(problem_set, record), str)
    assert all(part["score"] == 0 for part in judged.values())


@pytest.mark.parametrize("depth", [100, 500, 900, 985, 10**5])
def test_deep_answers_are_judged(problem_set: ProblemSet, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    for entry in (
        f'{{"asks": [{{"values": [{deep}]}}]}}',
        f'{{"error": {deep}}}',
        f'{{"asks": [{{"error": {deep}}}]}}',
        deep,
    ):
        text = f'{{"double-check": {entry}, "{DATA}": {entry}}}'
        record = {"answers": text, "texts": {}}
        assert grading.judge(problem_set, record)["double-check"]["score"] == 0
        assert isinstance(grading.remark(problem_set, record), str)


def keys(number: int) -> dict[str, Any]:
    return {"dict": [[k, 0] for k in range(number)]}


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


REFUSED = {
    "keys": keys(KEYS + 1),
    "keys of several dicts": [keys(KEYS // 2), keys(KEYS // 2 + 1)],
    "keys of dicts in dicts": {"dict": [["x", keys(KEYS)]]},
    "a long text among many": ["x" * 5000] + [""] * 2000,
    "a long text among many numbers": ["x" * 5000] + [0] * 2000,
    "depth": nested(100),
    "dimensions": {"array": [[[[[[[[[1]]]]]]]]], "shape": [1] * 9},
    "very many dimensions": {"array": [], "shape": [10**6] * 10**5},
    "a long dimension": {"array": [], "shape": [0, 10**8]},
    "texts as an array": {"array": ["x" * 1000, "y"], "shape": [2]},
    "a text among numbers": {"array": [1, "y"], "shape": [2]},
    "lists as numbers": {"array": [[1], [2]], "shape": [2]},
    "rows of several lengths": {"array": [[1], [2, 3]], "shape": [2, 1]},
    "another size": {"array": [1, 2], "shape": [3]},
    "half a dimension": {"array": [1, 2], "shape": [2.0]},
    "a dimension that is true": {"array": [1], "shape": [True]},
    "minus one": {"array": [1], "shape": [-1]},
    "a shape that is none": {"array": [1], "shape": "1"},
    "a huge number": {"array": [10**4000], "shape": [1]},
    "nothing": {"array": [None], "shape": [1]},
    "other names": {"array": [1]},
    "a list as a key": {"dict": [[[], 1]]},
}


@pytest.mark.parametrize("name", REFUSED)
def test_decode_refuses_answers_that_expand(name: str) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"^an? "):
        decode(REFUSED[name])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24


def test_what_an_answer_may_be() -> None:
    assert len(decode(keys(KEYS))) == KEYS
    assert decode({"array": [[True, False]], "shape": [1, 2]}).dtype == bool
    assert decode({"array": 2.5, "shape": []}).shape == ()
    assert decode({"array": [[], []], "shape": [2, 0]}).shape == (2, 0)
    assert decode(["x" * 1000] + ["y"] * 1000)[1] == "y"


def test_agree_compares_no_text_as_bool() -> None:
    assert not agree(["x" * 10**6] + [""] * 10**5, np.array([True]), 0)
    assert agree([True, False], np.array([True, False]), 0)
    assert agree([[True], [False]], np.array([[True], [False]]), 0)
    assert not agree([1, 0], np.array([True, False]), 0)


def test_an_answer_is_not_longer_than_may_be_handed_over(problem_set: ProblemSet) -> None:
    for number, start in ((LONGEST // 3 + 1, "more than 500000 characters as JSON"), (LONGEST // 4, "[1, 1, 1")):
        asks = {"asks": [{"values": [[1] * number]}]}
        record = {"answers": json.dumps({"largest-check": asks}), "texts": {}}
        (check,) = grading.judge(problem_set, record)["largest-check"]["checks"]
        assert check["given"].startswith(start)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("two\nlines\tand\r\nmore ", "two lines and more"),
        ("\x1b]0;title\x07\x1b[2J\x9b1m", r"\x1b]0;title\x07\x1b[2J\x9b1m"),
        ("\ud800 and \U000e0041", r"\ud800 and \U000e0041"),
        ("\u202eback\u2066 \u200b\ufeff", r"\u202eback\u2066 \u200b\ufeff"),
        ("é 数 ✓", "é 数 ✓"),
        ("x" * 1000, "x" * grading.SHOWN),
        (["x"], "something that is not text"),
    ],
)
def test_error_messages_cannot_steer_a_terminal(
    problem_set: ProblemSet, capsys: pytest.CaptureFixture[str], message: Any, shown: str
) -> None:
    (name,) = [grade_id(c) for c in problem_set.source.cells if grade_id(c).startswith("given")][-1:]
    answers = {name: {"error": message}, "double-check": {"error": message, "asks": [{"error": message}]}}
    record = {"answers": json.dumps(answers), "texts": {}}
    part = grading.judge(problem_set, record)["double-check"]
    assert (part["said"], part["checks"][0]["given"]) == (shown, shown)
    assert grading.remark(problem_set, record) == f"a given cell failed (`import numpy as np`: {shown})"
    shown.encode()


def test_summary_cannot_steer_a_terminal(
    graded: Graded, problem_set: ProblemSet, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even where a record was kept by an earlier version."""
    record = {"status": "not run", "note": "\x1b[2J", "remark": "\ud800", "judged": {}}
    item = gradebook.Grade("ada", "", problem_set, record, None, None)
    with pytest.raises(PressError):
        commands._summary(collection.read_course(graded.course), [item], 0, {"zoe": ["\x1b[1m"]})
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"ada, {SET}: not run: \\x1b[2J; \\ud800",
        "zoe: \\x1b[1m",
    ]


@pytest.mark.parametrize(
    ("name", "can_be"),
    [
        ("ada", True),
        ("Ada Lovelace-Ümit 数", True),
        ("=1+1", True),
        ("x" * 80, True),
        ("x" * 81, False),
        ("é" * 80, True),
        ("数" * 80, True),
        ("😀" * 60, True),
        ("😀" * 61, False),
        ("", False),
        (".ada", False),
        ("a/b", False),
        (" ada", False),
        ("ada ", False),
        ("ada\u00a0", False),
        ("ada\n", False),
        ("a\x1b[2Jda", False),
        ("a\x9bda", False),
        ("a\u202eda", False),
        ("a\u200bda", False),
        ("\ufeffada", False),
        ("a\ud800da", False),
    ],
)
def test_who_can_be_a_student(tmp_path: Path, name: str, can_be: bool) -> None:
    assert collection._can_be_a_student(name) == can_be
    (tmp_path / "course.yml").write_text("seed: 1\n")
    (tmp_path / "students.csv").write_bytes(b"student,name\nada," + f'"{name}"'.encode("utf-8", "replace") + b"\n")
    if name.strip().isprintable():
        assert collection.read_course(tmp_path).roster == {"ada": name.strip()}
    elif "\ud800" not in name:
        with pytest.raises(PressError, match="the name of ada holds what cannot be printed"):
            collection.read_course(tmp_path)


@pytest.mark.parametrize("before", ["", " ", "   ", "\u00a0", "\u200b", "\ufeff", "\x0b", "\x0c", " \u2003\u200f"])
@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@x", "＝1"])
def test_formula_after_invisible_characters_gets_apostrophe(before: str, formula: str) -> None:
    assert tables.cell(before + formula) == f"'{before}{formula}"
    assert tables.bare(f"'{before}{formula}") == before + formula
    assert tables.cell(f"{before}x {formula}") == f"{before}x {formula}"
    assert tables.bare(f"'{before}x") == f"'{before}x"


@given(st.text(st.sampled_from("'=+-@x1 \t\u200b＝") | st.characters(codec="utf-8")))
def test_table_cells_round_trip(text: str) -> None:
    assert tables.bare(tables.cell(text)) == text
    assert not tables.cell(text).startswith(FORMULA)


def test_many_strays_give_few_lines(tmp_path: Path) -> None:
    for number in range(submissions.STRAYS + 7):
        (tmp_path / f"{number:02}").touch()
        found, lines = submissions.find(tmp_path, [SET])
        assert (found, len(lines)) == ([], min(number, submissions.STRAYS) + 1)
    assert lines[0] == "'00' is not in a folder of a problem set, such as 01-tiny; it was not opened"
    assert lines[-1] == "and 7 more"


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (b'{"x": "y"}', '{"x": "y"}'),
        (b'{"x": "\xc3\xa9"}', ""),
        (b'{"x": "' + b"\xff" * 1000 + b'"}', ""),
        (b"\0" * 1000, ""),
        (b"[" * 10**6, ""),
        (b"[1]", ""),
        (b'{"x": "' + b"y" * collection.ANSWERS + b'"}', ""),
    ],
    ids=lambda value: "" if len(value) > 20 else None,
)
def test_what_is_no_answer_is_not_kept(tmp_path: Path, written: bytes, kept: str) -> None:
    """In a record, in JSON within JSON, it would take six times the room."""
    (tmp_path / "answers.json").write_bytes(written)
    assert collection._read_answers(tmp_path / "answers.json") == kept


def test_grade_refuses_course_that_submissions_can_read(
    problem_set: ProblemSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_in(tmp_path, problem_set, Case("ada"))
    (tmp_path / "course.yml").write_text(f"seed: {SEED}\n")
    course = collection.read_course(tmp_path)
    submissions, _ = collection.collect(course, [SET])
    monkeypatch.setattr(isolation, "_libraries", lambda: (tmp_path.parent,))
    with pytest.raises(PressError, match=f"can read {tmp_path.parent}, and that holds {tmp_path}, .* --unsafe-no-s"):
        commands._bring_up_to_date(course, {SET: problem_set}, submissions, 1, False, False)
    assert not (tmp_path / "results").exists()


def test_late_alarm_stops_its_own_cell_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may go off where nothing of a cell runs any more, just before it is switched off."""
    set_alarm = signal.setitimer

    def setitimer(which: int, seconds: float) -> None:
        if seconds == 0:
            signal.raise_signal(signal.SIGALRM)
        set_alarm(which, seconds)

    def run_cell(source: str, store_history: bool) -> SimpleNamespace:
        return SimpleNamespace(error_before_exec=None, error_in_exec=None)

    monkeypatch.setattr(signal, "setitimer", setitimer)
    asks = [{"name": "x", "inputs": None}] * 2
    cells = [{"id": name, "sources": ["x"], "asks": asks} for name in ("first", "second")]
    shell = SimpleNamespace(user_ns={"x": 1}, run_cell=run_cell)
    answers = runner.perform({"cells": cells, "cell_seconds": 60}, shell, lambda _: None)
    monkeypatch.undo()
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert answers.keys() == {"first", "second"}
    assert all(
        answer == {"error": None, "asks": [{"values": [1]}] * 2, "timed_out": True} for answer in answers.values()
    )


def test_unreadable_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ada" / SET).mkdir(parents=True)
    shut, read = tmp_path / "ada", Path.iterdir

    def iterdir(path: Path) -> Any:
        if path == shut:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert submissions.find(shut, [SET]) == ([], ["the student's folder cannot be read (Permission denied)"])
    shut = tmp_path / "ada" / SET
    (found,), strays = submissions.find(tmp_path / "ada", [SET])
    assert (found.path, found.problem, strays) == (None, "the folder cannot be read (Permission denied)", [])
    assert collection.fingerprint(found)


def test_hidden_files_are_no_notebooks(tmp_path: Path) -> None:
    folder = tmp_path / "ada" / SET
    folder.mkdir(parents=True)
    (folder / "work.ipynb").write_text("{}")
    (folder / "._work.ipynb").write_bytes(b"\0\5\x16\7")
    (folder / "old.ipynb").mkdir()
    (found,), _ = submissions.find(tmp_path / "ada", [SET])
    assert (found.path, found.problem) == (folder / "work.ipynb", "")


def notebook_file(folder: Path, **content: Any) -> Path:
    path = folder / "notebook.ipynb"
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [], **content}))
    return path


def test_read_notebook_memory_is_bounded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Outputs that are none, attachments and ids are for nobody; a validator would look at each and complain of it."""
    code = {"cell_type": "code", "id": "same", "source": ["x = 1\n", "y = 2"], "metadata": {"trusted": [{}]}}
    text = {"cell_type": "markdown", "id": "same", "source": "Because.", "attachments": {str(i): {} for i in range(99)}}
    path = notebook_file(tmp_path, cells=[code | {"outputs": [{}] * 12_000}, *[text] * 500])
    tracemalloc.start()
    notebook = submissions.read_notebook(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * path.stat().st_size + 2**20
    assert notebook.cells[0] == {"cell_type": "code", "metadata": {}, "source": "x = 1\ny = 2"}
    assert notebook.cells[1] == {"cell_type": "markdown", "metadata": {}, "source": "Because."}
    assert capfd.readouterr() == ("", "")


def test_what_is_read_of_a_notebook(tmp_path: Path) -> None:
    names = {"grade_id": "a", "points": 2, "solution": True}
    cell = {"cell_type": "code", "source": "x", "metadata": {"nbgrader": names | {"deep": [1]}, "tags": ["t"]}}
    metadata = {"kernelspec": {"language": "R"}, "ncutil": {"seed": 7}, "language_info": [], "widgets": {"state": {}}}
    found = submissions.read_notebook(notebook_file(tmp_path, cells=[cell], metadata=metadata))
    assert found.cells == [{"cell_type": "code", "source": "x", "metadata": {"nbgrader": names}}]
    assert found.metadata == {"kernelspec": {"language": "R"}, "ncutil": {"seed": 7}}
    assert found.cells[0].metadata.nbgrader.grade_id == "a"


def test_version_3_is_read(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "code", "input": ["x = 1"], "language": "python", "metadata": {"nbgrader": {"grade_id": "a"}}},
        {"cell_type": "markdown", "source": "Because.", "metadata": {}},
    ]
    found = submissions.read_notebook(notebook_file(tmp_path, nbformat=3, worksheets=[{"cells": cells}]))
    assert [(grade_id(cell), cell.source) for cell in found.cells] == [("a", "x = 1"), ("", "Because.")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"cells": {}}, "it has no cells"),
        ({"nbformat": 3, "worksheets": [[]]}, "it has no cells"),
        ({"cells": [{"cell_type": "code"}]}, "one of its cells has no text or no type"),
        ({"cells": [{"cell_type": "code", "source": ["x", 1]}]}, "one of its cells has no text or no type"),
        ({"cells": [{"cell_type": [], "source": "x"}]}, "one of its cells has no text or no type"),
        ({"cells": [{}] * (submissions.CELLS + 1)}, f"over {submissions.CELLS} cells"),
        ({"nbformat": True}, "no version of the format"),
        ({"nbformat": 10**4000}, "the notebook has version 10000000000000000000 of the format"),
    ],
)
def test_what_is_no_notebook_is_said(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        submissions.read_notebook(notebook_file(tmp_path, **content))


def test_files_are_read_with_a_bound(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert submissions.read_regular(tmp_path / "file", 5) == b"12345"
    with pytest.raises(ValueError, match="larger than"):
        submissions.read_regular(tmp_path / "file", 4)
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "none", "."):
        with pytest.raises(ValueError, match=r"cannot be read|something else"):
            submissions.read_regular(tmp_path / name, 5)
