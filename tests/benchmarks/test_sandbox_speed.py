"""What a start costs in the sandbox against a bare one, both in one run: `pytest tests/benchmarks --benchmark-only`."""

import statistics
import sys
import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ncclass.collection import PACKAGES
from ncclass.sandbox import isolation
from ncclass.sandbox.isolation import NONE, Limits, NoSandboxError

PROGRAMS = {
    "nothing": ["-S", "-c", "pass"],
    "runner": ["-c", "import ncclass.runner, IPython.core.interactiveshell"],
    "plot": ["-c", "import matplotlib.pyplot, pandas"],
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_start(benchmark: BenchmarkFixture, tmp_path: Path, program: str) -> None:
    try:
        tool = isolation.find_sandbox()
    except NoSandboxError as error:
        pytest.skip(str(error))
    folder = tmp_path / "folder"
    folder.mkdir()

    def start(tool: str) -> float:
        clock = time.perf_counter()
        # As grading does: the list of fonts goes in with the files; here the first run leaves it for the others.
        ended = isolation.run(
            [sys.executable, *PROGRAMS[program]],
            folder,
            limits=Limits(),
            sandbox=tool,
            readable=PACKAGES,
            env={"PYTHONPATH": str(PACKAGES[0].parent), "MPLCONFIGDIR": ".matplotlib", "MPLBACKEND": "Agg"},
        )
        assert ended.status == "done", ended.output
        return time.perf_counter() - clock

    # In turns, so that what else the machine does falls on both.
    pairs = [(start(NONE), start(tool)) for _ in range(11)][1:]
    benchmark.pedantic(start, (tool,), rounds=3)
    bare, fenced = (statistics.median(times) for times in zip(*pairs, strict=True))
    more = statistics.median(fenced - bare for bare, fenced in pairs)
    benchmark.extra_info |= {"bare s": bare, "in the sandbox s": fenced, "more s": more, "ratio": fenced / bare}
    print(
        f"\n{program}: bare {bare:.3f} s, in the sandbox {fenced:.3f} s: {more:.3f} s more, {fenced / bare:.2f} times"
    )
