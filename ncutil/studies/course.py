"""S over the course of training, at 1 to 16 hidden units."""

from dataclasses import replace

import pandas as pd

from ncutil.bell import ncnet
from ncutil.studies.summary import Study, grid, single_and_best, sums

KEYS = ["width", "restarts", "step"]
STEPS = [0, 10, 20, 50, 100, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 5000]


def experiment(width: int, runs: int, *, seed: int) -> pd.DataFrame:
    """Sums by number of steps; the best of four restarts is chosen at each."""
    trained = ncnet.train(width, runs, seed=seed, steps=STEPS[-1], record=STEPS)
    frames = []
    for k, step in enumerate(STEPS):
        at = slice(k, k + 1)
        logits, losses = trained.logits[:, :, at], trained.losses[:, :, at]
        then = replace(trained, logits=logits, losses=losses, steps=trained.steps[at])
        frames.append(single_and_best(then, width=width).assign(step=step))
    return sums(pd.concat(frames), KEYS)


STUDY = Study(experiment, grid(width=[1, 2, 3, 4, 5, 6, 8, 12, 16], runs=[2_000]), KEYS)
