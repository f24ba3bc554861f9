"""The JSON of a comparison.

Its layout is fully described by ``comparison.schema.json`` beside this module. An incompatible change needs another
:data:`SCHEMA`.
"""

from __future__ import annotations

import hashlib

from nodulens.followup.record import Comparison
from nodulens.io.records import Format, decode, encode

SCHEMA = "nodulens-comparison/1"
FORM = Format(SCHEMA, "comparison", indent=2)


def to_json(comparison: Comparison) -> str:
    """The comparison as indented JSON with a final newline.

    Raises:
        NodulensError: a number is NaN or infinite, which JSON cannot represent.
    """
    return encode(comparison, FORM)


def from_json(text: str) -> Comparison:
    """Read a comparison from :func:`to_json`, equal to the original.

    Raises:
        UnreadableFile: not JSON, another schema, or a key that is unknown, missing or of the wrong type.
    """
    return decode(Comparison, text, FORM)


def fingerprint(comparison: Comparison) -> str:
    """SHA-256 of :func:`to_json`."""
    return hashlib.sha256(to_json(comparison).encode()).hexdigest()
