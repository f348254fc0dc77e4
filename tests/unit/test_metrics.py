"""What Prometheus is told."""

from __future__ import annotations

from shared.runtime.metrics import CONSUMER_LAG, CONSUMER_OLDEST, ConsumerFigures


def test_consumers_of_one_process_do_not_overwrite_each_other() -> None:
    """Two workers share a topic: their lags add up, and the oldest record of both counts."""
    one, two = ConsumerFigures("test", "some.topic"), ConsumerFigures("test", "some.topic")
    one.tell(5, 2.0)
    two.tell(7, 1.0)
    assert CONSUMER_LAG.labels("test", "some.topic")._value.get() == 12
    assert CONSUMER_OLDEST.labels("test", "some.topic")._value.get() == 2.0
    one.tell(0, 0.0)
    assert CONSUMER_LAG.labels("test", "some.topic")._value.get() == 7
