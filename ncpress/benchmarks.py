"""The page of benchmarks, from the records that the benchmarks wrote.

The record of the ensembles is `book/studies/benchmarks.json`, that of the LoRA study `book/results/lora-speed.json`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ncpress.markup import code, literal
from ncpress.project import Project

NONE = "No benchmark is recorded: `python tests/benchmarks/test_ensembles_speed.py` writes one."

PEERS = {
    "ensembles.train": "the book's kernel, sixteen networks to a vector, all steps of these before the next",
    "JAX, vmap + scan + jit": "one network as a function, `vmap` over networks, `scan` over steps, `jit` around, on "
    "all cores",
    "PyTorch, one batch by hand": "the member axis first, forward and backward as batched products, without autograd, "
    "on all cores",
    "PyTorch, one batch": "`ensembles.train_reference`, the member axis first, autograd, on all cores",
    "PyTorch, torch.func": "one network's loss as a function, its gradient by `torch.func.grad`, `vmap` over networks, "
    "on all cores",
    "PyTorch, loop of modules": "a module, an optimiser and a loop, on one core, a few networks timed one after the "
    "other",
    "PyTorch, one batch on a GPU": "the same as in one batch, on a GPU",
}
"""What each peer is, by the label that the benchmark gives it."""


def page(project: Project) -> str:
    """The page in MyST: the peers, a table for each shape, where it was measured; then the same of the LoRA study."""
    path = project.studies / "benchmarks.json"
    parts = [NONE]
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        measured = {label for shape in record["shapes"] for label in shape["networks per second"]}
        peers = "\n".join(f"- **{label}**: {what}." for label, what in PEERS.items() if label in measured)
        parts = [peers, *(_shape(shape) for shape in record["shapes"]), _origin(record)]
    return "\n\n".join([*parts, *_lora(project.results / "lora-speed.json")])


def _lora(path: Path) -> list[str]:
    if not path.is_file():
        return []
    record = json.loads(path.read_text(encoding="utf-8"))
    run, top = record["measured"]["words"], record["measured"]["last layer"]
    lines = [
        "| what is trained | against | times as fast |",
        "|---|---|---:|",
        *(
            f"| one run on {run['words']} words, rank {rank} | the loop | {_digits(ratio)} |"
            for rank, ratio in run["one run"].items()
        ),
        f"| last layer of a BERT, a seed at once | peft on the same layer | {_digits(top['to the last layer'])} |",
        f"| last layer of a BERT, a seed at once | peft on all layers | {_digits(top['to all layers'])} |",
    ]
    return [
        "(benchmarks-lora)=\n## Adapters",
        "The {ref}`LoRA study <chapter-lora>` trains the four contexts of a run as one program, on what the frozen "
        "maps below and beside the adapters make of the words, computed once. The loop trains one peft model after "
        "the other, with every map in every update; both have one thread. Losses are "
        f"{run['losses apart, at most']:g} nats apart at most. What bounds the run is arithmetic: the one frozen map "
        "whose input changes, forward and backward, and, at large ranks, the adapters' own products.",
        "\n".join(lines),
        _origin(record),
    ]


def _shape(shape: Mapping[str, Any]) -> str:
    patterns, bits = shape["inputs"]
    heads = "one head" if shape["heads"] == 1 else f"{shape['heads']} heads"
    optimizer = {"adam": "Adam", "sgd": "SGD"}[shape["optimizer"]]
    lines = [
        f"## Shape {shape['shape']}",
        f"{shape['networks']:,} networks, {patterns} inputs of {bits} bits, {shape['width']} hidden units, {heads}, "
        f"{optimizer}, {shape['steps']:,} steps.",
        "| peer | networks a second | the kernel is faster |",
        "|---|---:|---:|",
    ]
    speeds, ratios = shape["networks per second"], shape["times slower than ensembles.train"]
    for label in sorted(speeds, key=speeds.__getitem__, reverse=True):
        ratio = "" if label == "ensembles.train" else f"{_digits(ratios[label])} times"
        lines.append(f"| {literal(label)} | {_digits(speeds[label])} | {ratio} |")
    table = "\n".join(lines[2:])
    medians = (
        "All peers are timed once in each round. A speed is the median over rounds; a ratio is the median of the "
        "ratios within rounds, so it is not exactly the quotient of two speeds."
    )
    done, top = shape["multiply-adds per second"] / 1e9, shape["peak multiply-adds per second"] / 1e9
    share = (
        f"The kernel does {done:.1f} billion multiply-adds a second, {_digits(100 * shape['share of peak'])} % of the "
        f"{top:.0f} billion that the same cores reach when they do nothing else. The count has the products of the two "
        "layers, forward and backward, but not the logistic function and the optimiser."
    )
    apart = shape.get("distance of the distributions of losses")
    losses = (
        "After all steps the distributions of losses of the peers that train all networks differ from the kernel's by "
        f"at most {max(apart.values()):.2g} (Kolmogorov and Smirnov's distance, 0 for none and 1 for all)."
        if apart
        else ""
    )
    return "\n\n".join(filter(None, [*lines[:2], table, medians, share, losses]))


def _origin(record: Mapping[str, Any]) -> str:
    """When, by which command, at which commit and on which machine a record was made."""
    modified = ", modified" if record["modified"] else ""
    found = record["versions"]
    versions = ", ".join(
        f"{name} {found[name]}"
        for name in ("python", "llvmlite", "torch", "jax", "peft", "transformers")
        if name in found
    )
    return (
        f"Made {record['started'][:10]} by {code(record['command'])} at commit `{record['commit'][:10]}`{modified}, on "
        f"{record['cores']} cores ({literal(record['processor'])}), with {literal(versions)}."
    )


def _digits(number: float) -> str:
    """A number with three significant digits: timings are no more exact.

    >>> _digits(20214.3), _digits(2.718), _digits(31.4)
    ('20,200', '2.72', '31.4')
    """
    return f"{float(f'{number:.3g}'):,.{0 if number >= 100 else 1 if number >= 10 else 2}f}"
