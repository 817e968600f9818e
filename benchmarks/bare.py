"""Datasette as it is, without the plugin, though that is installed: `python -m benchmarks.bare serve …`."""

from __future__ import annotations

import pluggy


class Without(pluggy.PluginManager):
    """Leaves the plugin out where all that are installed are taken."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.set_blocked("vin_datasette")


def leave_out() -> None:
    """Let Datasette, which must not be imported yet, be without the plugin."""
    pluggy.PluginManager = Without  # type: ignore[misc, assignment]


if __name__ == "__main__":
    leave_out()
    from datasette.cli import cli

    cli(prog_name="datasette")
