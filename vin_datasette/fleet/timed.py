"""How long a run has taken, for the accounts of runs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Timed:
    """Something that began when it was made, by `time.monotonic`."""

    began: float = field(default_factory=time.monotonic, kw_only=True)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self.began
