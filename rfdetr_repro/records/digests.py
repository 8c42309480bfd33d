r"""Digests that a stored Record carries: has anything in its line been altered since the line was
written?

``Record.id`` covers the request alone, so that a campaign finds what it has measured; the digests
cover the results too. A line holds ``"digest": {"all": D, "accuracy": D, "cost": D, "latency": D,
"mask_accuracy": D}``, with a part only where the Record has that part. ``all`` covers every field
except ``id`` and ``digest``; the digests of parts locate an alteration.

Canonical form: what is hashed is the JSON array ``[id, part, value]`` with ``value`` as parsed from
the line, written by ``json.dumps`` with sorted keys, without spaces, non-ASCII characters as
``\uXXXX``, numbers as Python's ``repr`` gives them (the shortest text that reads back as the same
float64). So the order of keys and white space do not matter, and any changed number does. The id is
inside so that a part of one Record does not pass for a part of another Record. A digest is the
first 16 hex digits of the SHA-256.

Digests find accidents and careless edits. Digests are not signatures: a person who alters a line on
purpose can compute new digests.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

from rfdetr_repro.spec.json_text import sorted_encoder

WHOLE = "all"
PARTS = ("accuracy", "mask_accuracy", "latency", "cost")  # results of a Record
# UTC time at which digests were added to a line written without digests (rfdetr_repro.seal)
SEALED = "sealed_at"


_encoded = sorted_encoder(",", ":")


@functools.lru_cache(maxsize=256)
def _quoted(name: str) -> str:
    """The name of a field as JSON."""
    return _encoded(name)


def canonical(fields: Mapping[str, Any]) -> dict[str, str]:
    """Field -> canonical text of its value. Equal texts are equal values of equal types.

    Raises ValueError for NaN and infinite numbers.
    """
    return {name: _encoded(value) for name, value in fields.items()}


def digests_of(fields: Mapping[str, Any], record_id: str) -> dict[str, str]:
    """Part -> digest of ``fields``: a Record's fields as JSON values, without ``id`` and
    ``digest``.
    """
    return _digests(canonical(fields), record_id)


def _digests(texts: Mapping[str, str], record_id: str) -> dict[str, str]:
    """Part -> digest of fields given as canonical texts. The text of the whole is put together from
    those of the fields, so that no value is written twice.
    """
    whole = ",".join(f"{_quoted(name)}:{texts[name]}" for name in sorted(texts))
    parts = {part: texts[part] for part in PARTS if part in texts}
    return {
        name: _digest(record_id, name, text)
        for name, text in {WHOLE: f"{{{whole}}}", **parts}.items()
    }


def altered(texts: Mapping[str, str], record_id: str, digest: object) -> str:
    """Names the parts that do not agree with the digests of their line, such as "accuracy"; empty
    if all agree. ``texts``: the fields of the line by :func:`canonical`.

    Raises ValueError for a ``digest`` that is not an object of texts, or has no digest of the
    whole.
    """
    if (
        not isinstance(digest, dict)
        or WHOLE not in digest
        or not all(isinstance(value, str) for value in digest.values())
    ):
        raise ValueError(
            f"digest = {repr(digest)[:60]} is not an object of hexadecimal texts with {WHOLE!r}"
        )
    found = _digests(texts, record_id)
    if {name: value for name, value in digest.items() if name != SEALED} == found:
        return ""
    wrong = [part for part in PARTS if digest.get(part) != found.get(part)]
    return " and ".join(wrong) or "a field other than the results"


def _digest(record_id: str, name: str, text: str) -> str:
    whole = f"[{_encoded(record_id)},{_quoted(name)},{text}]"
    return hashlib.sha256(whole.encode()).hexdigest()[:16]
