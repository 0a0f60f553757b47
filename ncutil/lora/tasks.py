"""What a task is: the same for bits (`bit_tasks`), words (`words`) and sentences (`text_tasks`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
Numbers = Sequence[int]
"""Ranks or seeds."""

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Split:
    """Samples of one task, those to train on or those to test on; ValueError where not every sample has a label.

    - inputs : what the encoder is given, (samples, ...); of real text that is not encoded yet, one list a sample, of
      its options, each (first text, second text or None)
    - labels : (samples,), the class, or the index of the right option
    """

    inputs: Any
    labels: Array

    def __post_init__(self) -> None:
        if not 0 < len(self.inputs) == len(self.labels):
            raise ValueError(f"need samples with a label each; got {len(self.inputs)} and {len(self.labels)} labels")


@dataclass(frozen=True)
class Task:
    """A task as a head sees it: `outputs` classes, or one score for each of the `options` of a multiple choice."""

    name: str
    train: Split
    test: Split
    outputs: int = 2
    options: int = 1


Tasks = Sequence[Sequence[Task]]
"""Two by two: tasks[0] are Alice's, tasks[1] Bob's, setting 1 and setting 2 of each."""
