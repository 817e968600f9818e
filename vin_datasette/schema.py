"""The names of the cache's tables and of the steps that made them."""

VEHICLES = "vehicles"
REJECTIONS = "rejections"

MIGRATION_SET = "vin_datasette"

MIGRATION_NAMES = ("m001_vehicles_and_rejections",)
"""The steps of `migrations.py` in their order; known without importing them, so that
opening an up-to-date cache costs little."""
