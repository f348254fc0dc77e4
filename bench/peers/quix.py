"""Quix Streams: `python bench/peers/quix.py BOOTSTRAP TOPIC ANSWERS` prints the seconds, exactly once."""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

from quixstreams import Application, State  # type: ignore[import-not-found]  # only in the peers' environment
from rolling import rolled  # type: ignore[import-not-found]  # run as a script


def main(bootstrap: str, topic: str, answers: int) -> None:
    """Read the topic once."""
    with tempfile.TemporaryDirectory() as folder:
        app = Application(
            broker_address=bootstrap,
            consumer_group="bench-quix",
            auto_offset_reset="earliest",
            processing_guarantee="exactly-once",
            state_dir=folder,
            loglevel="ERROR",
        )
        begun = [0.0]
        done = [0]

        def score(answer: dict[str, Any], state: State) -> dict[str, Any]:
            if not done[0]:
                begun[0] = time.perf_counter()
            kept, nps = rolled(state.get("nps"), answer)
            state.set("nps", kept)
            done[0] += 1
            if done[0] == answers:
                app.stop()
            return {"customer": answer["customer"], "nps": nps}

        frame = app.dataframe(app.topic(topic, value_deserializer="json"))
        frame.apply(score, stateful=True).to_topic(app.topic(f"{topic}.quix", value_serializer="json"))
        app.run()
        print(time.perf_counter() - begun[0])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
