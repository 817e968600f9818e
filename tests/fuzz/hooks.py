"""What Schemathesis is told of these doors, beside their description. It runs in a process of its own: it takes
parts of Hypothesis out, and no test beside it could say any more which example failed."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import schemathesis
from hypothesis import strategies as st

from tests.fuzz.strangers import VINS, check_tells_nothing


@schemathesis.hook
def before_generate_path_parameters(_: schemathesis.HookContext, strategy: Any) -> Any:
    """Made-up text is never the VIN of a vehicle."""
    return st.one_of(strategy, st.fixed_dictionaries({"vin": VINS.map(lambda vin: quote(vin, safe=""))}))


@schemathesis.check
def tells_nothing(_: Any, response: schemathesis.Response, __: Any) -> None:
    """No answer tells how something broke, or where files lie."""
    check_tells_nothing(str(response.headers), response.content)
