"""Which system calls a submission may not make: a small filter that the kernel runs before each (seccomp, in BPF).

Everything is allowed but a list: calls that take over other processes (also those of the sandbox itself, which run as
the same user), keys of the user who grades, parts of the kernel that no notebook needs and that had holes, mounts and
namespaces, memory that counts for no process, and families of sockets that know no network namespace. What is on the
list fails with EPERM; the rest of the program goes on.

The numbers are those of `asm/unistd_64.h` (x86_64) and `asm-generic/unistd.h` (aarch64) in the kernel's sources; other
machines have no filter.
"""

import errno
import platform
import socket
import struct
from collections.abc import Iterator

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
    # Memory that counts for no process, such as a file without a name that is on its way from one to another
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
}
"""Numbers of system calls on x86_64 and on aarch64."""

SOCKETS = {"socket": (41, 198), "socketpair": (53, 199)}
FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, 16)
"""The last is AF_NETLINK, which Python knows on Linux only; all four are shut in by the network namespace."""

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column of the numbers above, and the kernel's name for the machine (`linux/audit.h`)."""

X32 = 0x40000000
"""From this number on, x86_64 knows the same calls a second time."""

LOAD, EQUAL, AT_LEAST, END = 0x20, 0x15, 0x35, 0x06
"""Operations of BPF: load a word, jump if it equals, jump if it is no less, end with a verdict."""

NUMBER, MACHINE, ARGUMENT = 0, 4, 16
"""Places in what the filter is given (`struct seccomp_data`)."""

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
        check = [(LOAD, 0, 0, ARGUMENT)]
        for family in FAMILIES:
            check += [(EQUAL, 0, 1, family), ALLOW]
        yield from ((EQUAL, 0, len(check) + 1, numbers[column]), *check, DENY)
    yield ALLOW
