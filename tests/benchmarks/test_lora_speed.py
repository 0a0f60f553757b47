"""Batched replicas against a loop over peft models, in one run: `pytest tests/benchmarks --benchmark-only`.

The group is the mixed one of the book profile: 6 ranks, 4 contexts, 6 seeds. `lora.train` does all of it, a seed a
core; the loop would train its 144 replicas one after the other on one core, of which some are timed and the sum is
scaled. Both train without looking at outcomes on the way. `python tests/benchmarks/test_lora_speed.py` measures this
and the cached top layer, and writes the table and the record that the book shows.
"""

import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ncutil.lora import adapters, bit_tasks

RANKS, SEEDS = [1, 2, 4, 8, 16, 32], [0, 1, 2, 3, 4, 5]
EPOCHS = 6
"""Of the 60: a step is as long in the last epoch as in the first."""

SAMPLED = [(0, 0), (1, 1), (2, 2), (3, 3), (4, 0), (5, 1)]
"""Replicas that the loop trains, (number of the rank, context): every rank, every context."""

APART = 1e-3
"""How far losses may be apart, in nats: single precision rounds, and Adam makes it larger."""

REPLICAS = len(RANKS) * len(adapters.CONTEXTS) * len(SEEDS)

RESULT = Path(__file__).parents[2] / "book" / "results" / "lora-speed.csv"


def seconds(work: Callable[[], object]) -> tuple[float, Any]:
    start = time.perf_counter()
    done = work()
    return time.perf_counter() - start, done


def compare(rounds: int = 3) -> dict[str, Any]:
    """The whole group at once, one seed of it on one core, and the loop, in turn; medians over rounds."""
    pytest.importorskip("peft", reason="peft is in the extra 'lora'")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        encoder = bit_tasks.pretrain(1, avoid=bit_tasks.questions(0), steps=100)[0]
        four = bit_tasks.group("mixed")
        adapters.losses_peft(encoder, four, 1, 0, 0, epochs=1)
        adapters.train(encoder, four, RANKS, SEEDS, epochs=1)
        found: dict[str, list[float]] = {"group": [], "one core": [], "peft": []}
        for turn in range(rounds):
            found["group"].append(seconds(lambda: adapters.train(encoder, four, RANKS, SEEDS, epochs=EPOCHS))[0])
            took, ours = seconds(lambda: adapters.losses(encoder, four, RANKS, SEEDS[0], epochs=EPOCHS))
            found["one core"].append(took)
            for k, context in SAMPLED[turn % 2 :: 2]:
                took, theirs = seconds(
                    lambda k=k, c=context: adapters.losses_peft(encoder, four, RANKS[k], c, SEEDS[0], epochs=EPOCHS)
                )
                found["peft"].append(took)
                np.testing.assert_allclose(ours[:, k, context], theirs, rtol=0, atol=APART)
    finally:
        torch.set_num_threads(threads)
    each = {name: statistics.median(values) for name, values in found.items()}
    return {
        "replicas": REPLICAS,
        "losses apart, at most": APART,
        "seconds, adapters.train, whole group": each["group"],
        "seconds, one seed on one core": each["one core"],
        "seconds, one replica with peft": each["peft"],
        "whole group": REPLICAS * each["peft"] / each["group"],
        "one core": REPLICAS / len(SEEDS) * each["peft"] / each["one core"],
    }


def told(found: dict[str, Any]) -> str:
    return (
        f"{found['replicas']} replicas at once against a loop over peft models: {found['whole group']:.1f} times as "
        f"fast, {found['one core']:.1f} times on one core"
    )


def test_a_whole_group_per_second(benchmark: Any) -> None:
    found = benchmark.pedantic(compare, rounds=1)
    benchmark.extra_info |= found
    print("\n" + told(found))


def main() -> None:
    """Write the table that the book shows, with the record of its run."""
    from datetime import UTC, datetime

    import pandas as pd
    import test_texts_speed as texts

    from ncpress import execution as press
    from ncutil.ground import staleness
    from ncutil.ground.files import checksum, cores, write_json

    root = Path(__file__).parents[2]
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    context = {**press.commit(root), "versions": staleness.versions()}
    for package in ("peft", "torch", "transformers"):
        context["versions"][package] = metadata.version(package)
    many, top = compare(), texts.compare()
    print(told(many) + "\n" + texts.told(top))
    rows = [
        (
            "adapters in a batch",
            "all ranks, contexts and seeds of a group",
            "loop over peft models, on one core",
            many["whole group"],
        ),
        ("adapters in a batch", "one seed of it on one core", "loop over peft models, on one core", many["one core"]),
        ("cached top layer", "last layer adapted", "peft on the last layer", top["to the last layer"]),
        ("cached top layer", "last layer adapted", "peft on all layers", top["to all layers"]),
    ]
    pd.DataFrame(rows, columns=["what", "ours", "theirs", "times as fast"]).to_csv(RESULT, index=False)
    record = {
        "format": 1,
        "study": "speed",
        "table": RESULT.name,
        "table_checksum": checksum(RESULT),
        "command": "python tests/benchmarks/test_lora_speed.py",
        "parameters": {"ranks": RANKS, "seeds": SEEDS, "epochs": EPOCHS, "sampled": SAMPLED, "texts": texts.SIZE},
        **context,
        "processor": staleness.processor(),
        "cores": cores(),
        "started": started,
        "seconds": round(time.monotonic() - clock, 2),
        "measured": {"adapters in a batch": many, "cached top layer": top},
    }
    write_json(RESULT.with_suffix(".json"), record)


if __name__ == "__main__":
    main()
