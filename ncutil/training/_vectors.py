"""Programs that do the same arithmetic on many numbers side by side, written out instruction by instruction.

A processor adds sixteen numbers as fast as one if they lie side by side in a vector register. A program here is a
function that works on such vectors: `Lanes` stands for one of them, and arithmetic on it *writes* the instruction
instead of doing it. What is the same for every run of the program (how many units, which link comes next) is decided
in Python while the program is written; what is left in it are loops over steps and data. LLVM turns it into machine
code for the processor at hand, in a fraction of a second and once a machine: `compiled` keeps the result on disk.

For example, y = x^2 + 1 for any number of vectors of sixteen numbers:

>>> def write(p):
...     x, y, vectors = p.arguments
...     with p.loop(vectors) as k:
...         number = p.load(x, k)
...         p.store(number * number + 1.0, y, k)
>>> squares = compiled("squares", write, ["lanes", "lanes", "count"], "float32", made_of="the example")
>>> x, y = aligned((2, LANES), "float32"), aligned((2, LANES), "float32")
>>> x[:] = np.arange(32).reshape(2, LANES)
>>> squares(x, y, 2)
>>> y[0, 3], y[1, 0]
(np.float32(10.0), np.float32(257.0))

No operation mixes lanes, so what stands in one lane cannot depend on its neighbours; the only liberty that the compiler
has is to contract a product and a sum into one multiply-add. So the same processor gives the same bits every time.
"""

import ctypes
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import reduce
from hashlib import sha256
from pathlib import Path
from threading import get_ident
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

Array = NDArray[Any]

LANES = 16
"""Numbers in a vector: one register of 512 bits in float32, two or four where registers are shorter."""

ARGUMENTS = ("lanes", "numbers", "counts", "count")
"""What a program may be given: an array of vectors, of numbers, of whole numbers, or one whole number."""


@dataclass(frozen=True)
class Lanes:
    """A vector of LANES numbers in the program that is being written; arithmetic on it writes instructions."""

    builder: ir.IRBuilder
    value: Any

    def constant(self, number: float) -> Any:
        return ir.Constant(self.value.type, [number] * LANES)

    def _of(self, other: "Lanes | float") -> Any:
        return other.value if isinstance(other, Lanes) else self.constant(other)

    def __add__(self, other: "Lanes | float") -> "Lanes":
        return Lanes(self.builder, self.builder.fadd(self.value, self._of(other), flags=["contract"]))

    def __sub__(self, other: "Lanes | float") -> "Lanes":
        return Lanes(self.builder, self.builder.fsub(self.value, self._of(other), flags=["contract"]))

    def __mul__(self, other: "Lanes | float") -> "Lanes":
        return Lanes(self.builder, self.builder.fmul(self.value, self._of(other), flags=["contract"]))

    def __truediv__(self, other: "Lanes") -> "Lanes":
        return Lanes(self.builder, self.builder.fdiv(self.value, other.value))

    def pick(self, sign: str, bound: float, yes: "Lanes | float", no: "Lanes | float") -> "Lanes":
        """One thing in lanes where this number compares so with the bound, another elsewhere and where it is NaN."""
        holds = self.builder.fcmp_ordered(sign, self.value, self._of(bound))
        return Lanes(self.builder, self.builder.select(holds, self._of(yes), self._of(no)))


def total(first: Lanes, others: Iterable[Lanes]) -> Lanes:
    """The sum of vectors, added in this order."""
    return reduce(Lanes.__add__, others, first)


class Program:
    """The function that is being written: its arguments, and where the next instruction goes.

    A place in an array is the array and any number of offsets, Python's or the program's own, which are added up.
    """

    def __init__(self, arguments: Sequence[str], dtype: str) -> None:
        self.double = dtype == "float64"
        self.number = ir.DoubleType() if self.double else ir.FloatType()
        self.vector, self.count = ir.VectorType(self.number, LANES), ir.IntType(64)
        kinds = {"lanes": self.vector.as_pointer(), "numbers": self.number.as_pointer()}
        kinds |= {"counts": self.count.as_pointer(), "count": self.count}
        self.module = ir.Module(name="lanes")
        kind = ir.FunctionType(ir.VoidType(), [kinds[argument] for argument in arguments])
        self._function = ir.Function(self.module, kind, "run")
        root = ir.FunctionType(self.vector, [self.vector])
        self._root = ir.Function(self.module, root, f"llvm.sqrt.v{LANES}f{64 if self.double else 32}")
        self.arguments: tuple[Any, ...] = self._function.args
        for argument, name in zip(self.arguments, arguments, strict=True):
            if name != "count":
                argument.add_attribute("noalias")
        self.builder = ir.IRBuilder(self._function.append_basic_block())

    def whole(self, number: Any) -> Any:
        """A whole number of Python's as one of the program's, which it is already if it is none of Python's."""
        return ir.Constant(self.count, number) if isinstance(number, int) else number

    def times(self, number: Any, factor: Any) -> Any:
        return self.builder.mul(number, self.whole(factor))

    def at(self, array: Any, *offsets: Any) -> Any:
        for offset in offsets:
            array = self.builder.gep(array, [self.whole(offset)])
        return array

    def load(self, *place: Any) -> Lanes:
        return Lanes(self.builder, self.builder.load(self.at(*place)))

    def store(self, lanes: Lanes, *place: Any) -> None:
        self.builder.store(lanes.value, self.at(*place))

    def zero(self) -> Lanes:
        return Lanes(self.builder, ir.Constant(self.vector, [0.0] * LANES))

    def spread(self, *place: Any) -> Lanes:
        """One number in every lane."""
        index, empty = ir.IntType(32), ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(empty, self.builder.load(self.at(*place)), ir.Constant(index, 0))
        everywhere = ir.Constant(ir.VectorType(index, LANES), [0] * LANES)
        return Lanes(self.builder, self.builder.shuffle_vector(first, empty, everywhere))

    def root(self, x: Lanes) -> Lanes:
        return Lanes(self.builder, self.builder.call(self._root, [x.value]))

    def sigmoid(self, z: Lanes) -> Lanes:
        """1 / (1 + e^-z). A library's exponential takes one number at a time; this is e^-z = 2^x, with x split into an
        integer, written into the exponent's bits, and a rest, whose power is a short polynomial."""
        mantissa, bias, terms = (52, 1023, 14) if self.double else (23, 127, 8)
        limit = float(bias - 1)
        x = z * (-1 / math.log(2))
        x = x.pick(">", limit, limit, x)
        x = x.pick("<", -limit, -limit, x)
        # A number this large has no room for a fraction: adding it rounds x, and leaves x + bias in the lowest bits.
        shift = x.constant(1.5 * 2**mantissa + bias)
        moved = self.builder.fadd(x.value, shift)
        rest = x - Lanes(self.builder, self.builder.fsub(moved, shift))
        whole = ir.VectorType(ir.IntType(64 if self.double else 32), LANES)
        bits = self.builder.shl(self.builder.bitcast(moved, whole), ir.Constant(whole, [mantissa] * LANES))
        power = Lanes(self.builder, self.builder.bitcast(bits, self.vector))
        one = Lanes(self.builder, x.constant(1.0))
        # Taylor coefficients of 2^x: what is left out is less than the type resolves on [-1/2, 1/2].
        *others, highest = (math.log(2) ** k / math.factorial(k) for k in range(terms))
        series = rest * highest + others[-1]
        for coefficient in others[-2::-1]:
            series = rest * series + coefficient
        return one / (power * series + 1.0)

    @contextmanager
    def loop(self, end: Any) -> Iterator[Any]:
        """What is written inside is done for 0, 1, ... end - 1, at least once."""
        before = self.builder.block
        inside, after = self._function.append_basic_block(), self._function.append_basic_block()
        self.builder.branch(inside)
        self.builder.position_at_end(inside)
        number = self.builder.phi(self.count)
        number.add_incoming(self.whole(0), before)
        yield number
        following = self.builder.add(number, self.whole(1))
        number.add_incoming(following, self.builder.block)
        self.builder.cbranch(self.builder.icmp_signed("<", following, self.whole(end)), inside, after)
        self.builder.position_at_end(after)


def compiled(
    name: str, write: Callable[[Program], None], arguments: Sequence[str], dtype: str, made_of: object
) -> Callable[..., None]:
    """Machine code for a program, as a function of numpy arrays and whole numbers, in the order of `arguments`.

    Arrays of vectors must be `aligned`; nothing is checked. The code is kept beside Python's own, or in the user's
    cache where that folder takes no files. `name` is "program-variant": the variant and `dtype` tell apart what one
    source can write, and `made_of` is that source; code of another source is thrown away when new code is kept.
    ValueError for an unknown kind of argument.
    """
    if unknown := set(arguments) - set(ARGUMENTS):
        raise ValueError(f"unknown kind of argument {min(unknown)!r}; known: {', '.join(ARGUMENTS)}")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    processor = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(*processor, opt=2, jit=True)
    version = _hash(Path(__file__).read_bytes(), llvmlite.__version__, list(arguments), made_of)
    file = f"{name}-{dtype}-{_hash(machine.triple, processor)}.{version}.o"
    code = _kept(file)
    if code is None:
        program = Program(arguments, dtype)
        write(program)
        program.builder.ret_void()
        code = machine.emit_object(llvm.parse_assembly(str(program.module)))
        _keep(code, file, stale=f"{name.partition('-')[0]}-*.o", version=version)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    kinds = [ctypes.c_int64 if kind == "count" else ctypes.c_void_p for kind in arguments]
    call = ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address("run"))

    def run(*given: Any, engine: Any = engine) -> None:  # machine code lives as long as its engine
        call(*(x.ctypes.data if isinstance(x, np.ndarray) else x for x in given))

    return run


def _hash(*parts: object) -> str:
    return sha256(repr(parts).encode()).hexdigest()[:16]


def _folders() -> list[Path]:
    """Where machine code may be kept, best first."""
    folders = [Path(__file__).parent / "__pycache__"]
    with suppress(RuntimeError):  # a user without a home
        folders.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ncutil")
    return folders


def _kept(file: str) -> bytes | None:
    """Machine code as it was kept; None for a damaged file too, which would bring down every process that runs it."""
    for folder in _folders():
        with suppress(OSError):
            kept = (folder / file).read_bytes()
            digest, code = kept[: sha256().digest_size], kept[sha256().digest_size :]
            if digest == sha256(code).digest():
                return code
    return None


def _keep(code: bytes, file: str, stale: str, version: str) -> None:
    """Write a file so that no other process finds half of it, and take away those of other versions.

    Where nothing may be written, the next process compiles again.
    """
    for folder in _folders():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f"{file}.{os.getpid()}-{get_ident()}"
            partial.write_bytes(sha256(code).digest() + code)
            partial.replace(folder / file)
            for other in folder.glob(stale):
                if not other.name.endswith(f".{version}.o"):
                    other.unlink(missing_ok=True)
            return


def aligned(shape: tuple[int, ...], dtype: str) -> Array:
    """An empty array that begins where a vector may begin; its last axis holds the lanes."""
    step = LANES * np.dtype(dtype).itemsize
    memory = np.empty(math.prod(shape) * np.dtype(dtype).itemsize + step, np.uint8)
    start = -memory.ctypes.data % step
    return memory[start : start + memory.size - step].view(dtype).reshape(shape)


def in_lanes(values: Array, dtype: str) -> Array:
    """(members, ...) to (vectors, ..., LANES), aligned; the number of members is a multiple of LANES."""
    moved = np.moveaxis(values.reshape(-1, LANES, *values.shape[1:]), 1, -1)
    result = aligned(moved.shape, dtype)
    result[:] = moved
    return result
