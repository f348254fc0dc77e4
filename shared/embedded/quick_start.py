"""Has Kafka start in 2 s instead of 6, for half of the processor time: by Java's cache of classes (JEP 514, Java 25).

It is made once for a machine by a Kafka that runs for nothing else, in 20 s; tests do it, which start Kafka a hundred
times. Every embedded Kafka uses it where it is there, and Java passes by one that does not fit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from shared.bus.client import Kafka
from shared.bus.provisioning import ensure_topics
from shared.embedded.jars import kafka_jars
from shared.embedded.kafka import EmbeddedKafka, class_cache
from shared.wire.topics import TOPICS


async def make_class_cache(say: Callable[[str], None]) -> None:
    """Make the cache where there is none. Raises EmbeddedUnavailable."""
    file = class_cache()
    await kafka_jars(say)
    if file.is_file():
        return
    say("Kafka's start is made quick, this once")
    with tempfile.TemporaryDirectory(prefix=f".{file.name}-", suffix=".part", dir=file.parent) as part:
        kafka = EmbeddedKafka(Path(part) / "kafka", say=say, trains=Path(part) / file.name)
        try:
            await kafka.start()
            await ensure_topics(Kafka(kafka.bootstrap), TOPICS)
        finally:
            await kafka.stop()
        made = Path(part) / file.name
        if made.is_file():
            made.replace(file)
        else:
            say("Java has made no cache of classes: Kafka starts as it is")
