"""The names of the cache's tables and of the steps that made them."""

VEHICLES = "vehicles"
REJECTIONS = "rejections"
CHANGES = "changes"

MIGRATION_SET = "vin_datasette"

MIGRATION_NAMES = ("m001_vehicles_and_rejections", "m002_changes_and_siblings", "m003_charts_and_analyses")
"""The steps of `migrations.py` in their order; known without importing them, so that
opening an up-to-date cache costs little."""

USABLE_SINCE = "m001_vehicles_and_rejections"
"""The oldest step whose version of this package can still use a file of today's last step:
see `migrations`, whose authors see to it that this is true."""

USABLE_SINCE_SET = "vin_datasette.usable_since"
"""What the above stands under in a file: a row beside the steps that made it. Not SQLite's
`user_version`, of which a file has but one, and which may be another's who keeps tables there."""

FRESHNESS_INDEX = "idx_vehicles_vin_fetched_at_source_error_code"
"""Holds all that tells whether a vehicle is to be asked about again: a fleet is checked without reading its rows."""

CHARTED = ("make", "model_year", "body_class", "fuel_type", "plant_country")
"""The columns of which charts are drawn, in the order of their index."""

CHARTS_INDEX = "idx_vehicles_charts"
"""Holds all charted columns: a fleet is counted by any of them without reading its rows."""

SERIALS_INDEX = "idx_vehicles_serials"
"""Holds the VINs by serial number and maker."""
