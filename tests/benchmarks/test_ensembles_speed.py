"""Networks per second against every peer, in one run: `pytest tests/benchmarks --benchmark-only`.

Peers: a loop of PyTorch modules; all networks as one batch in PyTorch, by autograd, by torch.func and with the
derivatives written by hand; and JAX with vmap, scan and jit (extra `bench`; left out where it is not installed).
Compiling is never counted, nor drawing the first weights, which all peers share. Rounds are taken in turn, and the
multiply-add peak is measured in each of them, so that a busy machine is busy for all; the ratios are what counts. With
`--benchmark-json=FILE` the table comes along; `python tests/benchmarks/test_ensembles_speed.py` writes the one that
the book shows (a number after it sets the rounds).
"""

import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir
from scipy.stats import ks_2samp

from ncutil.training import ensembles

BITS = np.array(list(product([0, 1], repeat=4)))
PAIR = BITS[:, :2]
SHAPES: dict[str, dict[str, Any]] = {
    "A": {
        "inputs": BITS,
        "targets": np.stack([BITS[:, 0] ^ BITS[:, 1], BITS[:, 2] ^ BITS[:, 3]], 1),
        "width": 3,
        "optimizer": "adam",
        "rate": 0.05,
        "steps": 2000,
        "networks": 2000,
    },
    "B": {
        "inputs": BITS[:4, 2:],
        "targets": (BITS[:4, 2:3] ^ BITS[:4, 3:]).astype(int),
        "width": 4,
        "optimizer": "sgd",
        "rate": 0.5,
        "steps": 1000,
        "networks": 1000,
    },
}
LOOPED = 2
"""Networks that the loop of modules trains: it takes a second or more for each."""

RESULT = Path(__file__).parents[2] / "book" / "studies" / "benchmarks.json"

Peer = Callable[[int, int], np.ndarray]
"""From a number of networks and of steps to the final loss of each network."""


def kernel(shape: dict[str, Any]) -> Peer:
    drawn, draw = {}, ensembles.first_weights

    def kept(seeds: np.ndarray, *size: int) -> tuple[np.ndarray, np.ndarray]:
        if len(seeds) not in drawn:
            drawn[len(seeds)] = draw(seeds, *size)
        return drawn[len(seeds)]

    def run(networks: int, steps: int) -> np.ndarray:
        # First weights are drawn once for all rounds, as for every peer.
        with mock.patch.object(ensembles, "first_weights", kept):
            trained = ensembles.train(
                shape["inputs"],
                shape["targets"],
                shape["width"],
                range(networks),
                steps=steps,
                rate=shape["rate"],
                optimizer=shape["optimizer"],
            )
        return trained.losses[-1].sum(-1)

    return run


def first_weights(shape: dict[str, Any], networks: int) -> tuple[np.ndarray, np.ndarray]:
    bits, heads = shape["inputs"].shape[1], shape["targets"].shape[1]
    return ensembles.first_weights(np.arange(networks), bits, shape["width"], heads)


def loop_of_modules(shape: dict[str, Any]) -> Peer:
    """What one would write first: a module, an optimiser, a loop."""
    import torch

    torch.set_num_threads(1)
    x, t = (torch.tensor(shape[name], dtype=torch.float32) for name in ("inputs", "targets"))
    loss_of = torch.nn.BCEWithLogitsLoss()
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}

    def one(hidden: np.ndarray, head: np.ndarray, steps: int) -> float:
        width, heads = len(hidden), len(head)
        net = torch.nn.Sequential(
            torch.nn.Linear(x.shape[1], width), torch.nn.ReLU(), torch.nn.Linear(width, heads)
        ).float()
        with torch.no_grad():
            for layer, weights in ((net[0], hidden), (net[2], head)):
                layer.weight.copy_(torch.tensor(weights[:, :-1]))
                layer.bias.copy_(torch.tensor(weights[:, -1]))
        optimizer = kinds[shape["optimizer"]](net.parameters(), lr=shape["rate"])
        for _ in range(steps):
            optimizer.zero_grad()
            (loss_of(net(x), t) * heads).backward()
            optimizer.step()
        with torch.no_grad():
            return float(loss_of(net(x), t) * heads)

    def run(networks: int, steps: int) -> np.ndarray:
        return np.array([one(*weights, steps) for weights in zip(*first_weights(shape, networks), strict=True)])

    return run


def batched_torch(shape: dict[str, Any], device: str = "cpu") -> Peer:
    """All networks as one batch; on the processor with all its cores."""
    import torch

    def run(networks: int, steps: int) -> np.ndarray:
        trained = ensembles.train_reference(
            shape["inputs"],
            shape["targets"],
            shape["width"],
            range(networks),
            steps=steps,
            rate=shape["rate"],
            optimizer=shape["optimizer"],
            dtype="float32",
            device=device,
        )
        return trained.losses[-1].sum(-1)

    def on_all_cores(networks: int, steps: int) -> np.ndarray:
        # The reference asks for one thread, for the sake of its last digits; here speed counts.
        torch.set_num_threads(ensembles.THREADS)
        with mock.patch.object(torch, "set_num_threads"):
            return run(networks, steps)

    return on_all_cores


def torch_steps(shape: dict[str, Any], slopes_of: Callable[..., Any]) -> Peer:
    """All networks as one batch on all cores; how slopes come about is what differs."""
    import torch

    x, t = (torch.tensor(shape[name], dtype=torch.float32) for name in ("inputs", "targets"))
    rate, adam, start = (
        shape["rate"],
        shape["optimizer"] == "adam",
        cache(lambda networks: first_weights(shape, networks)),
    )

    @torch.no_grad()
    def run(networks: int, steps: int) -> np.ndarray:
        torch.set_num_threads(ensembles.THREADS)
        layers = [torch.tensor(layer, dtype=torch.float32) for layer in start(networks)]
        first, second = ([torch.zeros_like(layer) for layer in layers] for _ in range(2))
        for step in range(1, steps + 1):
            for layer, slope, m, v in zip(layers, slopes_of(*layers, x, t), first, second, strict=True):
                if adam:
                    m.lerp_(slope, 0.1)
                    v.mul_(0.999).addcmul_(slope, slope, value=0.001)
                    size = (v / (1 - 0.999**step)).sqrt_().add_(1e-8)
                    layer.addcdiv_(m, size, value=-rate / (1 - 0.9**step))
                else:
                    layer.sub_(slope, alpha=rate)
        hidden, head = layers
        act = torch.relu(x @ hidden[..., :-1].mT + hidden[:, None, :, -1])
        logits = act @ head[..., :-1].mT + head[:, None, :, -1]
        return torch.nn.functional.softplus((1 - 2 * t) * logits).mean(1).sum(-1).numpy()

    return run


def by_torch_func(shape: dict[str, Any]) -> Peer:
    """One network's loss as a function, its gradient by torch.func, mapped over all networks."""
    import torch
    from torch.func import grad, vmap

    def loss(hidden: Any, head: Any, x: Any, t: Any) -> Any:
        act = torch.relu(x @ hidden[:, :-1].T + hidden[:, -1])
        logits = act @ head[:, :-1].T + head[:, -1]
        return torch.nn.functional.softplus((1 - 2 * t) * logits).mean(0).sum()

    return torch_steps(shape, vmap(grad(loss, argnums=(0, 1)), in_dims=(0, 0, None, None)))


def by_hand(shape: dict[str, Any]) -> Peer:
    """Forward and backward as batched products, without autograd."""
    import torch

    def slopes_of(hidden: Any, head: Any, x: Any, t: Any) -> tuple[Any, Any]:
        act = torch.relu(x @ hidden[..., :-1].mT + hidden[:, None, :, -1])
        error = (torch.sigmoid(act @ head[..., :-1].mT + head[:, None, :, -1]) - t) / len(x)
        back = (error @ head[..., :-1]) * (act > 0)
        into_hidden = torch.cat([back.mT @ x, back.sum(1)[..., None]], dim=-1)
        return into_hidden, torch.cat([error.mT @ act, error.sum(1)[..., None]], dim=-1)

    return torch_steps(shape, slopes_of)


def jax_vmap(shape: dict[str, Any]) -> Peer:
    """One network as JAX would have it, vmap over networks, scan over steps, jit around; compiled once a size."""
    import jax
    import jax.numpy as jnp

    x, t = (jnp.asarray(shape[name], jnp.float32) for name in ("inputs", "targets"))
    adam, rate = shape["optimizer"] == "adam", shape["rate"]

    def loss(weights: Any) -> Any:
        hidden, head = weights
        act = jax.nn.relu(x @ hidden[:, :-1].T + hidden[:, -1])
        logits = act @ head[:, :-1].T + head[:, -1]
        return jax.nn.softplus((1 - 2 * t) * logits).mean(0).sum()

    slope_of = jax.grad(loss)

    def step(state: Any, correction: Any) -> Any:
        weights, first, second = state
        slope = slope_of(weights)
        if adam:
            first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slope)
            second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, slope)
            slope = jax.tree.map(lambda m, v: m / correction[0] / (jnp.sqrt(v / correction[1]) + 1e-8), first, second)
        return (jax.tree.map(lambda w, g: w - rate * g, weights, slope), first, second), None

    compiled: dict[tuple[int, int], tuple[Any, Any]] = {}

    def run(networks: int, steps: int) -> np.ndarray:
        if (networks, steps) not in compiled:
            # In float32 alone the first of these would be wrong in the fifth digit.
            done = np.arange(1, steps + 1)[:, None]
            corrections = jnp.asarray(1 - np.array([0.9, 0.999]) ** done, jnp.float32)

            def train(weights: Any) -> Any:
                zero = jax.tree.map(jnp.zeros_like, weights)
                (weights, *_), _ = jax.lax.scan(step, (weights, zero, zero), corrections)
                return loss(weights)

            start = tuple(jnp.asarray(w, jnp.float32) for w in first_weights(shape, networks))
            compiled[networks, steps] = jax.jit(jax.vmap(train)).lower(start).compile(), start
        program, start = compiled[networks, steps]
        return np.asarray(program(start))

    return run


def peers(shape: dict[str, Any]) -> dict[str, Peer]:
    found = {
        "ensembles.train": kernel(shape),
        "PyTorch, one batch": batched_torch(shape),
        "PyTorch, one batch by hand": by_hand(shape),
        "PyTorch, torch.func": by_torch_func(shape),
        "PyTorch, loop of modules": loop_of_modules(shape),
    }
    with suppress(ImportError):
        found["JAX, vmap + scan + jit"] = jax_vmap(shape)
    import torch

    if torch.cuda.is_available():
        found["PyTorch, one batch on a GPU"] = batched_torch(shape, "cuda")
    return found


def multiply_adds(shape: dict[str, Any]) -> int:
    """Multiply-adds of one network's step that no implementation can leave out: forward and both products backward.

    Inputs that are 0 are counted too; the logistic function and the optimiser are not.
    """
    (patterns, bits), heads, width = shape["inputs"].shape, shape["targets"].shape[1], shape["width"]
    return patterns * (2 * bits * width + 3 * heads * width)


@cache
def multiply_adder(length: int) -> tuple[Callable[..., None], int, int]:
    """A loop that does nothing but multiply-adds in registers of this many numbers, and how many a call does."""
    many, rounds = 12, 2_000_000 * 16 // length
    vector, count, empty = ir.VectorType(ir.FloatType(), length), ir.IntType(64), ir.VoidType()
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(empty, [vector.as_pointer(), count]), "run")
    before, inside, after = (function.append_basic_block() for _ in range(3))
    builder = ir.IRBuilder(before)
    factor = builder.load(function.args[0], align=4)
    builder.branch(inside)
    builder.position_at_end(inside)
    step = builder.phi(count)
    sums = [builder.phi(vector) for _ in range(many)]
    following = builder.add(step, ir.Constant(count, 1))
    for number, total in enumerate(sums):
        product = builder.fmul(total, factor, flags=["contract"])
        total.add_incoming(builder.fadd(product, factor, flags=["contract"]), inside)
        total.add_incoming(ir.Constant(vector, [float(number)] * length), before)
    step.add_incoming(ir.Constant(count, 0), before)
    step.add_incoming(following, inside)
    builder.cbranch(builder.icmp_signed("<", following, function.args[1]), inside, after)
    builder.position_at_end(after)
    final = sums[0].incomings[0][0]
    for total in sums[1:]:
        final = builder.fadd(final, total.incomings[0][0])
    builder.store(final, function.args[0], align=4)
    builder.ret_void()

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    processor = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(*processor, opt=2, jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
    engine.finalize_object()
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(engine.get_function_address("run"))

    def run(_: int, engine: Any = engine) -> None:
        call(np.full(length, 0.5, np.float32).ctypes.data, rounds)

    return run, length * many * rounds


def peak() -> float:
    """Multiply-adds per second of this machine now, all cores together, float32, operands in registers.

    Twelve sums at a time fill the pipelines and fit into the registers of every processor if a sum is one register; so
    registers of 512, 256 and 128 bits are tried and the best counts.
    """
    best = 0.0
    with ThreadPoolExecutor(ensembles.THREADS) as pool:
        for length in (16, 8, 4):
            run, done = multiply_adder(length)
            seconds = [timed(lambda run=run: list(pool.map(run, range(ensembles.THREADS)))) for _ in range(3)]
            best = max(best, ensembles.THREADS * done / min(seconds))
    return best


def timed(work: Callable[[], object]) -> float:
    """Seconds of a piece of work, which is done again until a fifth of a second is over: short times are all jitter."""
    start, done = time.perf_counter(), 0
    while (took := time.perf_counter() - start) < 0.2 or not done:
        work()
        done += 1
    return took / done


def compare(name: str, rounds: int = 5) -> dict[str, Any]:
    """All peers on one shape, in turn; networks per second by median, and the kernel's advantage over each."""
    shape = SHAPES[name]
    found = peers(shape)
    ours = found["ensembles.train"]
    sizes = {label: LOOPED if "loop" in label else shape["networks"] for label in found}
    for label, peer in found.items():
        # All of them train the same networks, as far as float32 goes.
        apart = np.abs(peer(sizes[label], 200) - ours(sizes[label], 200))
        assert (apart < 1e-4).mean() > 0.99, (label, (apart < 1e-4).mean())
    differ = {}
    for label, peer in found.items():
        final = peer(sizes[label], shape["steps"])  # compiles, and draws the first weights
        if sizes[label] == shape["networks"]:
            # After many steps rounding has parted single networks: what has to agree is the distribution.
            there = ks_2samp(final, ours(shape["networks"], shape["steps"]))
            assert there.pvalue > 1e-3, (label, there)
            differ[label] = float(there.statistic)
    seconds: dict[str, list[float]] = {label: [] for label in found}
    tops = []
    for _ in range(rounds):
        tops.append(peak())
        for label, peer in found.items():
            seconds[label].append(timed(lambda peer=peer, label=label: peer(sizes[label], shape["steps"])))
    speed = {label: sizes[label] / statistics.median(times) for label, times in seconds.items()}
    ratios = {
        label: statistics.median(
            (shape["networks"] / mine) / (sizes[label] / theirs)
            for mine, theirs in zip(seconds["ensembles.train"], times, strict=True)
        )
        for label, times in seconds.items()
    }
    work = multiply_adds(shape) * shape["steps"] * shape["networks"]
    return {
        "shape": name,
        **{key: shape[key] for key in ("optimizer", "steps", "networks", "width")},
        "inputs": list(shape["inputs"].shape),
        "heads": shape["targets"].shape[1],
        "rounds": rounds,
        "networks per second": speed,
        "times slower than ensembles.train": ratios,
        "distance of the distributions of losses": differ,
        "multiply-adds per second": work / statistics.median(seconds["ensembles.train"]),
        "peak multiply-adds per second": statistics.median(tops),
        "share of peak": statistics.median(
            work / mine / top for mine, top in zip(seconds["ensembles.train"], tops, strict=True)
        ),
    }


def told(result: dict[str, Any]) -> str:
    lines = [f"shape {result['shape']}:"]
    for label, speed in result["networks per second"].items():
        ratio = result["times slower than ensembles.train"][label]
        lines.append(f"  {label:<28} {speed:>10.1f} networks/s, kernel {ratio:>8.1f} times as fast")
    return "\n".join([*lines, f"  share of the multiply-add peak: {result['share of peak']:.3f}"])


@pytest.mark.parametrize("name", SHAPES)
def test_networks_per_second(benchmark: Any, name: str) -> None:
    shape = SHAPES[name]
    result = compare(name, rounds=3)
    benchmark.pedantic(kernel(shape), (shape["networks"], shape["steps"]), rounds=5, warmup_rounds=1)
    benchmark.extra_info |= result
    print("\n" + told(result))


def main() -> None:
    """Write the table that the book shows, with the record of its run."""
    from datetime import UTC, datetime

    from ncpress import execution as press
    from ncutil.ground import staleness
    from ncutil.ground.files import write_json

    root, rounds = Path(__file__).parents[2], int(sys.argv[1]) if len(sys.argv) > 1 else 3
    started = datetime.now(UTC).isoformat(timespec="seconds")
    context = {**press.commit(root), "versions": staleness.versions()}
    for package in ("jax", "jaxlib", "llvmlite", "torch"):
        context["versions"][package] = metadata.version(package)
    results = []
    for name in SHAPES:
        results.append(compare(name, rounds))
        print(told(results[-1]), flush=True)
    record = {
        "study": "benchmarks",
        "command": "python tests/benchmarks/test_ensembles_speed.py",
        **context,
        "processor": staleness.processor(),
        "cores": ensembles.THREADS,
        "started": started,
        "shapes": results,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write_json(RESULT, record)


if __name__ == "__main__":
    main()
