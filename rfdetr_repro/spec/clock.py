"""The present time as Records and summaries state it."""

from __future__ import annotations

from datetime import datetime, timezone


def utc_now() -> str:
    """The present time in UTC to the second, in ISO 8601, such as 2026-11-29T13:05:00+00:00."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
