"""JSON with a validator, by which who has it already need not be sent it again."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

# `json.dumps` would make one for each answer.
_JSON = json.JSONEncoder(ensure_ascii=False)


class Tagged(NamedTuple):
    """A text of JSON and its entity tag (RFC 9110, section 8.8.3)."""

    text: str
    etag: str

    def is_known(self, condition: str) -> bool:
        """Whether who asks with this `If-None-Match` has it (RFC 9110, section 13.1.2)."""
        known = [tag.strip().removeprefix("W/") for tag in condition.split(",")]
        return self.etag in known or known == ["*"]


def tagged(body: dict[str, Any]) -> Tagged:
    """An object as JSON, with a tag that is the same for the same bytes."""
    text = _JSON.encode(body)
    return Tagged(text, f'"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"')
