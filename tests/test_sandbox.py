"""A stranger's program sees its own folder and takes what the limits give; whatever it does, it is gone afterwards."""

import contextlib
import errno
import io
import os
import platform
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import time
from ast import literal_eval
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT

from ncclass import collection, submissions
from ncclass.sandbox import archive, isolation, monitor, syscalls
from ncclass.sandbox.isolation import Ended, Limits, NoSandboxError

SMALL = Limits(wall=60, cpu=20, memory=256, processes=20, files=64, disk=16, entries=200, output=10_000)


def sandbox_missing() -> str:
    """Why programs cannot be isolated here; empty if they can, and where the tests shall fail if they cannot."""
    if os.environ.get("NCUTIL_REQUIRE_SANDBOX"):
        return ""
    try:
        return "" if isolation.find_sandbox() == "bwrap" else "bubblewrap does not work here"
    except NoSandboxError as error:
        return str(error)


def test_required_sandbox_is_never_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise NoSandboxError("none")

    monkeypatch.setattr(isolation, "find_sandbox", none)
    monkeypatch.delenv("NCUTIL_REQUIRE_SANDBOX", raising=False)
    assert sandbox_missing() == "none"
    monkeypatch.setenv("NCUTIL_REQUIRE_SANDBOX", "1")
    assert sandbox_missing() == ""


isolated = pytest.mark.skipif(bool(sandbox_missing()), reason=sandbox_missing())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "given"
    place.mkdir()
    (place / "given.txt").write_text("given")
    return place


def python(folder: Path, program: str, limits: Limits = SMALL, **how: object) -> Ended:
    return isolation.run([sys.executable, "-S", "-c", program], folder, limits=limits, **how)  # type: ignore[arg-type]


def left(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def running(mark: str) -> list[int]:
    """Processes with a word in their command line that are not just waiting to be reaped."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if mark in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def eventually(mark: str) -> list[int]:
    """The same, when there are some: what was started last may not have begun yet on a busy machine."""
    until = time.monotonic() + 10
    while not (found := running(mark)) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def seconds(number: int) -> str:
    """A time to sleep that no other run of these tests, at the same time, has in its command lines."""
    return f"{number}.{os.getpid():07d}"


def gone(mark: str) -> bool:
    """Whether such processes are gone, or go within a moment."""
    for _ in range(100):
        if not running(mark):
            return True
        time.sleep(0.05)
    return False


def denied_here() -> dict[str, int]:
    """Names and numbers of the system calls that the filter of this machine denies."""
    machine = syscalls.MACHINES.get(platform.machine())
    if machine is None:
        pytest.skip(f"there is no filter of system calls for {platform.machine()}")
    return {name: both[machine[0]] for name, both in syscalls.DENIED.items()}


@isolated
class TestFolder:
    def test_files_go_in_and_come_out(self, folder: Path) -> None:
        ended = python(folder, "open('new.txt', 'w').write(open('given.txt').read() + ' back'); print('said')")
        assert (ended.status, ended.returncode, ended.output) == ("done", 0, "said\n")
        assert left(folder) == {"given.txt": "given", "new.txt": "given back"}

    def test_the_folder_holds_what_was_left(self, folder: Path) -> None:
        program = "import os; os.remove('given.txt'); os.makedirs('a/b'); open('a/b/c', 'w').write('x')"
        assert python(folder, program).status == "done"
        assert left(folder) == {"a/b/c": "x"}

    def test_links_and_pipes_stay_out(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("secret")
        (folder / "in").symlink_to(tmp_path / "secret")
        program = """
import os
assert not os.path.lexists('in')
os.symlink('/etc/passwd', 'link'); os.symlink('/', 'root'); os.mkfifo('pipe'); os.link('given.txt', 'hard')
os.mkdir('odd'); open('odd/x', 'w').write('1'); os.chmod('odd/x', 0o4777)
"""
        assert python(folder, program).status == "done"
        found = {path.name: path.lstat() for path in folder.rglob("*")}
        assert {name for name in found if stat.S_ISREG(found[name].st_mode)} == {"given.txt", "hard", "x"}
        assert (folder / "given.txt").read_text() == (folder / "hard").read_text() == "given"
        assert not any(stat.S_ISLNK(entry.st_mode) or stat.S_ISFIFO(entry.st_mode) for entry in found.values())
        assert not found["x"].st_mode & stat.S_ISUID

    @pytest.mark.parametrize(
        ("program", "bound"),
        [
            ("for i in range(1000): open(f'f{i}', 'w')", "entries"),
            ("for i in range(100): open(f'f{i}', 'w').truncate(10**7)", "holes"),
            ("import os\nfor i in range(40): os.mkdir('d'); os.chdir('d')", "depth"),
        ],
        ids=lambda value: value if " " not in value else "",
    )
    def test_too_much_is_not_taken(self, folder: Path, program: str, bound: str) -> None:
        assert python(folder, program).status == "disk", bound
        assert left(folder) == {"given.txt": "given"}
        assert [path.name for path in folder.parent.iterdir()] == ["given"]

    @pytest.mark.parametrize(
        "program",
        [
            "open('x', 'wb').write(bytes(30 * 10**6))",
            "for i in range(30): open(f'x{i}', 'wb').write(bytes(10**6))",
            "import os\nfiles = [open('x', 'wb') for i in range(30) if i == 0 or not os.remove('x')]\n"
            "for file in files: file.write(bytes(10**6)); file.flush()",
            "open('/tmp' + '/x', 'wb').write(bytes(10**7)); open('/tmp' + '/y', 'wb').write(bytes(10**7))",
            "open('/dev/shm/x', 'wb').write(bytes(10**7)); open('/dev/shm/y', 'wb').write(bytes(10**7))",
        ],
        ids=["one", "many", "removed but open", "temporary", "shared memory"],
    )
    def test_a_full_disk_is_an_error_of_the_program(self, folder: Path, program: str) -> None:
        ended = python(folder, program)
        assert (ended.status, ended.returncode) == ("failed", 1)
        assert "OSError: [Errno 2" in ended.output  # 27 file too large, 28 no space left

    def test_file_with_too_long_name_is_left_out(self, folder: Path) -> None:
        ended = python(folder, "open('n' * 101, 'w'); open('m' * 90, 'w'); open('end', 'w').write('1')")
        assert ended.status == "done"
        assert left(folder).keys() == {"given.txt", "end", "m" * 90}
        assert "n" * 101 + ": file name is too long" in ended.output

    def test_names_are_no_paths(self, folder: Path) -> None:
        program = "open('-rf', 'w'); open('a\\nb', 'w'); open(b'\\xff', 'w'); open('..x', 'w'); open('~', 'w')"
        assert python(folder, program).status == "done"
        assert len(list(folder.iterdir())) == 6


@isolated
class TestSight:
    def test_files_of_caller_are_not_visible(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TEACHERS_TOKEN", "hush")
        (tmp_path / "gradebook.db").write_text("other submissions, the gradebook, the solutions")
        program = f"""
import glob, os
for path in ({str(tmp_path / "gradebook.db")!r}, {str(tmp_path)!r}, '/etc/passwd', '/etc/shadow', '/sys', '/run'):
    assert not os.path.exists(path), path
for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):
    try:
        text = open(path, 'rb').read()
    except OSError:
        continue
    assert b'hush' not in text and {str(tmp_path)!r}.encode() not in text, (path, text)
print(os.getcwd(), os.listdir(), os.path.expanduser('~'), os.uname().nodename, sorted(os.environ))
"""
        ended = isolation.run([sys.executable, "-S", "-"], folder, limits=SMALL)
        assert ended.status == "done"  # there is nothing to read on standard input
        (folder / "program.py").write_text(program)
        ended = isolation.run([sys.executable, "-S", "program.py"], folder, limits=SMALL, env={"OWN": "1"})
        assert ended.status == "done", ended.output
        assert ended.output.startswith("/folder ['")
        assert " /tmp sandbox [" in ended.output
        assert "'OWN'" in ended.output
        assert "TEACHERS" not in ended.output

    def test_nothing_else_can_be_written(self, folder: Path) -> None:
        program = """
import os, sys
for place in ('/', '/dev', '/etc', '/usr', '/bin', '/proc', '/proc/sys/kernel', '/.sandbox', *sys.path, sys.prefix):
    if place.startswith('/tmp'):
        continue  # of its own, also where this clone lies in the real one
    try:
        open(os.path.join(place or '.', 'mark'), 'w')
    except OSError:
        continue
    print(place)
"""
        assert python(folder, program).output.split() == []
        assert "mark" in left(folder)  # sys.path starts with the folder itself

    def test_readable_is_read_only(self, folder: Path, tmp_path: Path) -> None:
        extra = tmp_path / "extra"
        extra.mkdir()
        (extra / "table.csv").write_text("1,2")
        (extra / "table.csv").chmod(0o666)
        path = str(extra / "table.csv")
        assert python(folder, f"print(open({path!r}).read())", readable=[extra]).output == "1,2\n"
        assert "Read-only" in python(folder, f"open({path!r}, 'a')", readable=[extra]).output

    def test_solutions_are_not_shown(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An environment may have been made in the root of a clone, or a clone below Python's own folder."""
        clone = tmp_path / "clone"
        (clone / "notebooks" / "assignments").mkdir(parents=True)
        for seen in (clone, ROOT.parent):
            with pytest.raises(NoSandboxError, match=r"holds .*/notebooks/assignments, which .* such as \.venv"):
                python(folder, "pass", readable=[seen], private=collection.PRIVATE)
        monkeypatch.setattr(isolation, "_libraries", lambda: (clone,))
        with pytest.raises(NoSandboxError, match=f"can read {clone}, and that holds"):
            python(folder, "pass", private=collection.PRIVATE)

    def test_what_is_private_is_not_shown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A course below Python's environment; an environment made in the home folder itself."""
        course, apart = tmp_path / "python" / "course", tmp_path / "apart"
        for place in (course, apart):
            place.mkdir(parents=True)
        (tmp_path / "link").symlink_to(course)
        monkeypatch.setattr(isolation, "_libraries", lambda: (tmp_path / "python", tmp_path / "other"))
        isolation.keep_private([apart, tmp_path, tmp_path / "python" / "none"])
        for place in (course, tmp_path / "link", tmp_path / "python", Path("/usr/lib")):
            with pytest.raises(NoSandboxError, match=f" holds {place}, which is private: make"):
                isolation.keep_private([apart, place])
        with pytest.raises(NoSandboxError, match=f"can read {apart}, and that holds {apart}, "):
            isolation.keep_private([apart], readable=[apart])

    def test_a_package_of_the_caller_can_be_imported(self, folder: Path, tmp_path: Path) -> None:
        package = tmp_path / "packages" / "own"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        env, program = {"PYTHONPATH": str(package.parent)}, "import own"
        command = [sys.executable, "-c", program]
        assert isolation.run(command, folder, readable=[package], env=env).status == "done"
        assert isolation.run(command, folder, env=env).status == "failed"

    def test_no_network(self, folder: Path) -> None:
        name = f"\0ncutil-{os.getpid()}"
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
            local.bind(name)
            local.listen()
            program = f"""
import socket
for family, address in ((socket.AF_INET, ('127.0.0.1', {server.getsockname()[1]})), (socket.AF_UNIX, {name!r})):
    try:
        socket.socket(family).connect(address)
    except OSError as error:
        print('refused')
try:
    socket.getaddrinfo('example.org', 80)
except OSError:
    print('no names')
"""
            assert python(folder, program).output.split("\n")[:3] == ["refused", "refused", "no names"]

    def test_no_file_of_caller_is_open(self, folder: Path) -> None:
        program = """
import glob, os
seen = []
for path in glob.glob('/proc/[0-9]*/fd/*'):
    try:
        seen.append(os.readlink(path))
    except OSError:
        pass
print(*sorted({name.split(':')[0] for name in seen}))
"""
        assert set(python(folder, program).output.split()) <= {"/dev/null", "pipe", "anon_inode", "/folder"}

    def test_stdin_of_sandbox_is_no_file(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of none of the processes, the sandbox's own ones included: seen from outside."""
        seen, look = set(), monitor._excess

        def excess(tree: list[psutil.Process], *how: Any) -> tuple[str, set[int]]:
            for process in tree:
                with contextlib.suppress(OSError):
                    seen.add(os.readlink(f"/proc/{process.pid}/fd/0").split(":")[0])
            return look(tree, *how)

        monkeypatch.setattr(monitor, "_excess", excess)
        assert python(folder, "import time; time.sleep(5)").status == "done"
        assert seen == {"pipe", "/dev/null"}

    def test_keyring_of_caller_is_not_readable(self, folder: Path) -> None:
        """Keys in a session's keyring are handed down to whatever is started in it, whoever that runs as."""
        numbers = denied_here()
        add, keyctl = numbers["add_key"], numbers["keyctl"]
        read = f"""
import ctypes
call, text = ctypes.CDLL(None, use_errno=True).syscall, ctypes.create_string_buffer(100)
key = call({keyctl}, 10, -3, b'user', b'ncutil-test', 0)
print(call({keyctl}, 11, key, text, 100), text.value, ctypes.get_errno())
"""
        teacher = f"""
import ctypes, sys
from pathlib import Path
from ncclass.sandbox import isolation
call = ctypes.CDLL(None).syscall
if call({keyctl}, 1, None) < 0 or call({add}, b'user', b'ncutil-test', b'hush', 4, -3) < 0:
    sys.exit('no keys')
exec({read!r})
print(isolation.run([sys.executable, '-S', '-c', {read!r}], Path({str(folder)!r})).output)
"""
        done = subprocess.run([sys.executable, "-c", teacher], capture_output=True, text=True)
        if "no keys" in done.stderr:
            pytest.skip("this machine keeps no keys for its users")
        assert done.stdout.split("\n")[:2] == ["4 b'hush' 0", "-1 b'' 1"]

    def test_no_way_to_other_rights(self, folder: Path) -> None:
        program = """
import os, subprocess
assert os.getuid() != 0
fields = dict(line.split(':', 1) for line in open('/proc/self/status'))
assert int(fields['CapEff'], 16) == 0 and fields['NoNewPrivs'].strip() == '1'
assert subprocess.run(['unshare', '--user', 'true'], capture_output=True).returncode != 0
assert subprocess.run(['su', '-c', 'true'], capture_output=True).returncode != 0
"""
        ended = python(folder, program)
        assert ended.status == "done", ended.output


LONG = replace(SMALL, wall=60, cpu=60)
FIRST = "open('first', 'w').write('1')\n"
HOGS = {
    "processes": "import os, time\nfor i in range(4): os.fork() or (b'a' * 10**8, time.sleep(600))\ntime.sleep(600)",
}
HOGS["a decoy"] = f"""
import ctypes, os, time
ready, tell = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        ctypes.CDLL(None).prctl(15, b'timeout')
        os.write(tell, b'1')
        time.sleep(600)
    os._exit(0)
os.wait()
os.read(ready, 1)
{HOGS["processes"]}
"""
HOGS["hidden"] = "import ctypes, time\nctypes.CDLL(None).prctl(4, 0)\ntime.sleep(600)"
if (machine := platform.machine()) in (exits := {"x86_64": 60, "aarch64": 93}):
    HOGS["first threads that have ended"] = f"""
import ctypes, os, threading, time
def state(thread):
    return open(f'/proc/self/task/{{thread}}/stat').read().rpartition(') ')[2][0]
def hold():
    while state(os.getpid()) != 'Z':
        time.sleep(0.01)
    x = b'a' * 10**8
    time.sleep(600)
for i in range(4):
    if os.fork() == 0:
        threading.Thread(target=hold).start()
        ctypes.CDLL(None).syscall({exits[machine]}, 0)
time.sleep(600)
"""
SHARED = (
    "import mmap, time\nx = [mmap.mmap(-1, 10**8) for i in range(5)]\nfor m in x: m.write(bytes(10**8))\n"
    "time.sleep(600)"
)
UNNAMED = "import os, time\nfor i in range(40): os.write(os.memfd_create('x'), bytes(10**7))\ntime.sleep(600)"


@isolated
class TestLimits:
    @pytest.fixture(autouse=True)
    def patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A machine that is busy with other tests takes its time to take memory back."""
        monkeypatch.setattr(monitor, "PATIENCE", 5.0)

    def test_wall_time(self, folder: Path) -> None:
        program = "import time; open('first', 'w').write('1'); time.sleep(60)"
        assert python(folder, program, Limits(wall=3)).status == "wall time"
        assert left(folder)["first"] == "1"

    def test_memory_counts_swap_and_not_files(self, tmp_path: Path) -> None:
        (tmp_path / "status").write_text("Name:\tVmRSS: 9\nVmRSS:\t  8 kB\nVmPTE:\t4 kB\nVmSwap:\t16 kB\n")
        assert monitor._own(tmp_path) == monitor._resident(tmp_path) == 28 * 1024
        rollup = "Pss: 9 kB\nPss_Anon: 1 kB\nPss_File: 5 kB\nPss_Shmem: 2 kB\nSwap: 32 kB\nSwapPss: 16 kB\n"
        (tmp_path / "smaps_rollup").write_text("00-ff ---p 0 00:00 0 [rollup]\n" + rollup)
        assert monitor._own(tmp_path) == (1 + 2 + 16 + 4) * 1024
        assert monitor._own(tmp_path / "none") == monitor._resident(tmp_path / "none") == 0

    def test_processor_time(self, folder: Path) -> None:
        program = "open('first', 'w').write('1')\nwhile True: pass"
        assert python(folder, program, Limits(wall=30, cpu=1)).status == "processor time"
        assert left(folder)["first"] == "1"

    def test_memory_of_one_process_is_its_own_error(self, folder: Path) -> None:
        ended = python(folder, "x = []\nwhile True: x.append(bytes(10**7))")
        assert ended.status == "failed"
        assert "MemoryError" in ended.output

    @pytest.mark.parametrize("program", HOGS.values(), ids=HOGS.keys())
    def test_memory_of_all(self, folder: Path, program: str) -> None:
        ended = python(folder, FIRST + program, LONG)
        assert (ended.status, left(folder)["first"]) == ("memory", "1")
        assert ended.seconds < LONG.wall

    def test_memory_that_belongs_to_no_process(self, folder: Path) -> None:
        """It cannot be made; where there is no filter of system calls, what is held open or mapped is counted."""
        denied_here()
        ended = python(folder, FIRST + UNNAMED, LONG)
        assert ended.status == "failed"
        assert "PermissionError" in ended.output

    @pytest.mark.parametrize("program", [UNNAMED, SHARED], ids=["open", "mapped"])
    def test_unnamed_memory_counts_without_filter(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, program: str
    ) -> None:
        monkeypatch.setattr(syscalls, "program", lambda: b"")
        assert python(folder, FIRST + program, LONG).status == "memory"
        assert left(folder)["first"] == "1"

    def test_program_that_stops_the_wrapper_loses_its_files(self, folder: Path) -> None:
        stop = "import os, signal\nparent = open(f'/proc/{os.getppid()}/stat').read().split()[3]\n"
        stop += "os.kill(int(parent), signal.SIGSTOP)\n"
        ended = python(folder, FIRST + stop + HOGS["processes"], LONG)
        assert ended.status == "memory"
        assert ended.seconds < LONG.wall
        assert left(folder) == {"given.txt": "given"}

    @pytest.mark.parametrize(
        "program",
        [
            "import os\nfor i in range(6):\n    if os.fork() == 0: break\nwhile True: pass",
            "import os, time\nwhile True:\n    if os.fork() == 0:\n        until = time.process_time() + 0.3\n"
            "        while time.process_time() < until: pass\n        os._exit(0)\n    os.wait()",
        ],
        ids=["side by side", "one after the other"],
    )
    def test_processor_time_of_all(self, folder: Path, program: str) -> None:
        limits = Limits(wall=60, cpu=2, memory=256)
        ended = python(folder, FIRST + program, limits)
        assert (ended.status, left(folder)["first"]) == ("processor time", "1")
        assert ended.seconds < limits.wall

    def test_every_process_in_sandbox_has_limits(self, folder: Path) -> None:
        program = """
import glob
for path in glob.glob('/proc/[0-9]*'):
    limits = {line[:26].strip(): line[26:].split()[:2] for line in open(path + '/limits')}
    name = open(path + '/comm').read().strip()
    if name != 'bwrap':
        print(name, *limits['Max processes'], *limits['Max data size'], *limits['Max open files'])
"""
        found = [line.split() for line in python(folder, program).output.splitlines()]
        data = str(SMALL.memory * 2**20)
        own = Path(sys.executable).name[:15]
        assert {name: most for name, most, *_ in found} == {"sh": "24", "timeout": "24", own: "20"}
        assert all(rest == [most, data, data, "64", "64"] for _, most, *rest in found)

    def test_fork_bomb_and_its_neighbour(self, folder: Path, tmp_path: Path) -> None:
        bomb = f"""
import os, sys
while True:
    try:
        os.fork()
    except OSError:
        pass
# {os.getpid()}"""
        neighbour = tmp_path / "neighbour"
        neighbour.mkdir()
        ends: list[Ended] = []
        limits = Limits(wall=3, processes=20)
        thread = threading.Thread(target=lambda: ends.append(python(folder, bomb, limits)))
        thread.start()
        # A program beside it may still start as many processes as it is allowed.
        program = "import subprocess; [process.wait() for process in [subprocess.Popen(['true']) for i in range(12)]]"
        beside = python(neighbour, program, Limits(wall=60, processes=20))
        thread.join()
        assert ends[0].status == "wall time"
        assert beside.status == "done", beside.output
        assert gone(bomb)

    @pytest.mark.parametrize("place", [".", "/tmp", "/dev/shm"])
    def test_very_many_files(self, folder: Path, place: str) -> None:
        """Empty files fill no file system, and yet they take memory."""
        program = f"for i in range(10**7): open(f'{place}/{{i}}', 'w')"
        assert python(folder, program).status == "disk"

    def test_output_is_cut(self, folder: Path) -> None:
        program = "import sys\nfor i in range(300): sys.stdout.write('a' * 10**6)\nopen('end', 'w').write('1')"
        ended = python(folder, program)
        assert ended.status == "done"
        assert ended.output.startswith("a" * SMALL.output)
        assert ended.output[SMALL.output :] == "\n[the rest was thrown away]\n"
        assert left(folder)["end"] == "1"

    def test_output_that_is_no_text(self, folder: Path) -> None:
        assert "\ufffd" in python(folder, "import os; os.write(1, b'\\xff\\xfe\\x00')").output


@isolated
class TestSystemCalls:
    def test_what_is_denied_is_denied(self, folder: Path) -> None:
        numbers = denied_here()
        program = f"""
import ctypes
call = ctypes.CDLL(None, use_errno=True).syscall
print({{name: (call(number, 0, 0, 0, 0, 0), ctypes.get_errno()) for name, number in {numbers}.items()}})
"""
        assert literal_eval(python(folder, program).output) == dict.fromkeys(numbers, (-1, errno.EPERM))

    def test_families_of_sockets(self, folder: Path) -> None:
        denied_here()
        program = """
import socket
for family in (1, 2, 10, 16, 17, 31, 38, 40, 45):
    try:
        socket.socket(family, socket.SOCK_DGRAM if family != 16 else socket.SOCK_RAW)
        print(family)
    except OSError as error:
        print(family, error.errno)
socket.socketpair()
"""
        ended = python(folder, program)
        assert ended.status == "done"
        assert ended.output.split("\n")[:-1] == ["1", "2 1", "10 1", "16", "17 1", "31 1", "38 1", "40 1", "45 1"]

    @pytest.mark.parametrize(
        ("program", "said"),
        [
            ("import mmap\nmmap.mmap(-1, 4096)", "PermissionError: [Errno 1] Operation not permitted"),
            # A device of zeros that can be read, and not mapped.
            (
                "import mmap, os\nzeros = os.open('/dev/zero', os.O_RDWR)\nassert os.read(zeros, 9) == bytes(9)\n"
                "mmap.mmap(zeros, 4096)",
                "OSError: [Errno 19] No such device",
            ),
            (
                "import socket\nsocket.socketpair()[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**28)",
                "PermissionError: [Errno 1] Operation not permitted",
            ),
        ],
        ids=["a file without a name", "another one", "buffers"],
    )
    def test_memory_that_counts_for_no_process(self, folder: Path, program: str, said: str) -> None:
        denied_here()
        ended = python(folder, program)
        assert (ended.status, ended.output.splitlines()[-1]) == ("failed", said)

    def test_what_a_notebook_needs_goes_on(self, folder: Path) -> None:
        program = """
import ctypes, mmap, multiprocessing, os, socket, subprocess, threading
import IPython.core.interactiveshell, matplotlib.pyplot, numpy, pandas, scipy.linalg, sklearn.linear_model, torch
print(float((torch.ones(99, 99) @ torch.ones(99, 99)).sum()), float(numpy.linalg.det(numpy.eye(3))))
print(ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 3)(), multiprocessing.get_context('fork').Pool(2).map(abs, [1, -2]))
print(next(iter(torch.utils.data.DataLoader([1, 2], num_workers=1))), subprocess.check_output(['echo', 'there']))
print(multiprocessing.Array('d', [1, 2])[:], mmap.mmap(-1, 9, mmap.MAP_PRIVATE)[:2])
open('numbers', 'wb').write(b'12')
print(mmap.mmap(os.open('numbers', os.O_RDWR), 2)[:], torch.ones(2).share_memory_().sum())
socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
matplotlib.pyplot.plot([1, 2])
matplotlib.pyplot.savefig('plot.png')
"""
        how = {"limits": Limits(), "env": {"MPLBACKEND": "Agg", "MPLCONFIGDIR": "/tmp"}}
        ended = isolation.run([sys.executable, "-c", program], folder, **how)  # type: ignore[arg-type]
        assert ended.status == "done", ended.output
        assert ended.output.endswith(
            "970299.0 1.0\n3 [1, 2]\ntensor([1]) b'there\\n'\n[1.0, 2.0] b'\\x00\\x00'\nb'12' tensor(2.)\n"
        )
        assert (folder / "plot.png").exists()


def verdict(program: bytes, machine: int, number: int, *arguments: int) -> int:
    """What the kernel makes of a filter, for the five operations that ours has."""
    data = struct.pack("=IIQ6Q", number, machine, 0, *arguments, *[0] * (6 - len(arguments)))
    steps, place, loaded = list(struct.iter_unpack("=HBBI", program)), 0, 0
    while True:
        operation, then, otherwise, operand = steps[place]
        place += 1
        if operation == 0x20:
            (loaded,) = struct.unpack_from("=I", data, operand)
        elif operation in (0x15, 0x35, 0x45):
            holds = {0x15: loaded == operand, 0x35: loaded >= operand, 0x45: loaded & operand != 0}[operation]
            place += then if holds else otherwise
        else:
            assert operation == 0x06
            return operand


@pytest.mark.parametrize(("machine", "column", "name"), [("x86_64", 0, 0xC000003E), ("aarch64", 1, 0xC00000B7)])
def test_the_filter(machine: str, column: int, name: int) -> None:
    program, allow, deny = syscalls.program(machine), 0x7FFF0000, 0x00050001
    denied = {both[column] for both in syscalls.DENIED.values()}
    sockets = {both[column] for both in syscalls.SOCKETS.values()}
    assert len(denied) == len(syscalls.DENIED)
    for number in set(range(600)) - sockets:
        assert verdict(program, name, number) == (deny if number in denied else allow)
    for number in sockets:
        for family in range(60):
            expected = allow if family in (1, 16) else deny
            # The kernel reads 32 bits of it.
            assert verdict(program, name, number, family) == verdict(program, name, number, family + 2**40) == expected
    for level in (0, 1, 6, 17):
        for option in range(80):
            expected = deny if level == 1 and option in (7, 8, 32, 33, 60) else allow
            words = (syscalls.SETSOCKOPT[column], 3, level + 2**33, option + 2**33)
            assert verdict(program, name, *words) == expected
    for flags in range(256):
        expected = deny if flags & 0x21 == 0x21 else allow
        assert verdict(program, name, syscalls.MMAP[column], 0, 4096, 3, flags) == expected
    for number in (0, 20, 39, 172):
        assert verdict(program, 0x40000003, number) == verdict(program, 0x40000028, number) == deny
        assert verdict(program, name, 0x40000000 + number) == (deny if machine == "x86_64" else allow)


@isolated
class TestEnd:
    def test_what_it_started_is_gone(self, folder: Path) -> None:
        program = f"""
import os, subprocess
for i in range(3):
    subprocess.Popen(['setsid', 'sleep', '{seconds(31)}'], start_new_session=True)
"""
        assert python(folder, program).status == "done"
        assert gone(seconds(31))

    @pytest.mark.parametrize(
        ("program", "status", "code"),
        [
            ("import sys; sys.exit(3)", "failed", 3),
            ("import os; os._exit(0)", "done", 0),
            ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "failed", 137),
            ("import os, signal; os.kill(-1, signal.SIGKILL)", "failed", 137),
            ("import os, signal; os.kill(os.getppid(), signal.SIGKILL)", "failed", 137),
            ("raise SystemExit('bye')", "failed", 1),
            ("print(1)\nsyntax error", "failed", 1),
        ],
    )
    def test_how_it_ends(self, folder: Path, program: str, status: str, code: int) -> None:
        ended = python(folder, program)
        assert (ended.status, ended.returncode) == (status, code)
        assert left(folder) == {"given.txt": "given"}

    def test_a_forged_archive(self, folder: Path) -> None:
        """A program that writes into the archive on its way out loses its own files, and reaches no others."""
        program = """
import glob, io, tarfile, os
forged = io.BytesIO()
with tarfile.open(fileobj=forged, mode='w') as archive:
    for name in ('../escaped', '/tmp' + '/escaped', 'a/../../escaped'):
        archive.addfile(tarfile.TarInfo(name))
    link = tarfile.TarInfo('door'); link.type = tarfile.SYMTYPE; link.linkname = '..'; archive.addfile(link)
    archive.addfile(tarfile.TarInfo('door/escaped'))
for path in glob.glob('/proc/[0-9]*/fd/1'):
    try:
        open(path, 'wb').write(forged.getvalue())
    except OSError:
        pass
"""
        assert python(folder, program).status in ("done", "failed")
        assert [path.name for path in folder.parent.iterdir()] == ["given"]
        assert not (folder.parent.parent / "escaped").exists()

    def test_program_ends_with_its_starter(self, folder: Path) -> None:
        program = f"""
from pathlib import Path
from ncclass.sandbox import archive, isolation, monitor, syscalls
isolation.run(['sleep', '{seconds(27)}'], Path({str(folder)!r}))
"""
        grader = subprocess.Popen([sys.executable, "-c", program])
        while not running(seconds(27)):
            assert grader.poll() is None
            time.sleep(0.05)
        grader.send_signal(signal.SIGKILL)
        grader.wait()
        assert gone(seconds(27))


def test_the_page_names_the_limits_of_grading() -> None:
    page, limits = (ROOT / "book" / "sandbox.md").read_text(), collection.LIMITS
    for words in (
        f"{limits.wall / 60:g} minutes in all, {({60: 'one minute a cell'})[collection.CELL_SECONDS]}",
        f"{limits.cpu / 60:g} minutes of processor time",
        f"{limits.memory / 1024:g} GB; one process",
        f"{limits.processes} at a time, threads counted, each with {limits.files} open files",
        f"{limits.disk} MB in its folder, {limits.disk} MB in `/tmp`, 16 MB in `/dev/shm`",
        f"it may leave {limits.entries} files, and have 20 000",
        f"{limits.processes} processes with {limits.files} sockets each can fill "
        f"{limits.processes * limits.files * 208 * 2**10 / 1e9:.1f} GB",
        f"{limits.output // 1024} kB of what it prints",
        f"at most {collection.ANSWERS // 2**20} MB, never pickle; an answer in it has at most 500 000 characters",
        f"of at most {submissions.LARGEST // 2**20} MB; zips",
    ):
        assert words in page
    assert limits.entries * monitor.CROWD == 20_000


def packed(*entries: tarfile.TarInfo, form: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as target:
        for entry in entries:
            target.addfile(entry, io.BytesIO(bytes(entry.size)))
    return file.getvalue()


def entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type, made.linkname = size, kind, link
    return made


def head(kind: bytes, size: bytes) -> bytes:
    """A head of an archive that says whatever it likes of its size."""
    plain = bytearray(packed(entry("x"))[:512])
    plain[156:157], plain[124:136] = kind, size.ljust(12, b"\0")
    plain[148:156] = b"%06o\0 " % (sum(plain[:148]) + 8 * 32 + sum(plain[156:]))
    return bytes(plain)


FORGED = {
    "parent": packed(entry("../escaped")),
    "parent on the way": packed(entry("a", kind=tarfile.DIRTYPE), entry("a/../../escaped")),
    "absolute": packed(entry("/escaped")),
    "through a link": packed(entry("door", kind=tarfile.SYMTYPE, link=".."), entry("door/escaped")),
    "twice": packed(entry("x", 3), entry("x", 4)),
    "a file as a folder": packed(entry("x"), entry("x/y")),
    "a long name of GNU": packed(entry("n" * 200), form=tarfile.GNU_FORMAT),
    "a head of PAX": packed(entry("n" * 200), form=tarfile.PAX_FORMAT),
    "heads within heads": head(b"L", b"1") * 3000,
    "a name of 8 GB": head(b"L", b"77777777777"),
    "a name of 2**62 bytes": head(b"L", b"\x80" + (2**62).to_bytes(11, "big")),
    "a head of PAX of 2**80 bytes": head(b"x", b"\x80" + (2**80).to_bytes(11, "big")),
    "a sparse file": head(b"S", b"1000"),
    "minus one byte": head(b"0", b"\xff" * 12),
    "minus one byte in words": head(b"0", b"-1"),
    "no number": head(b"0", b"9x"),
    "a folder with contents": head(b"5", b"1000"),
    "contents that are not there": packed(entry("x", 5000))[:1024],
    "no end": packed(entry("x"))[:512],
    "nothing": b"",
    "noise": b"noise" * 1000,
}


class TestForgedArchives:
    """A submission can write into the archive of its files on their way out, whatever it likes."""

    @pytest.mark.parametrize("name", FORGED)
    @pytest.mark.parametrize(("before", "after"), [("done", "failed"), ("wall time", "wall time")])
    def test_is_refused_and_leaves_the_folder_as_it_was(self, folder: Path, name: str, before: str, after: str) -> None:
        ended = isolation._take_out(io.BytesIO(FORGED[name]), folder, SMALL, Ended(before, 0, 1.0, "said\n"))
        assert ended.status == after
        assert ended.output.startswith("said\n\n[what it left is not readable: ")
        assert left(folder) == {"given.txt": "given"}
        assert [path.name for path in folder.parent.iterdir()] == ["given"]

    @pytest.mark.parametrize(
        "forged",
        [
            head(b"0", b"77777777777"),
            packed(*[entry(f"x{i}", 10**7) for i in range(2)]),
            packed(*[entry(f"x{i}", kind=tarfile.SYMTYPE, link=".") for i in range(SMALL.entries + 2)]),
            packed(*[entry("/".join("d" * (i + 1)), kind=tarfile.DIRTYPE) for i in range(archive.DEPTH + 2)]),
        ],
        ids=["8 GB", "together", "entries", "depth"],
    )
    def test_too_much_is_not_taken(self, folder: Path, forged: bytes) -> None:
        assert isolation._take_out(io.BytesIO(forged), folder, SMALL, Ended("done", 0, 1.0, "")).status == "disk"
        assert left(folder) == {"given.txt": "given"}
        assert [path.name for path in folder.parent.iterdir()] == ["given"]

    def test_unpack_takes_valid_archives(self, folder: Path) -> None:
        long = "/".join(("d" * 90, "n" * 90))
        given = (entry("."), entry("d" * 90), entry(long, 5000), entry("x", 512), entry("link", kind=b"2", link="/"))
        for place in given[:2]:
            place.type = tarfile.DIRTYPE
        ended = isolation._take_out(io.BytesIO(packed(*given)), folder, SMALL, Ended("done", 0, 1.0, ""))
        assert ended.status == "done"
        assert left(folder) == {long: "\0" * 5000, "x": "\0" * 512}


@pytest.fixture(params=isolation.CONTAINERS)
def tool(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A container command that works here."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    (tmp_path / "empty").mkdir()
    ended = isolation.run(["true"], tmp_path / "empty", limits=Limits(wall=60), sandbox=request.param)
    if ended.status != "done":
        pytest.skip(f"{request.param} does not work here: {(ended.output or ended.status).splitlines()[0]}")
    return str(request.param)


class TestContainers:
    def test_files_go_in_and_come_out(self, folder: Path, tool: str) -> None:
        program = "open('new.txt', 'w').write(open('given.txt').read() + ' back'); print('said')"
        ended = python(folder, program, sandbox=tool)
        assert (ended.status, ended.returncode, ended.output) == ("done", 0, "said\n")
        assert left(folder) == {"given.txt": "given", "new.txt": "given back"}

    def test_files_of_caller_are_not_visible(self, folder: Path, tmp_path: Path, tool: str) -> None:
        (tmp_path / "gradebook.db").write_text("the gradebook")
        with socket.create_server(("127.0.0.1", 0)) as server:
            program = f"""
import os, socket
assert os.getuid() != 0
assert not os.path.exists({str(tmp_path / "gradebook.db")!r})
try:
    socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 5)
except OSError:
    print('refused')
for place in ('/', '/usr', '/etc'):
    try:
        open(place + '/mark', 'w')
        print(place)
    except OSError:
        pass
"""
            ended = python(folder, program, sandbox=tool)
        assert (ended.status, ended.output) == ("done", "refused\n")

    def test_memory_of_all(self, folder: Path, tool: str) -> None:
        program = """
import os, time
for i in range(4):
    os.fork() or (b'a' * 10**8, time.sleep(2), os._exit(0))
print(9 in [os.wait()[1] for i in range(4)])
"""
        assert python(folder, program, sandbox=tool).output.endswith("True\n")

    @pytest.mark.parametrize(
        ("program", "status"),
        [
            ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "wall time"),
            (f"import subprocess; subprocess.Popen(['setsid', 'sleep', '{seconds(23)}'])", "done"),
        ],
        ids=["processes", "daemon"],
    )
    def test_it_ends_and_leaves_nothing(self, folder: Path, tool: str, program: str, status: str) -> None:
        limits = replace(SMALL, wall=5)
        assert python(folder, FIRST + program, limits, sandbox=tool).status == status
        listed = subprocess.run([tool, "ps", "--filter", f"name=sandbox-{os.getpid()}-", "-q"], capture_output=True)
        assert listed.stdout == b""
        assert gone(seconds(23))
        assert gone(FIRST + program)


class TestWithout:
    def test_missing_sandbox_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(isolation.shutil, "which", lambda name: None)
        isolation.find_sandbox.cache_clear()
        with pytest.raises(NoSandboxError) as caught:
            isolation.find_sandbox()
        for words in ("your files", "apt install bubblewrap", "podman: not installed"):
            assert words in str(caught.value)
        isolation.find_sandbox.cache_clear()

    def test_find_sandbox_skips_broken_tools(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("bwrap", "podman", "docker"):
            (tmp_path / name).write_text("#!/bin/sh\necho no permission for namespaces >&2\nexit 1\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        isolation.find_sandbox.cache_clear()
        with pytest.raises(NoSandboxError, match=r"bwrap: .*no permission for namespaces"):
            isolation.find_sandbox()
        isolation.find_sandbox.cache_clear()

    def test_the_container_command(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A stand-in for podman that writes down how it was called and runs the inner command in an empty folder."""
        place = tmp_path / "bin"
        place.mkdir()
        (place / "podman").write_text(
            f"#!/bin/sh\nprintf '%s\\n' \"$@\" >> {tmp_path}/called\n[ $1 = run ] || exit 0\n"
            f'until [ $1 = {isolation.IMAGE} ]; do shift; done; shift\ncd $(mktemp -d)\nexec "$@"\n'
        )
        (place / "podman").chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
        # Nothing here counts the processes of one container alone: the bound has to leave room for the user's others.
        limits, program = (
            replace(SMALL, processes=4000),
            "open('new', 'w').write(open('given.txt').read()); print('said')",
        )
        ended = python(folder, program, limits, sandbox="podman")
        assert (ended.status, ended.output) == ("done", "said\n")
        assert left(folder) == {"given.txt": "given", "new": "given"}
        words = (tmp_path / "called").read_text().splitlines()
        assert {"--network=none", "--read-only", "--cap-drop=all", "--rm", "--memory=256m", "--pids-limit=4004"} < set(
            words
        )
        assert not [word for word in words if word.startswith("--volume=") and not word.endswith(":ro")]
        assert not [word for word in words if str(folder) in word]
        assert words[-2] == "kill"

    def test_unsafe_still_bounds_time_and_output(self, folder: Path) -> None:
        program = "import sys, time; sys.stdout.write('a' * 10**7); sys.stdout.flush(); time.sleep(60)"
        ended = python(folder, program, Limits(wall=1, output=100), sandbox="none")
        assert ended.status == "wall time"
        assert len(ended.output) < 200

    def test_unsafe_ends_what_was_started(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(monitor, "INTERVAL", 0.01)
        seen, tree = set(), monitor._tree

        def look(root: int) -> list[psutil.Process]:
            found = tree(root)
            seen.update(process.pid for process in found)
            (folder / "seen").write_text(" ".join(map(str, seen)))
            return found

        monkeypatch.setattr(monitor, "_tree", look)
        program = f"""
import os, subprocess, time
started = subprocess.Popen(['setsid', 'sleep', '{seconds(61)}'])
while not os.path.exists('seen') or str(started.pid) not in open('seen').read().split():
    time.sleep(0.01)
"""
        ended = python(folder, program, sandbox="none")
        assert ended.status == "done"
        assert gone(seconds(61))

    def test_unsafe_run_ends_despite_unseen_child(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(monitor, "GRACE", 0.5)
        monkeypatch.setattr(monitor, "_tree", lambda root: [])
        program = f"import subprocess\nsubprocess.Popen(['setsid', 'sleep', '{seconds(33)}'])\nprint('said')"
        ended = python(folder, program, sandbox="none")
        assert (ended.status, ended.output) == ("done", "said\n")
        assert eventually(seconds(33))
        for number in running(seconds(33)):
            os.kill(number, signal.SIGKILL)

    def test_unsafe_hands_no_environment_on(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TEACHERS_TOKEN", "hush")
        ended = python(folder, "import os; print(dict(os.environ), os.listdir())", sandbox="none")
        assert ended.status == "done"
        assert "hush" not in ended.output
        assert "given.txt" in ended.output
