"""What comes from strangers, made up by the thousand, and what must hold whatever it is.

Each test tries `EXAMPLES` examples at most, always the same ones. The environment variable
`VIN_DATASETTE_FUZZ_EXAMPLES` sets another number, and then they are new ones at every run:

    VIN_DATASETTE_FUZZ_EXAMPLES=20000 python -m pytest tests/fuzz
"""

from __future__ import annotations

import os

EXAMPLES = int(os.environ.get("VIN_DATASETTE_FUZZ_EXAMPLES", "100"))
"""Examples of one test, at most."""

DERANDOMIZE = "VIN_DATASETTE_FUZZ_EXAMPLES" not in os.environ
"""Whether the examples are the same at every run."""
