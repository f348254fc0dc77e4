"""What every service is told by its environment, and how a wrong setting is told of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.bus.security import Channel, Mechanism
from shared.errors import Misconfigured
from shared.http.limits import Limits


def _lower(value: object) -> object:
    """Take Kafka's own spelling, too."""
    return value.lower() if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


class Environment(BaseSettings):
    """Settings that environment variables `FIILIS_...` give; an empty one is as none."""

    model_config = SettingsConfigDict(env_prefix="FIILIS_", env_ignore_empty=True, extra="ignore")


class Settings(Environment):
    """What every service is told; what one alone is told is in its own settings."""

    kafka: str | None = None
    """Bootstrap servers, `host:port,host:port`."""
    kafka_security: Annotated[Channel, BeforeValidator(_lower)] = "plaintext"
    """`plaintext`, `ssl`, `sasl_plaintext`, `sasl_ssl`: what its listener is."""
    kafka_sasl_mechanism: Annotated[Mechanism | None, BeforeValidator(_upper)] = None
    """`PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`."""
    kafka_sasl_username: str | None = None
    kafka_sasl_password: str | None = Field(default=None, repr=False)
    kafka_ca_file: str | None = None
    """PEM: who signs the brokers' certificates; the system's authorities by default."""
    kafka_cert_file: str | None = None
    """PEM: our own certificate, where the brokers want one; its key in the next, or in the same file."""
    kafka_key_file: str | None = None
    database_url: str | None = None
    """`postgresql://user:password@host/database`."""
    database_pool: int = Field(default=10, ge=2)
    """Connections that each service keeps for its work at the most; ingest keeps two, and each a few for waiting."""
    topic_prefix: str = ""
    """Set before each topic and group, where several installations share a cluster."""
    host: str = "127.0.0.1"
    port: int | None = Field(default=None, ge=0, le=65535)
    """0 takes a free one; none: the service's own."""
    ops_port: int | None = Field(default=None, ge=0, le=65535)
    """Of /metrics, /docs and /openapi.json, which tell customers' figures to anybody; none: the service's port + 1000,
    and everything in one process has them on its own port while it listens on loopback, else on 9080."""
    public_url: str | None = None
    """Starts every link; default http://HOST:PORT."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    migration_url: str | None = None
    """The same for a role that may change the schema, where the services' own may not."""
    drain_seconds: float = Field(default=3.0, ge=0, le=60)
    """After SIGTERM, how long requests are still served while `/readyz` says 503: until balancers have looked."""
    standstill_seconds: float = Field(default=120.0, gt=0)
    """A worker that has stood still for longer, while what it needs is there, ends the process."""
    compare_seconds: float = Field(default=3600.0, gt=0)
    """How often a stage tells the next one what it holds open, and looks at what it missed itself."""
    trusted_proxies: str = ""
    """A comma list of networks whose `Forwarded` or `X-Forwarded-For` is believed."""
    hsts_seconds: int = Field(default=0, ge=0)
    """For how long browsers are told to come by HTTPS only; 0: not told. A year is 31536000."""
    secret: str = Field(default="", repr=False)
    """A comma list; the first signs, all verify."""
    allow_private_targets: str = ""
    """`true`, or a comma list of networks and hosts that outgoing requests may reach besides public ones."""

    max_connections: int = Field(default=1_000, ge=10)
    """Of clients, per process; past it an idle one is closed, or else the new one is told 503."""
    max_requests: int = Field(default=500, ge=1)
    """Under way at once, per process; more are told 503 before their body is read."""
    header_seconds: float = Field(default=15.0, gt=0)
    """From a request's first byte to the end of its headers, and from there ..."""
    body_seconds: float = Field(default=30.0, gt=0)
    """... to the end of its body; whoever is slower is told 408."""
    keep_alive_seconds: int = Field(default=75, ge=1)
    """How long an idle connection is kept: longer than a proxy in front keeps it."""

    @property
    def limits(self) -> Limits:
        """What clients may ask of the process."""
        return Limits(
            connections=self.max_connections,
            requests=self.max_requests,
            header_seconds=self.header_seconds,
            body_seconds=self.body_seconds,
            idle_seconds=self.keep_alive_seconds,
        )

    @property
    def named_database(self) -> str:
        """The database's address. Raises Misconfigured where none is named."""
        if self.database_url is None:
            raise Misconfigured("FIILIS_DATABASE_URL is not set, such as postgresql://fiilis:secret@db/fiilis")
        return self.database_url

    @property
    def secrets(self) -> list[str]:
        """The signing secrets, newest first."""
        return [part.strip() for part in self.secret.split(",") if part.strip()]


def wrong_setting(error: ValidationError) -> Misconfigured:
    """Return what names the setting that is wrong."""
    first = error.errors()[0]
    return Misconfigured(f"FIILIS_{str(first['loc'][0]).upper()}: {first['msg']}")
