"""Programs that do the same arithmetic on many numbers side by side, written out instruction by instruction.

A processor adds sixteen numbers as fast as one if they lie side by side in a vector register. `Vector` stands for such
numbers, and arithmetic on it *writes* the instruction instead of doing it. What is the same for every run (how many
units, which link comes next) is chosen in Python while the program is written; only loops over steps and data are left
in it. LLVM turns it into machine code for the processor at hand, in a fraction of a second. For example, y = x^2 + 1:

>>> def write(p):
...     x, y, vectors = p.arguments
...     with p.loop(vectors) as k:
...         number = p.load(x, k)
...         p.store(number * number + 1.0, y, k)
>>> squares = compiled("squares", write, ["vectors", "vectors", "count"], "float32")
>>> x, y = aligned((2, LENGTH), "float32"), aligned((2, LENGTH), "float32")
>>> x[:] = np.arange(32).reshape(2, LENGTH)
>>> squares(x, y, 2)
>>> y[0, 3], y[1, 0]
(np.float32(10.0), np.float32(257.0))

No operation mixes the numbers of a vector, so a result cannot depend on the numbers beside it. The compiler may only
contract a product and a sum into one multiply-add, so the same processor gives the same bits every time.
"""

import ctypes
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from ncutil.ground import files, staleness

Array = NDArray[Any]

LENGTH = 16
"""Numbers in a vector: one register of 512 bits in float32, two or four where registers are shorter."""


@dataclass(frozen=True)
class Vector:
    """A vector of LENGTH numbers in the program that is being written; arithmetic on it writes instructions."""

    builder: ir.IRBuilder
    value: Any

    def of(self, other: "Vector | float") -> Any:
        """LLVM's value of another vector, or of a number repeated LENGTH times."""
        return other.value if isinstance(other, Vector) else ir.Constant(self.value.type, [other] * LENGTH)

    def __add__(self, other: "Vector | float") -> "Vector":
        return Vector(self.builder, self.builder.fadd(self.value, self.of(other), flags=["contract"]))

    def __sub__(self, other: "Vector | float") -> "Vector":
        return Vector(self.builder, self.builder.fsub(self.value, self.of(other), flags=["contract"]))

    def __mul__(self, other: "Vector | float") -> "Vector":
        return Vector(self.builder, self.builder.fmul(self.value, self.of(other), flags=["contract"]))

    def __truediv__(self, other: "Vector") -> "Vector":
        return Vector(self.builder, self.builder.fdiv(self.value, other.value))

    def select(self, sign: str, bound: float, yes: "Vector | float", no: "Vector | float") -> "Vector":
        """`yes` for each number that compares so with the bound, `no` for the others and for NaN."""
        holds = self.builder.fcmp_ordered(sign, self.value, self.of(bound))
        return Vector(self.builder, self.builder.select(holds, self.of(yes), self.of(no)))


class Program:
    """The function that is being written; its methods append instructions.

    A place in an array is the array and any number of offsets, Python's or the program's own, which are added up.
    """

    def __init__(self, arguments: Sequence[str], dtype: str) -> None:
        self.double = dtype == "float64"
        number = ir.DoubleType() if self.double else ir.FloatType()
        self.vector, self.count = ir.VectorType(number, LENGTH), ir.IntType(64)
        arrays = {"vectors": self.vector, "numbers": number, "counts": self.count}
        kinds = {"count": self.count} | {name: kind.as_pointer() for name, kind in arrays.items()}
        self.module = ir.Module(name="vectors")
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [kinds[name] for name in arguments]), "run")
        unary = ir.FunctionType(self.vector, [self.vector])
        self._sqrt = ir.Function(self.module, unary, f"llvm.sqrt.v{LENGTH}f{64 if self.double else 32}")
        self.arguments: tuple[Any, ...] = function.args
        for argument, name in zip(self.arguments, arguments, strict=True):
            if name in arrays:
                argument.add_attribute("noalias")
        self.builder = ir.IRBuilder(function.append_basic_block())

    def integer(self, number: Any) -> Any:
        """A number of Python's as a constant of the program; one that the program computes as it is."""
        return ir.Constant(self.count, number) if isinstance(number, int) else number

    def times(self, number: Any, factor: Any) -> Any:
        return self.builder.mul(number, self.integer(factor))

    def at(self, array: Any, *offsets: Any) -> Any:
        for offset in offsets:
            array = self.builder.gep(array, [self.integer(offset)])
        return array

    def load(self, *place: Any) -> Vector:
        return Vector(self.builder, self.builder.load(self.at(*place)))

    def store(self, vector: Vector, *place: Any) -> None:
        self.builder.store(vector.value, self.at(*place))

    def zero(self) -> Vector:
        return Vector(self.builder, ir.Constant(self.vector, [0.0] * LENGTH))

    def broadcast(self, *place: Any) -> Vector:
        """A vector that holds one number LENGTH times."""
        index, empty = ir.IntType(32), ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(empty, self.builder.load(self.at(*place)), ir.Constant(index, 0))
        everywhere = ir.Constant(ir.VectorType(index, LENGTH), [0] * LENGTH)
        return Vector(self.builder, self.builder.shuffle_vector(first, empty, everywhere))

    def sqrt(self, x: Vector) -> Vector:
        return Vector(self.builder, self.builder.call(self._sqrt, [x.value]))

    def sigmoid(self, z: Vector) -> Vector:
        """1 / (1 + e^-z), for all numbers of a vector at once, as no exponential of a library does.

        With e^-z = 2^x, x is split into an integer, written into the exponent's bits, and a rest r in [-1/2, 1/2]; 2^r
        is a short polynomial.
        """
        size, mantissa, bias, terms = (64, 52, 1023, 14) if self.double else (32, 23, 127, 8)
        limit = float(bias - 1)
        x = z * (-1 / math.log(2))
        x = x.select(">", limit, limit, x)
        x = x.select("<", -limit, -limit, x)
        # The sum with a number this large has no fraction: it rounds x, and x + bias stands in the lowest bits.
        shift = x.of(1.5 * 2**mantissa + bias)
        moved = self.builder.fadd(x.value, shift)
        rest = x - Vector(self.builder, self.builder.fsub(moved, shift))
        whole = ir.VectorType(ir.IntType(size), LENGTH)
        bits = self.builder.shl(self.builder.bitcast(moved, whole), ir.Constant(whole, [mantissa] * LENGTH))
        power = Vector(self.builder, self.builder.bitcast(bits, self.vector))
        # Taylor coefficients of 2^r; the terms left out are smaller than the rounding error of the type.
        *others, highest = (math.log(2) ** k / math.factorial(k) for k in range(terms))
        series = rest * highest + others[-1]
        for coefficient in others[-2::-1]:
            series = rest * series + coefficient
        return Vector(self.builder, x.of(1.0)) / (power * series + 1.0)

    @contextmanager
    def loop(self, end: Any) -> Iterator[Any]:
        """Instructions written in this block run for 0, 1, ... end - 1, at least once."""
        before = self.builder.block
        inside, after = self.builder.append_basic_block(), self.builder.append_basic_block()
        self.builder.branch(inside)
        self.builder.position_at_end(inside)
        number = self.builder.phi(self.count)
        number.add_incoming(self.integer(0), before)
        yield number
        following = self.builder.add(number, self.integer(1))
        number.add_incoming(following, self.builder.block)
        self.builder.cbranch(self.builder.icmp_signed("<", following, self.integer(end)), inside, after)
        self.builder.position_at_end(after)


def compiled(
    name: str, write: Callable[[Program], None], arguments: Sequence[str], dtype: str, modules: Sequence[str] = ()
) -> Callable[..., None]:
    """Machine code for a program, as a function of numpy arrays and integers.

    `name` is "program-variant"; the variant and `dtype` tell apart what one module can write. `arguments` are the kinds
    of the program's arguments: "vectors", "numbers" or "counts" for an array (nothing is checked, and one of vectors
    must be `aligned`), "count" for an integer. `modules` are the full names of the modules that write it: the code is
    kept on disk for other processes, beside Python's own or in the user's cache, until one of these or the version of
    llvmlite changes. Without modules it is compiled in each process.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    processor = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(*processor, opt=2, jit=True)
    file = f"{name}-{dtype}-{files.digest(machine.triple, *processor)}.{_version(*modules)}.o"

    def make() -> bytes:
        program = Program(arguments, dtype)
        write(program)
        program.builder.ret_void()
        made: bytes = machine.emit_object(llvm.parse_assembly(str(program.module)))
        return made

    code = _kept(file, make) if modules else make()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    kinds = [ctypes.c_int64 if kind == "count" else ctypes.c_void_p for kind in arguments]
    call = ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address("run"))

    def run(*given: Any, engine: Any = engine) -> None:  # machine code lives as long as its engine
        call(*(x.ctypes.data if isinstance(x, np.ndarray) else x for x in given))

    return run


@cache
def _version(*modules: str) -> str:
    """Hash of what a program depends on besides its name and the processor; no other module writes instructions."""
    paths = staleness.reach({*modules, __name__})
    trees = [staleness.tree(paths[name].read_text(encoding="utf-8")) for name in sorted({*modules, __name__})]
    return files.digest(llvmlite.__version__, *trees)


def _kept(file: str, make: Callable[[], bytes]) -> bytes:
    """Machine code as it was kept; else it is made, and takes the place of other versions if a folder takes files."""
    folders = [Path(__file__).parent / "__pycache__"]
    with suppress(RuntimeError):  # a user without a home
        folders.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ncutil")
    for folder in folders:
        with suppress(OSError):
            check, _, code = (folder / file).read_bytes().partition(b"\n")
            # Damaged code would crash every process that runs it.
            if check == files.digest(code).encode():
                return code
    code = make()
    program, version = file.partition("-")[0], file.split(".")[-2]
    for folder in folders:
        with suppress(OSError):
            files.write(folder / file, files.digest(code).encode() + b"\n" + code)
            for other in set(folder.glob(f"{program}-*.o")) - set(folder.glob(f"*.{version}.o")):
                other.unlink(missing_ok=True)
            break
    return code


def aligned(shape: tuple[int, ...], dtype: str) -> Array:
    """An empty array that begins where a vector may begin; its last axis has LENGTH numbers."""
    step = LENGTH * np.dtype(dtype).itemsize
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + step, np.uint8)
    start = -memory.ctypes.data % step
    return memory[start : start + size].view(dtype).reshape(shape)


def interleaved(values: Array, dtype: str) -> Array:
    """(members, ...) to (vectors, ..., LENGTH), aligned; the number of members is a multiple of LENGTH."""
    moved = np.moveaxis(values.reshape(-1, LENGTH, *values.shape[1:]), 1, -1)
    result = aligned(moved.shape, dtype)
    result[:] = moved
    return result


def apart(values: Array) -> Array:
    """(vectors, ..., LENGTH) to (members, ...), what `interleaved` did undone."""
    return np.moveaxis(values, -1, 1).reshape(-1, *values.shape[1:-1])
