"""Prints what happens to tickets: `python docs/examples/tickets.py KAFKA [PREFIX]`."""

import asyncio
import json
import sys

from aiokafka import AIOKafkaConsumer


async def main(kafka: str, prefix: str = "") -> None:
    """Follow the topic from its beginning."""
    consumer = AIOKafkaConsumer(
        f"{prefix}tickets.v1", bootstrap_servers=kafka, group_id="my-tool", auto_offset_reset="earliest"
    )
    seen: dict[str, int] = {}  # each ticket's newest version; a message may come twice
    async with consumer:
        async for record in consumer:
            kind = dict(record.headers)["ce_type"].decode()
            if not kind.startswith("ticket."):
                continue
            ticket = json.loads(record.value)
            if ticket["version"] <= seen.get(ticket["id"], 0):
                continue
            seen[ticket["id"]] = ticket["version"]
            print(kind, ticket["number"], ticket["customer"], ticket["state"], ticket["title"], flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
