"""Have the answers become worse than this customer's own baseline? A sequential test, one answer at a time.

Every answer is compared with what the baseline expects. The evidence of a lasting fall is the Shiryaev-Roberts
statistic: the sum, over every moment the fall may have begun, of the likelihood ratio "fallen since then" against "as
always", R = (R + w) L with L the ratio of the one answer. Sources:

- The statistic and its optimal delay: A. N. Shiryaev, "On Optimum Methods in Quickest Detection Problems", Theory of
  Probability and Its Applications 8 (1963); S. W. Roberts, "A Comparison of Some Control Chart Procedures",
  Technometrics 8 (1966); M. Pollak and A. G. Tartakovsky, "Optimality Properties of the Shiryaev-Roberts Procedure",
  Statistica Sinica 19 (2009).
- The mixture over how far it fell: M. Pollak, "Average Run Lengths of an Optimal Method of Detecting a Change in
  Distribution", The Annals of Statistics 15 (1987). A fall by theta tilts the shares exponentially: detractors by
  exp(theta), promoters by exp(-theta), so L = exp(theta s) / Z with Z = d exp(theta) + p + r exp(-theta).
- The budget: without a change R minus the sum of all w has mean 0 (Pollak 1987). With w = budget times the time since
  the answer before, R reaches a limit of 1 at most `budget` times a year, at any answer rate and without estimating it.
  The limits below 1 and above correct for the overshoot: D. Siegmund, "Sequential Analysis" (1985), chapter VIII.
- The baseline: shares under a Dirichlet prior (A. Gelman et al., "Bayesian Data Analysis", 3rd ed., 2013, section 3.4).
  An answer is tested against what was known before it and learned afterwards, changed or not; so a short history costs
  delay, not false alarms.
- How far touchpoints are trusted to differ: R. DerSimonian and N. Laird, "Meta-Analysis in Clinical Trials",
  Controlled Clinical Trials 7 (1986).
- Since when: the last zero of a CUSUM, E. S. Page, "Continuous Inspection Schemes", Biometrika 41 (1954).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal, NamedTuple

import msgspec

from services.scoring.domain.shares import (
    MANY,
    UNITS,
    halved,
    less,
    normaliser,
    nps,
    pack,
    shares_of,
    tilt_between,
    total,
    unpack,
)


class Prior(NamedTuple):
    """The company's distribution that a short history is shrunk to."""

    detractors: float
    """Share, 0 to 1; the three sum to 1."""
    passives: float
    promoters: float
    strength: float
    """How many answers of the customer weigh as much as the prior, > 0."""


DEFAULT_PRIOR = Prior(0.2, 0.3, 0.5, 3.0)
"""For a company without history: NPS +30 with the weight of three answers."""

ShiftEvent = Literal["worse", "recovered", "settled"]


class Signal(NamedTuple):
    """What a `take` or a `look` tells, rarely."""

    event: ShiftEvent
    reason: dict[str, str | int | float | None]
    """Every number of the decision; see `Detector.take`."""


class Nearness(NamedTuple):
    """How near the detector is to telling "worse"."""

    ratio: float
    """Statistic / threshold, 0 to 1; 0 while it learns; 1 while an alarm is open."""
    statistic: float
    """Evidence in nats (natural logarithm of odds), about 0 when all is as always."""
    threshold: float
    """In nats; 0 while it learns."""
    touchpoint: str | None
    """Of the nearest stream; None is the whole customer."""
    baseline_nps: float | None
    """NPS in points of what it learned for that stream; None without answers."""
    recent_nps: float | None
    """NPS in points of the answers since the estimated onset; None when there are none."""
    learned: int
    """Answers in the baseline of that stream."""


THETAS = (0.3, 0.55, 1.1)
"""How far it may have fallen: about 18, 34 and 69 points of NPS from +40."""
WHOLE_1, WHOLE_2, WHOLE_3 = 0.1, 0.4, 0.5
"""The share of the budget for each of THETAS in the whole customer's answers."""
OWN_2, OWN_3 = 0.08, 0.92
"""The same for the two larger of THETAS in a touchpoint's own answers."""
WHOLE_SHARE = 0.15
"""Share of the budget that the whole customer keeps at least beside its touchpoints."""
LIMIT_ONE, LIMIT_SHARED = 0.80, 0.575
"""Limits of R for the whole customer alone and with a touchpoint; measured for 0.09 false alarms of a budget of 0.1."""
HISTORY = 0.07
"""The limit goes with the answers learned to this power: a short history loses evidence, false as well as true."""
OVERSHOOT = -0.3
"""The limit goes with the largest likelihood ratio to this power: large steps overshoot more."""
LEARN, LEARN_TOUCHPOINT, OWN_FROM = 20, 10, 20
"""Answers before a customer is watched, a further touchpoint counts, a touchpoint is also watched on its own."""
REFRESH = 16
"""What was learned is used as soon as the history has grown by 1 / REFRESH."""
POOL_MIN, POOL_MAX = 10.0, 1000.0
"""Bounds, in answers, of how strongly a touchpoint is shrunk to its customer."""
POOL_UNLESS = 1.5
"""Standard deviations of Q that touchpoints must differ by to be shrunk less than POOL_MAX."""
LONGEST_GAP = 30.0
"""Days without answers beyond this add nothing to the budget."""
MAX_TOUCHPOINTS = 24
"""Further touchpoints share one stream, that of answers without a touchpoint."""
FORGET_AFTER = 730.0
"""Days: a baseline that is older is halved, and then half as old."""
RECOVERY_BUDGET = 4.0
"""False recoveries a year while answers lie a third of the way from the old to the new level."""
RECOVERY_MOST = 0.01
"""The most that one answer adds of it: with few answers a recovery is told later, not on less."""
RECOVERY_SHARE, RECOVERY_LEAST = 0.7, 0.3
"""Recovery is told from this share of the fall, as theta, and from at least this theta."""
SETTLE_DAYS, SETTLE_ANSWERS, SETTLE_AT_LAST = 30.0, 30, 180.0
"""A new level is the baseline after so many days and answers since the alarm, or so many days."""
SETTLE_UNLESS = 4.5
"""exp of the recovery's CUSUM: above, answers look like the old baseline, and settling waits."""

YEAR = 365.25
_TILTS = tuple(tuple(math.exp(theta * sign) for theta in THETAS) for sign in (1, 0, -1))
"""exp(theta s) per category and theta."""


class _Counted(msgspec.Struct, array_like=True, gc=False):
    """Answers, of a touchpoint or of all, and since when they may be worse; first in what is stored of either."""

    counts: int = 0
    """All answers of the baseline and since the onset, packed."""
    mark: int = 0
    """Those up to the estimated onset, packed."""
    onset: float = 0.0
    """Estimated, days since 1970."""
    run: float = 1.0
    """exp of the CUSUM that estimates it."""

    def add_past(self, unit: int, day: float, *, shifted: bool) -> None:
        """Count an answer of the past; `shifted`: while an alarm is open, which is tested by itself."""
        self.counts += unit
        if shifted or self.run == 1.0 or day <= self.onset:
            self.mark += unit
        if not shifted and self.run == 1.0:
            self.onset = max(self.onset, day)

    def halve(self) -> None:
        """Halve the baseline; answers since the estimated onset stay."""
        self.counts, self.mark = halved(self.mark) + self.counts - self.mark, halved(self.mark)

    def begin_anew(self, day: float) -> None:
        """Take all that was counted as baseline."""
        self.mark, self.onset, self.run = self.counts, day, 1.0


class _Stream(_Counted, array_like=True, gc=False):
    """What is known of one touchpoint."""

    r2: float = 0.0
    """R of this touchpoint for the second of THETAS."""
    r3: float = 0.0
    left: int = 0
    """Answers until what was learned is used."""
    watched: bool = False
    share: float = 0.0
    """Of the budget."""
    limit: float = math.inf
    z1: float = 1.0
    """1 / Z per theta."""
    z2: float = 1.0
    z3: float = 1.0

    def expect(self, shares: tuple[float, float, float], limit: float) -> None:
        """Test the next answers against these shares; `limit`: of R, for a ratio of 1 at the most."""
        detractors, passives, promoters = shares
        (up1, up2, up3), _, (down1, down2, down3) = _TILTS
        self.z1 = 1.0 / (detractors * up1 + passives + promoters * down1)
        self.z2 = 1.0 / (detractors * up2 + passives + promoters * down2)
        self.z3 = 1.0 / (detractors * up3 + passives + promoters * down3)
        self.limit = limit * (up3 * self.z3) ** OVERSHOOT

    def restart(self, day: float) -> None:
        """Watch again, with all that was counted as baseline."""
        self.begin_anew(day)
        self.r2 = self.r3 = 0.0
        self.left, self.watched = 0, False


class _Shift(msgspec.Struct, array_like=True, gc=False):
    """An open alarm."""

    whole: bool
    """The whole customer fell, or one touchpoint."""
    touchpoint: str | None
    at: float
    """Day of the alarm."""
    theta: float
    """From the old baseline to the level that counts as not recovered."""
    scale: float
    """Z of that."""
    onset: float
    """Of the recovery, estimated, days since 1970."""
    mark: int
    """All answers up to that onset, packed."""
    answers: int = 0
    """Since the alarm."""
    evidence: float = 0.0
    """R of the recovery."""
    run: float = 1.0
    """exp of the CUSUM that estimates its onset."""

    def take(self, category: int, gap: float) -> None:
        """Count an answer of what fell, `gap` days after the one before it, as evidence of a recovery."""
        ratio = self.scale / math.exp(self.theta * (1 - category))
        self.answers += 1
        self.evidence = (self.evidence + min(RECOVERY_MOST, RECOVERY_BUDGET * gap / YEAR)) * ratio
        self.run *= ratio

    def has_lasted(self, day: float) -> bool:
        """Tell whether the new level has lasted long enough by this day to be the usual one."""
        age = day - self.at
        young = age < SETTLE_DAYS or self.answers < SETTLE_ANSWERS or self.run > SETTLE_UNLESS
        return not young or age >= SETTLE_AT_LAST


def _opened(whole: bool, touchpoint: str | None, day: float, counts: int, mark: int, prior: Prior) -> _Shift:
    """Return a new alarm; `counts` are all answers of what fell, `mark` those before it did."""
    before = shares_of(mark, prior[:3], prior.strength)
    fallen = nps(counts - mark + pack((1, 1, 1)))
    theta = max(RECOVERY_LEAST, RECOVERY_SHARE * tilt_between(before, fallen or 0.0))
    return _Shift(whole, touchpoint, day, theta, normaliser(before, theta), onset=day, mark=counts)


class Detector(_Counted, array_like=True, gc=False):
    """The sequential test of one customer's answers: one audience, one kind. It is stored as it stands."""

    r1: float = 0.0
    """R of the whole customer per theta."""
    r2: float = 0.0
    r3: float = 0.0
    begun: float = -math.inf
    """Day of the baseline's first answer."""
    last: float = -math.inf
    """Day of the latest."""
    budget: float = 0.0
    """As last given."""
    shift: _Shift | None = None
    streams: dict[str | None, _Stream] = {}

    @property
    def is_shifted(self) -> bool:
        """Whether an alarm is open."""
        return self.shift is not None

    def take(self, category: int, touchpoint: str | None, day: float, prior: Prior, budget: float) -> Signal | None:
        """Take one live answer in the order of arrival; return what it makes happen, mostly nothing.

        `category` is 0 detractor, 1 passive, 2 promoter; `day` is when it occurred, in days since 1970, and may go
        back; `budget` is in false alarms a year for the whole detector. The reason's keys: touchpoint (None: the
        customer as a whole), baseline_nps and since_nps in points, baseline_answers and since_answers, onset (days
        since 1970), statistic and threshold in nats, answers_per_month, false_alarms_per_year.
        """
        stream = self.streams.get(touchpoint)
        if stream is None:
            stream = self._stream_of(touchpoint, day)
        gap = day - self.last
        if gap > 0.0:
            self.last = day
            if gap > LONGEST_GAP:
                gap = LONGEST_GAP
        else:
            gap = 0.0
        if self.shift is not None:
            return self._take_shifted(self.shift, stream, category, gap)
        if stream.left <= 0:
            self._refresh(stream, prior, budget)
        stream.left -= 1
        unit = UNITS[category]
        self.counts += unit
        stream.counts += unit
        if not stream.watched:
            stream.mark = stream.counts
            stream.onset = day
            if self.run == 1.0:
                self.mark = self.counts
                self.onset = day
            return None
        l1, l2, l3 = _TILTS[category]
        l1 *= stream.z1
        l2 *= stream.z2
        l3 *= stream.z3
        chance = gap * budget / YEAR
        share = stream.share
        evidence = 0.0
        if share:
            own = chance * share
            chance -= own
            r2 = stream.r2 = (stream.r2 + OWN_2 * own) * l2
            r3 = stream.r3 = (stream.r3 + OWN_3 * own) * l3
            evidence = r2 + r3
        r1 = self.r1 = (self.r1 + WHOLE_1 * chance) * l1
        r2 = self.r2 = (self.r2 + WHOLE_2 * chance) * l2
        r3 = self.r3 = (self.r3 + WHOLE_3 * chance) * l3
        run = stream.run * l2
        if run > 1.0:
            stream.run = run
        else:
            stream.run = 1.0
            stream.mark = stream.counts
            stream.onset = day
        run = self.run * l2
        if run > 1.0:
            self.run = run
        else:
            self.run = 1.0
            self.mark = self.counts
            self.onset = day
        evidence += r1 + r2 + r3
        if evidence < stream.limit:
            return None
        return self._worse(stream, touchpoint, evidence, prior, budget)

    def learn(self, category: int, touchpoint: str | None, day: float) -> None:
        """Take an answer that tells of the past only, imported or late: it is part of the baseline, and not tested.

        The parameters are those of `take`. Whoever moves here with their history is watched from the first live answer.
        """
        if max(unpack(self.counts)) >= MANY:
            if self.shift is not None:
                return  # the baseline of an open alarm stays, and knows enough
            self._forget()
        stream = self.streams.get(touchpoint)
        if stream is None:
            stream = self._stream_of(touchpoint, day)
        if day < self.last - FORGET_AFTER:
            return  # too old to tell what is usual
        shift, unit = self.shift, UNITS[category]
        if shift is not None and (shift.whole or stream is self.streams[shift.touchpoint]):
            if day >= (self.onset if shift.whole else stream.onset):
                return  # of the time in which it is not as usual
            shift.mark += unit
        if self.budget:
            self.begun = min(self.begun, max(day, self.last - FORGET_AFTER / 2))  # not so far that it is halved
        else:
            # Nothing was tested yet: the first gap begins with the newest.
            self.begun, self.last = min(self.begun, day), max(self.last, day)
        for one in (self, stream):
            one.add_past(unit, day, shifted=shift is not None)
        stream.left = 0

    def review(self, day: float) -> Signal | None:
        """Return "settled" when a new level has lasted long enough by this day (days since 1970), answers or not."""
        shift = self.shift
        if shift is None:
            return None
        if not shift.has_lasted(day) and max(unpack(self.counts)) < 2 * MANY:
            return None
        counts, mark = self.seen(shift)
        onset = self.onset if shift.whole else self.streams[shift.touchpoint].onset
        reason = _reason(shift.touchpoint, mark, counts - mark, onset, self.per_month, self.budget)
        self.begun = onset if shift.whole else self.begun
        self.counts = 0 if shift.whole else less(self.counts, mark)
        for stream in self._held(shift):
            stream.counts -= stream.mark
            self.counts += stream.counts
        self._restart()
        return Signal("settled", reason)

    def _stream_of(self, touchpoint: str | None, day: float) -> _Stream:
        """Return the stream of a touchpoint that was not seen before."""
        if not self.streams:
            self.begun = self.last = day
        if len(self.streams) >= MAX_TOUCHPOINTS:
            touchpoint = None
        return self.streams.setdefault(touchpoint, _Stream())

    def _refresh(self, stream: _Stream, prior: Prior, budget: float) -> None:
        """Use what was learned so far for this touchpoint's next answers."""
        if self.last - self.begun > FORGET_AFTER or max(unpack(self.counts)) >= MANY:
            self._forget()
        self.budget = budget
        answers, own = total(self.counts), total(stream.counts)
        several = len(self.streams) > 1
        stream.left = max(1, own // REFRESH)
        stream.watched = answers >= LEARN and (own >= LEARN_TOUCHPOINT or not several)
        if not stream.watched:
            return
        shares, limit = shares_of(self.counts, prior[:3], prior.strength), LIMIT_ONE
        stream.share = 0.0
        if several:
            shares = shares_of(stream.counts, shares, _pooling(self.streams.values(), shares))
            if own >= OWN_FROM:
                limit, answers = LIMIT_SHARED, own
                stream.share = 1.0 - max(WHOLE_SHARE, 1.0 / (len(self.streams) + 1))
        stream.expect(shares, limit * answers**HISTORY)

    def _forget(self) -> None:
        """Halve the baseline; answers since the estimated onset stay."""
        self.begun += (self.last - self.begun) / 2
        for one in (self, *self.streams.values()):
            one.halve()

    def _worse(self, stream: _Stream, touchpoint: str | None, evidence: float, prior: Prior, budget: float) -> Signal:
        """Open the alarm."""
        self.budget = budget
        whole = self.r1 + self.r2 + self.r3 >= evidence / 2
        if whole:
            touchpoint, counts, mark, onset = None, self.counts, self.mark, self.onset
        else:
            touchpoint = touchpoint if touchpoint in self.streams else None
            counts, mark, onset = stream.counts, stream.mark, stream.onset
        since = counts - mark
        reason = _reason(touchpoint, mark, since, onset, self.per_month, budget)
        reason["statistic"], reason["threshold"] = (
            _nats(evidence, self.per_month, budget),
            _nats(stream.limit, self.per_month, budget),
        )
        self.shift = _opened(whole, touchpoint, self.last, counts, mark, prior)
        if not whole:
            self.counts = less(self.counts, since)
        return Signal("worse", reason)

    def _take_shifted(self, shift: _Shift, stream: _Stream, category: int, gap: float) -> Signal | None:
        """Take an answer while an alarm is open; it may have recovered or settled."""
        unit = UNITS[category]
        stream.counts += unit
        if not shift.whole and stream is not self.streams[shift.touchpoint]:
            self.counts += unit
            stream.mark = stream.counts
            return self.review(self.last)
        if shift.whole:
            self.counts += unit
        shift.take(category, gap)
        counts, mark = self.seen(shift)
        if shift.run <= 1.0:
            shift.run, shift.mark, shift.onset = 1.0, counts, self.last
        if shift.evidence < 1.0:
            return self.review(self.last)
        reason = _reason(shift.touchpoint, mark, counts - shift.mark, shift.onset, self.per_month, self.budget)
        reason["statistic"] = _nats(shift.evidence, self.per_month, RECOVERY_BUDGET)
        reason["threshold"] = _nats(1.0, self.per_month, RECOVERY_BUDGET)
        if shift.whole:
            self.counts = self.mark
        for held in self._held(shift):
            held.counts = held.mark
        self._restart()
        return Signal("recovered", reason)

    def _held(self, shift: _Shift) -> list[_Stream]:
        """Return the streams whose answers since the onset are no part of the baseline."""
        return list(self.streams.values()) if shift.whole else [self.streams[shift.touchpoint]]

    def seen(self, shift: _Shift) -> tuple[int, int]:
        """Return all answers and those of the baseline, packed, of what fell."""
        if shift.whole:
            return self.counts, self.mark
        stream = self.streams[shift.touchpoint]
        return stream.counts, stream.mark

    def _restart(self) -> None:
        """Watch again, with what the streams have counted as baseline."""
        self.shift = None
        self.begin_anew(self.last)
        self.r1 = self.r2 = self.r3 = 0.0
        for stream in self.streams.values():
            stream.restart(self.last)

    @property
    def per_month(self) -> float:
        """Answers a month since the baseline began."""
        return total(self.counts) / max(1.0, self.last - self.begun) * YEAR / 12


def nearness(detector: Detector) -> Nearness:
    """Return how near the nearest stream is to an alarm, with what it knows."""
    if detector.shift is not None:
        counts, mark = detector.seen(detector.shift)
        since = nps(counts - mark)
        return Nearness(1.0, 0.0, 0.0, detector.shift.touchpoint, nps(mark), since, total(mark))
    all_own = detector.r1 + detector.r2 + detector.r3
    best = Nearness(0.0, 0.0, 0.0, None, nps(detector.mark), nps(detector.counts - detector.mark), total(detector.mark))
    for touchpoint, stream in detector.streams.items():
        if not stream.watched:
            continue
        own = stream.r2 + stream.r3
        statistic = _nats(all_own + own, detector.per_month, detector.budget)
        threshold = _nats(stream.limit, detector.per_month, detector.budget)
        ratio = min(1.0, statistic / threshold) if threshold else 0.0
        if ratio <= best.ratio and best.threshold:
            continue
        best = best._replace(ratio=ratio, statistic=statistic, threshold=threshold)
        if own > all_own:
            best = best._replace(
                touchpoint=touchpoint,
                baseline_nps=nps(stream.mark),
                recent_nps=nps(stream.counts - stream.mark),
                learned=total(stream.mark),
            )
    return best


def _pooling(streams: Collection[_Stream], shares: tuple[float, float, float]) -> float:
    """Return with how many answers of the customer a touchpoint is shrunk: few where touchpoints really differ.

    The variance between touchpoints is the moment estimate of DerSimonian and Laird (1986), counted only where
    their Q exceeds its mean under equality by 1.5 standard deviations.
    """
    variance = shares[0] + shares[2] - (shares[2] - shares[0]) ** 2
    mean, excess, answers, squares, touchpoints = shares[2] - shares[0], 0.0, 0, 0, 0
    for stream in streams:
        detractors, passives, promoters = unpack(stream.counts)
        count = detractors + passives + promoters
        if count:
            excess += count * ((promoters - detractors) / count - mean) ** 2
            answers += count
            squares += count * count
            touchpoints += 1
    free = touchpoints - 1
    if free < 1 or variance <= 0.0 or excess <= variance * (free + POOL_UNLESS * math.sqrt(2 * free)):
        return POOL_MAX
    between = (excess - free * variance) / (answers - squares / answers)
    return min(POOL_MAX, max(POOL_MIN, variance / between))


def _reason(
    touchpoint: str | None, mark: int, since: int, onset: float, per_month: float, budget: float
) -> dict[str, str | int | float | None]:
    """Return the numbers of a decision."""
    return {
        "touchpoint": touchpoint,
        "baseline_nps": nps(mark),
        "baseline_answers": total(mark),
        "since_nps": nps(since),
        "since_answers": total(since),
        "onset": onset,
        "statistic": None,
        "threshold": None,
        "answers_per_month": per_month,
        "false_alarms_per_year": budget,
    }


def _nats(evidence: float, per_month: float, budget: float) -> float:
    """Return R as natural logarithm of 1 + R in answers, the scale of a CUSUM."""
    return math.log1p(evidence * 12 * per_month / budget) if budget > 0 else 0.0
