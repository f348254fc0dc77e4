"""Rules on how answers follow each other: silence, and a shift of their level."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PlainValidator

from shared.directory.fields import DAY, duration_seconds
from shared.rules.base import OnSequence, OnTime, Rate, Texts
from shared.wire.events import Kind

FALSE_ALARMS_OF_SILENCE = 0.05
"""A year, for `auto`: what a customer that answers by chance alone, at its own rate, sets off."""

_LEAST_DAYS = 3.0
"""A weekend and a holiday are no silence."""
_LEAST_ANSWERS = 5.0
_OF_LONGEST = 1.5
"""Answers that come in waves, such as a survey each quarter, are quiet between them: so much longer is news."""


def _after(value: object) -> int | str:
    try:
        return "auto" if value == "auto" else duration_seconds(value)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None


class NoFeedbackFor(OnTime, frozen=True, tag="no_feedback_for"):
    """Nobody has answered for so long, or for longer than the customer's own rate explains."""

    after: Annotated[Literal["auto"] | int, PlainValidator(_after)]
    """Seconds."""

    texts: ClassVar[Texts] = Texts(
        "No answer for {silent}, where at most {limit} is usual",
        "Vastauksissa on ollut {silent} tauko; tavallisesti enintään {limit} tauko",
    )

    @property
    def kind(self) -> Kind | None:
        """It looks at every kind."""
        return None

    def limit(self, rate: Rate) -> float | None:
        """Return after how many seconds without an answer it fires; None while too little is known.

        `auto`: answers by chance at a rate that is itself estimated leave a gap longer than g with the probability
        (1 + g / days)^-answers (Lomax, the predictive distribution of a Poisson process's gaps under a Gamma rate;
        Gelman et al., Bayesian Data Analysis, 2013, ch. 2.6); g is where a year's gaps make 0.05 of those.
        """
        if self.after != "auto":
            return float(self.after)
        if rate.answers < _LEAST_ANSWERS or rate.days <= 0:
            return None
        gaps_a_year = 365.25 * rate.answers / rate.days
        likely = rate.days * ((gaps_a_year / FALSE_ALARMS_OF_SILENCE) ** (1 / rate.answers) - 1)
        return DAY * max(likely, _LEAST_DAYS, _OF_LONGEST * rate.longest)


class Shift(OnSequence, frozen=True, tag="shift"):
    """A sequential detector says that answers have become worse than the customer's own baseline."""

    false_alarms_per_year: Annotated[float, Field(gt=0, le=12)] = 0.1
    of: Annotated[Literal["nps", "mood"], Field(alias="kind")] = "nps"

    texts: ClassVar[Texts] = Texts(
        "{subject} has become worse: {since_nps:+z.0f} from {since_answers} answers, {baseline_nps:+z.0f} before",
        "{subject} on huonontunut: {since_nps:+z.0f} ({since_answers} vastausta), aiemmin {baseline_nps:+z.0f}",
    )

    @property
    def kind(self) -> Kind | None:
        """The kind of answers that it looks at."""
        return self.of
