"""The table: who gets what at which door.

A row is a request. Its four groups tell what is answered where it comes from here, from elsewhere (another site,
host, port or nowhere), from a link elsewhere that a person follows, and under the name of a rebound host.
The three statuses of a group are those of who may not see the vehicles, of who may, and of who has the
permission of the row besides, if it names one. Behind a status stands what comes about: `a`, a source is asked;
`r`, a VIN is removed; `l`, a list is kept. Where nothing stands, nothing does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.doors.callers import Place

_ROWS = """
# method  path                              needs       here            elsewhere    link            rebound

GET       /-/vin/lookup/{hit}               -           403 200  200   403 200 200   403 200 200    403 200 200
GET       /-/vin/lookup/{stale}             vin-lookup  403 200  200a  403 200 200   403 200 200a   403 200 200
GET       /-/vin/lookup/{miss}              vin-lookup  403 403  200a  403 403 403   403 403 200a   403 403 403
GET       /-/vin/lookup/{rejected}          -           403 404  404   403 404 404   403 404 404    403 404 404
GET       /-/vin/lookup/{malformed}         -           403 404  404   403 404 404   403 404 404    403 404 404
HEAD      /-/vin/lookup/{hit}               -           403 200  200   403 200 200   403 200 200    403 200 200
HEAD      /-/vin/lookup/{stale}             vin-lookup  403 200  200a  403 200 200   403 200 200a   403 200 200
HEAD      /-/vin/lookup/{miss}              vin-lookup  403 403  200a  403 403 403   403 403 200a   403 403 403
HEAD      /-/vin/lookup/{rejected}          -           403 404  404   403 404 404   403 404 404    403 404 404

GET       /-/vin/lookup                     -           403 200  200   403 200 200   403 200 200    403 200 200
GET       /-/vin/lookup?vin={hit}           -           403 302  302   403 302 302   403 302 302    403 302 302
GET       /-/vin/lookup?vin={stale}         vin-lookup  403 302  302a  403 302 302   403 302 302a   403 302 302
GET       /-/vin/lookup?vin={miss}          vin-lookup  403 403  302a  403 403 403   403 403 302a   403 403 403
GET       /-/vin/lookup?vin={rejected}      -           403 404  404   403 404 404   403 404 404    403 404 404
HEAD      /-/vin/lookup                     -           403 200  200   403 200 200   403 200 200    403 200 200
HEAD      /-/vin/lookup?vin={miss}          vin-lookup  403 403  302a  403 403 403   403 403 302a   403 403 403

POST      /-/vin/lookup                     vin-lookup  403 200  200a  403 403 403   403 403 403    403 403 403

POST      /-/vin/remove/{hit}               vin-remove  403 403  200r  403 403 403   403 403 403    403 403 403
POST      /-/vin/remove/{miss}              vin-remove  403 403  200   403 403 403   403 403 403    403 403 403
FORM      /-/vin/remove/{hit}               vin-remove  403 403  303r  403 403 403   403 403 403    403 403 403
DELETE    /-/vin/remove/{hit}               vin-remove  403 403  200r  403 403 403   403 403 403    403 403 403

POST      /-/vin/refresh/{hit}              vin-lookup  403 403  200a  403 403 403   403 403 403    403 403 403
POST      /-/vin/refresh/{miss}             vin-lookup  403 403  200a  403 403 403   403 403 403    403 403 403
FORM      /-/vin/refresh/{hit}              vin-lookup  403 403  303a  403 403 403   403 403 403    403 403 403

POST      /-/vin/lists                      -           403 200l 200l  403 403 403   403 403 403    403 403 403

GET       /-/vin/export                     vin-export  403 403  200   403 403 200   403 403 200    403 403 200
HEAD      /-/vin/export                     vin-export  403 403  200   403 403 200   403 403 200    403 403 200

GET       /-/vin.json                       -           403 200  200   403 200 200   403 200 200    403 200 200
HEAD      /-/vin.json                       -           403 200  200   403 200 200   403 200 200    403 200 200
GET       /-/vin/metrics                    -           403 200  200   403 200 200   403 200 200    403 200 200
HEAD      /-/vin/metrics                    -           403 200  200   403 200 200   403 200 200    403 200 200
GET       /-/vin/live                       -           200 200  200   200 200 200   200 200 200    200 200 200
HEAD      /-/vin/live                       -           200 200  200   200 200 200   200 200 200    200 200 200
GET       /-/vin/ready                      -           200 200  200   200 200 200   200 200 200    200 200 200
HEAD      /-/vin/ready                      -           200 200  200   200 200 200   200 200 200    200 200 200
GET       /-/vin/openapi.json               -           200 200  200   200 200 200   200 200 200    200 200 200
HEAD      /-/vin/openapi.json               -           200 200  200   200 200 200   200 200 200    200 200 200

# Pages of Datasette that the plugin has a part in

GET       /vin/vehicles/{hit}               -           403 200  200   403 200 200   403 200 200    403 200 200
GET       /vin/vehicles/{stale}             -           403 200  200   403 200 200   403 200 200    403 200 200
GET       /vin/vehicles.charts?_sort=vin    -           403 200  200   403 200 200   403 200 200    403 200 200
GET       /vin/vehicles.parquet             -           403 200  200   403 200 200   403 200 200    403 200 200
GET       /vin/vehicles.json?_list={list}   -           403 200  200   403 200 200   403 200 200    403 200 200
GET       /vin/vehicles_fts.json            -           403 200  200   403 200 200   403 200 200    403 200 200
"""

_EFFECTS = {"a": "asked", "r": "cache", "l": "list"}
_PLACES: tuple[Place, ...] = ("here", "elsewhere", "link", "rebound")


@dataclass(frozen=True)
class Cell:
    """What is answered, and what comes about."""

    status: int
    effect: str | None


@dataclass(frozen=True)
class Row:
    """A request, and what each standing gets for it from each place."""

    method: str
    path: str
    needs: str | None
    cells: Mapping[Place, tuple[Cell, Cell, Cell]]

    @property
    def name(self) -> str:
        """The request in words."""
        return f"{self.method} {self.path}"

    @property
    def door(self) -> tuple[str, str]:
        """The door's path, and the method."""
        path, method = self.path.partition("?")[0], "POST" if self.method == "FORM" else self.method
        return "/".join("{vin}" if part.startswith("{") else part for part in path.split("/")), method

    @property
    def is_alike_from_everywhere(self) -> bool:
        """Whether it makes no difference where the request comes from."""
        return len(set(self.cells.values())) == 1

    def cell(self, place: Place, permissions: frozenset[str] | None) -> Cell:
        """The cell of a caller with these permissions; None for who may not see the vehicles."""
        standing = 0 if permissions is None else 2 if self.needs in permissions or self.needs is None else 1
        return self.cells[place][standing]


def _cell(text: str) -> Cell:
    return Cell(int(text[:3]), _EFFECTS[text[3]] if len(text) > 3 else None)


def _row(line: str) -> Row:
    method, path, needs, *statuses = line.split()
    cells = [_cell(text) for text in statuses]
    assert len(cells) == 3 * len(_PLACES), line
    groups = [(cells[start], cells[start + 1], cells[start + 2]) for start in range(0, len(cells), 3)]
    return Row(method, path, None if needs == "-" else needs, dict(zip(_PLACES, groups, strict=True)))


TABLE = [_row(line) for line in _ROWS.splitlines() if line and not line.startswith("#")]
