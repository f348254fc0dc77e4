"""Prints the .env of docker-compose.yml: everything secret, made at random. `make env` keeps what it prints."""

import hashlib
import secrets

key = f"sk_{secrets.token_urlsafe(32)}"
print(f"FIILIS_SECRET={secrets.token_urlsafe(32)}")  # noqa: T201 (the file is the output; as below)
print(f"FIILIS_KEY={key}")  # noqa: T201
print(f"FIILIS_KEY_SHA256={hashlib.sha256(key.encode()).hexdigest()}")  # noqa: T201
for role in ("", "_INGEST", "_SCORING", "_TICKETING", "_NOTIFY"):
    print(f"POSTGRES_PASSWORD{role}={secrets.token_hex(24)}")  # noqa: T201
