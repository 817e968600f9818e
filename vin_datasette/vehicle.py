"""What one vPIC record means: a vehicle, or a rejection with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vin_datasette.attributes import ATTRIBUTES, MODEL_YEAR, Value
from vin_datasette.vin import VIN, InvalidVIN

if TYPE_CHECKING:
    from vin_datasette.record import Record

CheckDigitRule = Literal["strict", "lenient"]
"""Whether a failing check digit alone rejects a VIN (`strict`) or only warns."""

REJECTING_CODES = frozenset({1, 2, 3, 4, 5, 6, 7, 11, 400})
"""vPIC's error codes after which its record is no answer about this VIN: wrong check
digit, corrected or corrupt characters, incomplete VIN, unregistered manufacturer,
invalid model year, invalid characters. All others (0, 8, 9, 10, 12, 14) inform."""

CHECK_DIGIT_CODE = 1
MODEL_YEAR_MISMATCH_CODE = 12
CLEAN_CODE = 0


NO_MAKE = "vPIC names no make for this VIN."
"""The reason of a rejection whose codes do not reject, before what vPIC said."""


@dataclass(frozen=True)
class Vehicle:
    """A record that identifies a vehicle.

    The contract's four attributes are properties; `columns()` has all typed ones,
    and `record` the whole answer under vPIC's own keys: `vehicle["EngineHP"]`.
    """

    record: Record

    @property
    def vin(self) -> str:
        """The VIN, 17 characters."""
        return self.record.vin

    @property
    def make(self) -> str:
        """The make, such as `PETERBILT`; never empty."""
        return self.record.text("Make")

    @property
    def model(self) -> str:
        """The model, such as `379`; "" where vPIC has none."""
        return self.record.text("Model")

    @property
    def model_year(self) -> int | None:
        """The model year (49 CFR 565.12), or None where vPIC has none."""
        year = MODEL_YEAR.read(self.record)
        return year if isinstance(year, int) else None

    @property
    def body_class(self) -> str:
        """The body class, such as `Truck-Tractor`; "" where vPIC has none."""
        return self.record.text("BodyClass")

    @property
    def name(self) -> str:
        """Model year, make and model, as far as vPIC has them: `1999 PETERBILT 379`."""
        return " ".join(part for part in (self["ModelYear"], self.make, self.model) if part)

    @property
    def source(self) -> str:
        """Who answered: `vpic` or `embedded`."""
        return self.record.source

    @property
    def warnings(self) -> tuple[str, ...]:
        """What vPIC remarks about an answer that stands, in its words."""
        remarks = [] if self.record.error_codes == (CLEAN_CODE,) else [error_text(self.record)]
        remarks.append(self.record.text("AdditionalErrorText"))
        return (*(remark for remark in remarks if remark), *self.record.notes)

    # Python would otherwise go through it by __getitem__ with 0, 1, 2 …, and never end.
    __iter__ = None

    def __getitem__(self, key: str) -> str:
        """The value under a flat vPIC key, "" when it is absent."""
        return self.record.text(key)

    def six_fields(self, *, cached: bool) -> dict[str, str | bool]:
        """The contract's answer at every door: six fields in their order, strings but
        for the last; "" for what vPIC leaves out."""
        return {
            "Input VIN Requested": str(self.vin),
            "Make": self.make,
            "Model": self.model,
            "Model Year": self["ModelYear"],
            "Body Class": self.body_class,
            "Cached Result?": cached,
        }

    def __repr__(self) -> str:
        return f"<Vehicle {self.vin}: {self.name} ({self.source})>"

    def _repr_html_(self) -> str:
        from vin_datasette.notebook.html import vehicle

        return vehicle(self)

    def columns(self) -> dict[str, Value]:
        """The typed attributes by column name, in the order of the table."""
        return {attribute.column: attribute.read(self.record) for attribute in ATTRIBUTES}


@dataclass(frozen=True)
class Rejection:
    """A VIN for which there is no vehicle, and why.

    `vin` is as given, cut to a readable length when it is no VIN; `codes` are vPIC's, none when
    the VIN was malformed and nobody was asked; `suggested_vin` may hold `!` at
    positions that vPIC doubts.
    """

    vin: str
    reason: str
    codes: tuple[int, ...] = ()
    suggested_vin: str | None = None
    record: Record | None = None

    @property
    def likely_vin(self) -> VIN | None:
        """The suggested VIN where it is a whole one, which can be looked up instead."""
        try:
            return VIN(self.suggested_vin) if self.suggested_vin else None
        except InvalidVIN:
            return None

    @classmethod
    def malformed(cls, text: str, error: InvalidVIN) -> Rejection:
        """The rejection of text that breaks a rule of ISO 3779."""
        shown = text if len(text) <= _SHOWN_AT_MOST else f"{text[:_SHOWN_AT_MOST]}…"
        return cls(shown, error.reason, suggested_vin=error.suggested)


_SHOWN_AT_MOST = 40


def interpret(record: Record, check_digit: CheckDigitRule = "strict") -> Vehicle | Rejection:
    """What a record means.

    It is a vehicle when vPIC names a make and none of its codes rejects; with
    `check_digit="lenient"` code 1 alone does not. The reason of a rejection is
    vPIC's own `ErrorText` and `AdditionalErrorText`.
    """
    codes = record.error_codes
    rejecting = REJECTING_CODES.intersection(codes)
    if check_digit == "lenient":
        rejecting -= {CHECK_DIGIT_CODE}
    if record.text("Make") and not rejecting:
        return Vehicle(record)
    texts = [text for text in (error_text(record), record.text("AdditionalErrorText")) if text]
    # vPIC's texts end now with a full stop, now without.
    said = ". ".join([text.rstrip(".") for text in texts[:-1]] + texts[-1:])
    reason = said if rejecting else f"{NO_MAKE} {said}".strip()
    return Rejection(record.vin, reason, codes, record.text("SuggestedVIN") or None, record)


def doubts_year(record: Record) -> bool:
    """Whether vPIC says that the model year it was asked with is not the VIN's: a wrong year can
    destroy the answer, and the VIN is better asked again without."""
    return MODEL_YEAR_MISMATCH_CODE in record.error_codes


def year_note(model_year: int, record: Record) -> str:
    """What is noted on an answer without a model year, after one with it, `record`, that doubts it."""
    return f"Asked with model year {model_year}, vPIC said: {error_text(record)}"


def error_text(record: Record) -> str:
    """vPIC's words for its codes: `ErrorText`, or `ErrorCode` itself in records of 2018."""
    return record.text("ErrorText") or record.text("ErrorCode")
