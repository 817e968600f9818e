"""What strangers send in the place of a VIN, and what they are not to be told."""

from __future__ import annotations

import sysconfig

from hypothesis import strategies as st

from tests.conftest import numbered_vins

KNOWN = [str(vin) for vin in numbered_vins(20)]
"""VINs of vehicles, to be found, removed and asked about anew."""

EVIL = [
    "../../../../etc/passwd",
    "..\\..\\..\\windows\\win.ini",
    "\r\nX-Injected: yes\r\n\r\n<script>",
    "\0",
    f"{KNOWN[0]}\0.json",
    "\N{LINE SEPARATOR}\N{LEFT-TO-RIGHT OVERRIDE}",
    "<script>alert(1)</script>",
    "' OR 1=1 --",
    "%s%n{0.__class__}",
    f"{KNOWN[0][:-1]}\N{FULLWIDTH DIGIT ZERO}",
    "A" * 10_000,
]
VINS = st.one_of(st.sampled_from(KNOWN), st.sampled_from(EVIL), st.text(min_size=1))
"""Texts in the place of a VIN."""

SECRETS = ("Traceback", 'File "', "/served", "vin.db", *map(sysconfig.get_path, ("stdlib", "purelib")), "root:x:0")
"""What no stranger is to read: how something broke, and where files lie."""


def check_tells_nothing(head: str, body: bytes) -> None:
    """Hold the head and the body of an answer against `SECRETS`."""
    text = head + body.decode("utf-8", "replace")
    assert [secret for secret in SECRETS if secret in text] == []
