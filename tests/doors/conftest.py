"""Instances of these tests are made once for many of them, before any test's own environment is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.conftest import clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", autouse=True)
def clean_variables() -> Iterator[None]:
    """Keep settings of whoever runs the tests out of the instances."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - clean_environment().keys():
            patch.delenv(name)
        yield
