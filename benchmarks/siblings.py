"""Siblings: how often the answer for one VIN would be wrong for another of the same descriptor.

    python -m benchmarks.siblings                    # 1,000,000 VINs
    python -m benchmarks.siblings --vins 20000 --seed 7

Families of VINs that differ in nothing but the serial number (and the check digit that follows
from it) are decoded by the embedded source, and every answer is held against that of the
family's first member that vPIC calls clean. Families come from two samples: `drawn` takes all
manufacturers alike; `aimed` takes those for which vPIC has a rule on the serial number, with the
serial numbers of those rules, so that its share is far above that of any fleet.
"""

from __future__ import annotations

import argparse
import random
import re
import string
import textwrap
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import ultravin

from vin_datasette.siblings import REFUSED_WMIS, family
from vin_datasette.sources import Question
from vin_datasette.sources.embedded import EmbeddedSource
from vin_datasette.vehicle import CLEAN_CODE
from vin_datasette.vin import VIN, check_digit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vin_datasette.record import Record

VINS = 1_000_000
AIMED_SHARE = 0.25
"""The share of all VINs that goes to manufacturers with a rule on the serial number."""

AT_ONCE = 150
"""Families decoded at once: some 2,000 answers, of which each takes tens of kB on its way."""

OF_THE_VIN_ITSELF = frozenset({"VIN", "ErrorCode", "ErrorText", "SuggestedVIN", "PossibleValues"})
"""Keys about the VIN and not the vehicle; an answer that is not clean counts apart."""

REMARK = "AdditionalErrorText"
"""In a clean answer a remark on the vehicle, else one on the error."""

DIGITS, LETTER_12, LETTER_13, LETTER_LATER = "digits only", "letter at 12", "letter at 13", "letter at 14 to 17"
SHAPES = (DIGITS, LETTER_12, LETTER_13, LETTER_LATER)
LETTERS = sorted(set(string.ascii_uppercase) - set("IOQ"))


class Family(NamedTuple):
    """VINs of one descriptor, and the sample that it belongs to."""

    sample: str
    vins: list[VIN]


@dataclass
class Tally:
    """What was counted of some VINs, each of which has a clean sibling."""

    vins: int = 0
    differ: int = 0
    unclean: int = 0
    either: int = 0

    def add(self, *, differs: bool, unclean: bool) -> None:
        """Count one VIN."""
        self.vins += 1
        self.differ += differs
        self.unclean += unclean
        self.either += differs or unclean

    def row(self, name: str) -> str:
        """A line of a table."""
        share = self.either / self.vins if self.vins else 0
        return f"{name:<34}{self.vins:>11,}{self.differ:>9,}{self.unclean:>11,}{share:>12.5%}"


@dataclass
class Findings:
    """All that a run counts; nothing in it grows with the number of VINs."""

    vins: int = 0
    families: int = 0
    unanswered: int = 0
    makers: set[str] = field(default_factory=set)
    shapes: dict[tuple[str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    wmis: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    wmi_fields: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    names: dict[str, str] = field(default_factory=dict)
    fields: Counter[str] = field(default_factory=Counter)
    codes: dict[str, Counter[tuple[int, ...]]] = field(default_factory=lambda: defaultdict(Counter))
    allowed: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))

    def count(self, sample: str, records: Sequence[Record]) -> None:
        """Count one family."""
        self.families += 1
        self.vins += len(records)
        first = next((record for record in records if clean(record)), None)
        if first is None:
            self.unanswered += len(records)
            return
        self.makers.add(first.vin.wmi)
        for record in records:
            if record is not first:
                self._compare(sample, first, record)

    def _compare(self, sample: str, first: Record, record: Record) -> None:
        vin, shape = record.vin, shape_of(record.vin)
        unclean, differing = not clean(record), differing_keys(first, record)
        self.shapes[sample, shape].add(differs=bool(differing), unclean=unclean)
        if unclean:
            self.codes[shape][record.error_codes] += 1
        if family(vin) is not None:
            self.allowed[sample].add(differs=bool(differing), unclean=unclean)
        if shape in {DIGITS, LETTER_12}:
            self.wmis[vin.wmi].add(differs=bool(differing), unclean=unclean)
            self.fields.update(differing)
            if differing or unclean:
                self.wmi_fields[vin.wmi].update(differing)
                self.names[vin.wmi] = first.text("Manufacturer")

    @property
    def differing_wmis(self) -> set[str]:
        """Manufacturers with a VIN that its sibling would answer for wrongly."""
        return {wmi for wmi, tally in self.wmis.items() if tally.either}


def clean(record: Record) -> bool:
    """Whether vPIC has nothing to object to, so that a sibling may take the answer."""
    return record.error_codes == (CLEAN_CODE,)


def differing_keys(first: Record, record: Record) -> set[str]:
    """The keys under which two answers say different things of the vehicle."""
    if first.values.keys() == record.values.keys() and clean(record):
        keys = {key for key, value in first.values.items() if record.values[key] != value}
    else:
        keys = {key for key in first.values.keys() | record.values.keys() if first.text(key) != record.text(key)}
    return keys - OF_THE_VIN_ITSELF - (set() if clean(record) else {REMARK})


def shape_of(vin: VIN) -> str:
    """Where a serial number holds its last letter. A low-volume manufacturer's has positions 15 to 17 alone."""
    if not vin[14 if vin.low_volume else 13 :].isdigit():
        return LETTER_LATER
    if vin.low_volume:
        return DIGITS
    return DIGITS if vin.serial.isdigit() else LETTER_12 if vin[12].isdigit() else LETTER_13


def with_serial(vin: VIN, serial: str) -> VIN:
    """The sibling of a VIN that has this serial number, with the check digit that it then has."""
    bare = vin[: 17 - len(serial)] + serial
    return VIN(f"{bare[:8]}{check_digit(bare)}{bare[9:]}")


def members(vin: VIN, starts: Sequence[str], chance: random.Random) -> list[VIN]:
    """The VIN and siblings over the whole range of serial numbers: the lowest and the highest,
    one for each first digit, some with letters, and some that begin like `starts`."""
    length = len(vin.serial)

    def ended(start: str) -> str:
        return start + "".join(chance.choices(string.digits, k=length - len(start)))

    serials = ["1".zfill(length), "9" * length, *(ended(digit) for digit in string.digits)]
    letter = chance.choice(LETTERS)
    if not vin.low_volume:
        serials += [ended(letter), ended(chance.choice(LETTERS)), ended(chance.choice(LETTERS) + letter)]
    serials.append(ended("0")[:-1] + letter)
    serials += [ended(start) for start in chance.sample(starts, min(len(starts), 6))]
    return list(dict.fromkeys([with_serial(vin, vin.serial), *(with_serial(vin, serial) for serial in serials)]))


def starts_ruled_on(vins: int, seed: int) -> dict[str, list[str]]:
    """By manufacturer, how serial numbers begin on which vPIC has a rule.

    A sweep has one VIN for every rule, filled up with `1`, so that other characters within the
    serial number are the rule's. But manufacturers share rules by schema, of which the sweep names
    one; and a rule that asks for a `1` shows only in the pattern, which a decoded answer names. So
    as many VINs of the sweep and of every model year are decoded as are measured at most, and all
    manufacturers count that are seen to use a schema with such a rule.
    """
    found: dict[str, set[str]] = defaultdict(set)
    ruled: dict[int, set[str]] = defaultdict(set)
    schemas: dict[str, set[int]] = defaultdict(set)
    sweep = [VIN(text) for text in ultravin.sweep(["pattern"])]
    for vin in sweep:
        if vin.serial.strip("1"):
            found[vin.wmi].add(vin.serial[:3].rstrip("1"))
    for vin, elements in decoded([*sweep[:: max(1, len(sweep) // vins)], *of_all_years(vins // 100, seed)]):
        first = 15 if vin.low_volume else 12
        for element in elements:
            # The schemas of vehicle specifications are others, with numbers of their own.
            if element["pattern_id"] is None or "attern" not in element["source"]:
                continue
            schemas[vin.wmi].add(element["vin_schema_id"])
            if reaches_serial(element["keys"] or "", first):
                ruled[element["vin_schema_id"]].add(vin.serial[:3])
    for wmi, used in schemas.items():
        for schema in used & ruled.keys():
            found[wmi] |= ruled[schema]
    return {wmi: sorted(starts) for wmi, starts in found.items()}


def of_all_years(each: int, seed: int) -> Iterator[str]:
    """`each` VINs of every model year, of all manufacturers that it has alike."""
    for year in range(1981, date.today().year + 2):
        yield from ultravin.generate(each, seed=seed * 10_000 + year, year=year, invalid_rate=0)


def decoded(texts: Iterable[str]) -> Iterator[tuple[VIN, list[dict[str, Any]]]]:
    """VINs, each with the elements of its answer and the patterns that gave them."""
    rest = iter(texts)
    while chunk := [str(text) for text in islice(rest, 2000)]:
        for text, answer in zip(chunk, ultravin.decode_batch(chunk, full=True), strict=True):
            yield VIN(text), answer["elements"]


@cache
def reaches_serial(keys: str, first: int) -> bool:
    """Whether a pattern (`*4***|**[0-9]`: positions 4 to 8, then from 10 on) asks for something at
    position `first` or later."""
    after = keys.partition("|")[2]
    return len(after) > first - 10 and bool(re.sub(r"\[[^\]]*\]", "?", after)[first - 10 :].strip("*"))


def families(vins: int, seed: int, ruled: dict[str, list[str]]) -> Iterator[Family]:
    """Families of about `vins` VINs in all, no descriptor twice."""
    chance = random.Random(seed)
    seen: set[str] = set()
    for sample, share, texts in (
        ("aimed", AIMED_SHARE, aimed(vins, seed, ruled)),
        ("drawn", 1.0, drawn(vins, seed)),
    ):
        most = vins * share
        for text in texts:
            vin = VIN(text)
            if vin.descriptor in seen:
                continue
            seen.add(vin.descriptor)
            group = members(vin, ruled.get(vin.wmi, []), chance)
            chance.shuffle(group)
            vins -= len(group)
            most -= len(group)
            yield Family(sample, group)
            if most <= 0 or vins <= 0:
                break


def aimed(vins: int, seed: int, ruled: dict[str, list[str]]) -> Iterator[str]:
    """VINs of the manufacturers of `ruled`, in turn, at most as many families for each as there is room for."""
    each = max(1, int(vins * AIMED_SHARE / 15 / max(1, len(ruled))))
    by_wmi = [ultravin.generate(each, seed=seed, wmi=wmi, invalid_rate=0) for wmi in sorted(ruled)]
    for turn in range(each):
        yield from (texts[turn] for texts in by_wmi if turn < len(texts))


def drawn(vins: int, seed: int) -> Iterator[str]:
    """VINs of all manufacturers alike, without end: `generate` draws a manufacturer first."""
    while True:
        seed += 1
        yield from ultravin.generate(max(10, min(100_000, vins // 10)), seed=seed, invalid_rate=0)


def measure(found: Iterable[Family]) -> Findings:
    """Decode family by family and count."""
    source, findings, rest = EmbeddedSource(), Findings(), iter(found)
    while chunk := list(islice(rest, AT_ONCE)):
        records = iter(source.decode_now([Question(vin) for one in chunk for vin in one.vins]))
        for one in chunk:
            findings.count(one.sample, list(islice(records, len(one.vins))))
    return findings


def report(findings: Findings, ruled: Iterable[str]) -> None:
    """Print everything."""
    print(
        f"{findings.vins:,} VINs in {findings.families:,} families; {len(findings.makers):,} manufacturers "
        f"with a clean answer; {findings.unanswered:,} VINs of families without one"
    )
    head = f"{'VINs':>11}{'differ':>9}{'not clean':>11}{'share':>12}"
    print(f"\n{'sample, serial number':<34}{head}")
    for (sample, shape), tally in sorted(findings.shapes.items()):
        print(tally.row(f"{sample}, {shape}"))
    print(f"\n{'that siblings.family() lets through':<34}{head[1:]}")
    for sample, tally in sorted(findings.allowed.items()):
        print(tally.row(sample))

    print("\nError codes of VINs that are not clean though their sibling is")
    for shape in SHAPES:
        for codes, vins in findings.codes[shape].most_common():
            print(f"{shape:<34}{','.join(map(str, codes)):<16}{vins:>11,}")

    print(f"\nBy manufacturer (serial numbers of digits, or with a letter at 12)\n{'WMI':<34}{head}  fields")
    for wmi in sorted(findings.differing_wmis, key=lambda wmi: (-findings.wmis[wmi].either, wmi)):
        most = ", ".join(key for key, _ in findings.wmi_fields[wmi].most_common(6))
        print(findings.wmis[wmi].row(f"{wmi:<7}{findings.names[wmi][:26]}") + f"  {most}")

    print(f"\nBy field (the same VINs)\n{'flat key':<34}{'VINs':>11}")
    for key, vins in findings.fields.most_common():
        print(f"{key:<34}{vins:>11,}")

    differing, ruled = findings.differing_wmis, set(ruled)
    refused = differing | ruled
    print(f"\n{len(refused)} WMIs to refuse: {len(differing)} that differ; with a rule on the serial number, but")
    print(f"without a difference: {' '.join(sorted(ruled - differing)) or 'none'}")
    print(textwrap.fill(" ".join(sorted(refused)), 110))
    print(f"missing from siblings.REFUSED_WMIS: {' '.join(sorted(refused - REFUSED_WMIS)) or 'none'}")
    print(f"in siblings.REFUSED_WMIS alone: {' '.join(sorted(REFUSED_WMIS - refused)) or 'none'}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vins", type=int, default=VINS)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    ruled = starts_ruled_on(options.vins, options.seed)
    findings = measure(families(options.vins, options.seed, ruled))
    month, seconds = ultravin.provenance()["data_month"], time.perf_counter() - began
    print(f"ultravin {ultravin.__version__}, data of {month}, seed {options.seed}, {seconds:,.0f} s")
    report(findings, ruled)


if __name__ == "__main__":
    main()
