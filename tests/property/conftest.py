"""Properties are tried with the same examples each time; with others, and more, in the long form (`make chaos`)."""

from __future__ import annotations

from tests.support import examples as examples
