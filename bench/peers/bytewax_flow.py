"""Bytewax: `python bench/peers/bytewax_flow.py BOOTSTRAP TOPIC ANSWERS` prints the seconds, in memory."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import bytewax.operators as op  # type: ignore[import-not-found]  # only in the peers' environment
from bytewax.connectors.kafka import KafkaSource  # type: ignore[import-not-found]
from bytewax.dataflow import Dataflow  # type: ignore[import-not-found]
from bytewax.testing import TestingSink, cluster_main  # type: ignore[import-not-found]
from rolling import rolled  # type: ignore[import-not-found]  # run as a script


class Count(list[Any]):
    """A sink that only counts."""

    seen = 0

    def append(self, _: Any) -> None:
        """Count one."""
        self.seen += 1

    def extend(self, items: Any) -> None:
        """Count some."""
        self.seen += len(items)

    def __iadd__(self, items: Any) -> Count:
        self.seen += len(items)
        return self


def main(bootstrap: str, topic: str, answers: int) -> None:
    """Read the topic once."""
    begun = [0.0]

    def decoded(message: Any) -> tuple[str, dict[str, Any]]:
        if not begun[0]:
            begun[0] = time.perf_counter()
        answer = json.loads(message.value)
        return answer["customer"], answer

    flow = Dataflow("nps")
    source = KafkaSource([bootstrap], [topic], tail=False, batch_size=2_000)
    keyed = op.map("decode", op.input("in", flow, source), decoded)
    scored = op.stateful_map("score", keyed, rolled)
    seen = Count()
    op.output("out", scored, TestingSink(seen))
    cluster_main(flow, [], 0)
    assert seen.seen == answers, (seen.seen, answers)
    print(time.perf_counter() - begun[0])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
