"""What a process has configured for stores: needs no HTTP client, so whoever knows a configuration may say so."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

Provider: TypeAlias = Callable[[], Mapping[str, str]]
"""Gives `auth` and `headers` (JSON) for a Kubo daemon where a process has them configured, under those names."""

providers: list[Provider] = []
"""Asked in order, after the environment."""
