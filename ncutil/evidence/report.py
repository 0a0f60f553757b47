"""What a run found, in one call: the estimate with its interval, its text on the page, its record, and the claim.

A chapter makes one `Report`. Prose shows a published number with {glue:text}`name`, run.json keeps it.

- ``r.publish("s-3", s, claim="ncnet-exceeds-2")``: mean of independent runs, bootstrap interval; judges the claim;
- ``r.publish("above-3", s > 2)``: share of yes/no cases, Wilson interval;
- ``r.publish("peak", table, peak)``: any statistic of independent runs, one row a run;
- ``r.publish("top", Estimate(2.31, (2.25, 2.37)))``: a number that has its own interval;
- ``r.publish("bound", 2.0)``: a number without interval; a claim takes it as exact;
- ``r.judge("ncnet-rise", [one, two, three])``: a claim about the order of several estimates;
- ``r.publish("gain", gains, claim="rank-rise:words")``: judges one reading of a claim that has several;
- ``r.say("answer", {"above": "S exceeds 2.", "below": "It does not.", "open": "S is close to 2."}, by=s3.side(2))``:
  a whole sentence, chosen by the outcome.

Too few runs, an empty group or NaN do not stop a run. The page then says "not available in this run" with the reason,
no number is kept, and the claim has no record.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from ncutil.evidence import claims, stats
from ncutil.evidence.outputs import glue, show

NOT_AVAILABLE = "not available"


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval (low, high), or without one if it is exact or only describes.

    `missing` says why the run cannot give it; `value` may then be NaN.

    >>> s = Estimate(2.31, (2.25, 2.37))
    >>> s.side(2), s.side(2.3)
    ('above', 'open')
    """

    value: float
    interval: stats.Interval | None = None
    missing: str = ""

    def _ipython_display_(self) -> None:
        """Show nothing as the last value of a cell: prose shows the number, and the claim its verdict."""

    @property
    def ends(self) -> stats.Interval:
        """(low, high) for a table or a figure; NaN without an interval."""
        return self.interval or (np.nan, np.nan)

    def side(self, level: float) -> str:
        """Where the whole interval lies: "above" the level, "below" it, "open" if neither, or "not available"."""
        low, high = self.interval or (self.value, self.value)
        return NOT_AVAILABLE if self.missing else "above" if low > level else "below" if high < level else "open"


@dataclass(frozen=True)
class Report:
    """The numbers, texts and claims of a chapter; a name or claim that comes twice is a ValueError.

    `seed` is that of every bootstrap. `verdicts` holds the verdict of each claim so far (or "not available").
    """

    seed: int
    verdicts: dict[str, str] = field(default_factory=dict, init=False)
    _names: set[str] = field(default_factory=set, init=False, repr=False)

    def estimate(
        self, values: ArrayLike | Estimate, statistic: stats.Statistic | None = None, *, draws: int = 2000
    ) -> Estimate:
        """The estimate that `publish` with these arguments publishes, for a table or a comparison.

        >>> r = Report(seed=0)
        >>> r.estimate([True, True, False, True]).value, r.estimate([1.8]).missing
        (0.75, 'an interval needs at least two runs; got 1')
        """
        if isinstance(values, Estimate):
            finite = np.isfinite([values.value, *(values.interval or ())]).all()
            return values if finite or values.missing else Estimate(np.nan, missing="it is not a finite number")
        rows = np.asarray(values)
        if rows.ndim == 0:
            return self.estimate(Estimate(float(rows)))
        number = float(rows.mean()) if rows.size and statistic is None else np.nan
        try:
            if rows.dtype == bool and statistic is None:
                return Estimate(number, stats.wilson(int(rows.sum()), rows.size))
            if statistic is None:
                return Estimate(number, stats.bootstrap(rows, seed=self.seed, draws=draws))
            low, high = stats.bootstrap(rows, statistic, seed=self.seed, draws=draws)
            number, slack = float(statistic(rows)), 1e-9 * (1 + abs(low) + abs(high))
            outside = number < low - slack or number > high + slack
            missing = "its resamples all lie to one side of it" if outside else ""
            return self.estimate(Estimate(number, (low, high), missing))
        except stats.NoIntervalError as error:
            return Estimate(number, missing=str(error))

    def publish(
        self,
        name: str,
        values: ArrayLike | Estimate,
        statistic: stats.Statistic | None = None,
        *,
        claim: str | None = None,
        digits: int = 2,
        draws: int = 2000,
    ) -> Estimate:
        """Put an estimate into the text and the record, judge a claim by it, and return it.

        `values` has one row per independent run: numbers, or True and False for a rate; or it is one number or an
        `Estimate`. `statistic` maps the rows to a number. `digits` are those after the point, `draws` the resamples.
        """
        found = self.estimate(values, statistic, draws=draws)
        if found.missing:
            self.say(name, f"{NOT_AVAILABLE} in this run ({found.missing})")
        else:
            self._new(name)
            claims.value(name, found.value, found.interval, digits=digits)
        if claim is not None:
            self.judge(claim, found)
        return found

    def judge(self, claim: str, found: Estimate | Sequence[Estimate]) -> None:
        """Judge a claim by an estimate, or a claim about an order by several; ValueError for an unknown claim."""
        self._new(f"claim {claims.find(claim).id}")
        several = [found] if isinstance(found, Estimate) else found
        pairs = [(e.value, e.interval or (e.value, e.value)) for e in several]
        evidence = pairs[0] if isinstance(found, Estimate) else tuple(zip(*pairs, strict=True))
        if missing := [e.missing for e in several if e.missing]:
            show({"text/plain": f"{claim}: {NOT_AVAILABLE} in this run ({missing[0]})"})
        else:
            claims.record(claim, *evidence)
        self.verdicts[claim] = NOT_AVAILABLE if missing else claims.judge(claim, *evidence).verdict

    def say(self, name: str, text: str | Mapping[Hashable, str], by: Hashable = None) -> None:
        """Put a text under {glue:text}`name`, or the one of several whole sentences that belongs to the outcome `by`.

        Raises ValueError for an outcome without a sentence; "not available" always has one.
        """
        if not isinstance(text, str):
            known = {NOT_AVAILABLE: "This run cannot tell.", **text}
            if by not in known:
                raise ValueError(f"{name!r} has no sentence for {by!r}, only for {', '.join(map(repr, text))}")
            text = known[by]
        self._new(name)
        glue(name, text)

    def _new(self, name: str) -> None:
        if name in self._names:
            raise ValueError(f"{name!r} comes twice in this chapter")
        self._names.add(name)
