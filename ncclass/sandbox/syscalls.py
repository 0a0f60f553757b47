"""Which system calls a program may not make: a small filter that the kernel runs before each (seccomp, in BPF).

Everything is allowed but a list: calls that take over other processes, keys of the user who runs the sandbox, parts of
the kernel that had holes and that few programs need, mounts and namespaces, memory that counts for no process, larger
buffers of sockets, and all families of sockets but two. What is on the list fails with EPERM, and the program goes on.

Files in /proc are not on it: through /proc/PID/mem a program may still write into its neighbours in the sandbox that
run as the same user, the wrapper and `timeout` included, unless the kernel itself forbids that (Yama).

The numbers are those of `asm/unistd_64.h` (x86_64) and `asm-generic/unistd.h` (aarch64) in the kernel's sources; other
machines have no filter.
"""

import errno
import platform
import socket
import struct
from collections.abc import Iterable, Iterator

DENIED = {
    # Other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # Keys: a session's keyring is handed down to whatever is started in it
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # Parts of the kernel with a long list of holes
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    # What the kernel has logged, of the whole machine
    "syslog": (103, 116),
    # Mounts and namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "setns": (308, 268),
    "unshare": (272, 97),
    # Memory that counts for no process, such as a file without a name that is on its way from one to another, or a huge
    # page of which a pipe holds a few bytes
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "vmsplice": (278, 75),
}
"""Numbers of system calls on x86_64 and on aarch64."""

SOCKETS = {"socket": (41, 198), "socketpair": (53, 199)}
FAMILIES = (socket.AF_UNIX, 16)
"""The last is AF_NETLINK, which Python knows on Linux only; both are shut in by the network namespace. So is IP, which
leads nowhere there, but the buffers of its connections grow to megabytes that count for no process."""

SETSOCKOPT = (54, 208)
LEVEL, BUFFERS = 1, (7, 8, 32, 33, 60)
"""SOL_SOCKET; its SO_SNDBUF, SO_RCVBUF, both with FORCE, and SO_ZEROCOPY, which keeps pages as `vmsplice` does."""

MMAP = (9, 222)
SHARED, ANONYMOUS = 0x01, 0x20
"""Flags of a mapping; with both it is a file without a name, whose pages stay where no process has them mapped."""

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column of the numbers above, and the kernel's name for the machine (`linux/audit.h`)."""

X32 = 0x40000000
"""From this number on, x86_64 knows the same calls a second time."""

LOAD, EQUAL, AT_LEAST, HAS, END = 0x20, 0x15, 0x35, 0x45, 0x06
"""Operations of BPF: load a word, jump if it equals, is no less, or has a bit, end with a verdict."""

NUMBER, MACHINE, ARGUMENTS = 0, 4, range(16, 64, 8)
"""Places in what the filter is given (`struct seccomp_data`); of an argument, its lower 32 bits."""

ALLOW, DENY = (END, 0, 0, 0x7FFF0000), (END, 0, 0, 0x00050000 | errno.EPERM)

Step = tuple[int, int, int, int]
"""Operation; steps to skip if its condition holds, and if not; operand."""


def program(machine: str | None = None) -> bytes:
    """The filter in the kernel's form, for `bwrap --seccomp`; empty for a machine that it does not know.

    >>> len(program("x86_64")) % 8, program("riscv64")
    (0, b'')
    """
    machine = machine or platform.machine()
    return b"".join(struct.pack("=HBBI", *step) for step in _steps(machine)) if machine in MACHINES else b""


def _steps(machine: str) -> Iterator[Step]:
    column, name = MACHINES[machine]
    # Code for another machine, 32 bits on 64, has other numbers: nothing of it is allowed.
    yield from ((LOAD, 0, 0, MACHINE), (EQUAL, 1, 0, name), DENY, (LOAD, 0, 0, NUMBER))
    if machine == "x86_64":
        yield from ((AT_LEAST, 0, 1, X32), DENY)
    for numbers in DENIED.values():
        yield from ((EQUAL, 0, 1, numbers[column]), DENY)
    for numbers in SOCKETS.values():
        yield from _check(numbers[column], [(LOAD, 0, 0, ARGUMENTS[0]), *_any(FAMILIES, ALLOW), DENY])
    level = [(LOAD, 0, 0, ARGUMENTS[1]), (EQUAL, 1, 0, LEVEL), ALLOW]
    yield from _check(SETSOCKOPT[column], [*level, (LOAD, 0, 0, ARGUMENTS[2]), *_any(BUFFERS, DENY), ALLOW])
    flags = [(LOAD, 0, 0, ARGUMENTS[3]), (HAS, 0, 2, SHARED), (HAS, 0, 1, ANONYMOUS), DENY, ALLOW]
    yield from _check(MMAP[column], flags)
    yield ALLOW


def _check(number: int, steps: list[Step]) -> list[Step]:
    """Steps for one system call alone."""
    return [(EQUAL, 0, len(steps), number), *steps]


def _any(values: Iterable[int], verdict: Step) -> list[Step]:
    """A verdict for each of some values of what is loaded."""
    return [step for value in values for step in ((EQUAL, 0, 1, value), verdict)]
