"""Whoever can be asked: vPIC, and the embedded database when vPIC is away and may be stood in for."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from vin_datasette.breaker import Breaker
from vin_datasette.sources import Question, SourceError
from vin_datasette.tally import Tally
from vin_datasette.trouble import Trouble
from vin_datasette.vehicle import doubts_year, year_note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vin_datasette.record import Record
    from vin_datasette.settings import Settings
    from vin_datasette.sources import Source
    from vin_datasette.sources.vpic import VpicSource

log = logging.getLogger(__name__)

EMBEDDED_BATCH = 1000
"""VINs that the embedded database decodes at once: enough for all cores, and for few transactions."""

ATTEMPTS_OF_A_HALF = 2
"""How often a part of a batch is tried that failed as a whole, however often that was tried."""

_LOOKING_AGAIN = 0.2
"""Seconds after which to look again whether somebody else's try has brought vPIC back."""


class WithStandIn:
    """The sources of one lookup, by its settings: which is asked, when it is left alone,
    who answers in its place, and what is done about a batch that it cannot take.

    Use on one event loop.
    """

    def __init__(self, settings: Settings, tally: Tally | None = None) -> None:
        self._settings = settings
        self._tally = tally or Tally()
        self._vpic: VpicSource | None = None
        self._embedded: Source | None = None
        self.breaker = Breaker()
        # Questions that vPIC failed at one after another, each asked alone.
        self._choked = 0
        # When the latest question was asked that vPIC has answered.
        self._answered_at = 0.0
        self.nonsense = Trouble(log, logging.WARNING, lambda _: "vPIC answers as it should again")
        """That vPIC is there, and what it says cannot be used."""
        self.patience = 0.0
        """Seconds that questions wait for vPIC to come back where nobody can stand in."""

    @property
    def batch_size(self) -> int:
        """Questions to ask at once, as things stand."""
        away = self._settings.source == "auto" and self.breaker.pause > 0
        return EMBEDDED_BATCH if self._settings.source == "embedded" or away else self._settings.batch_size

    async def aclose(self) -> None:
        """Close connections."""
        for source in (self._vpic, self._embedded):
            if source:
                await source.aclose()

    async def records(self, questions: Sequence[Question], *, stand_in: bool = True) -> list[Record | SourceError]:
        """A record for each question, or why there is none for this one.

        Without `stand_in` vPIC answers or nobody. Raises `SourceError` when there is none
        for any of them.
        """
        records = await self._asked(questions, stand_in)
        doubtful = [
            index
            for index, (question, record) in enumerate(zip(questions, records, strict=True))
            if question.model_year and not isinstance(record, SourceError) and doubts_year(record)
        ]
        if doubtful:
            again: list[Record | SourceError]
            try:
                again = await self._asked([Question(questions[index].vin) for index in doubtful], stand_in)
            except SourceError as error:
                # The others have their answers.
                again = [error] * len(doubtful)
            for index, second in zip(doubtful, again, strict=True):
                first = records[index]
                year = questions[index].model_year
                if not year or isinstance(first, SourceError) or isinstance(second, SourceError):
                    records[index] = second
                    continue
                records[index] = replace(second, notes=(year_note(year, first),))
        return records

    async def _asked(self, questions: Sequence[Question], stand_in: bool) -> list[Record | SourceError]:
        if self._settings.source == "embedded":
            return [*await self._from_embedded(questions)]
        answers: list[Record | SourceError] = []
        size = self._settings.batch_size
        for start in range(0, len(questions), size):
            part = questions[start : start + size]
            if stand_in and self._settings.source == "auto":
                answers += await self._stood_in_for(part)
            elif stand_in and self.patience:
                answers += await self._waited_for(part)
            else:
                answers += await self._from_vpic(part)
        return answers

    async def _stood_in_for(self, questions: Sequence[Question]) -> list[Record | SourceError]:
        try:
            answers = await self._from_vpic(questions)
        except SourceError:
            return [*await self._from_embedded(questions)]
        except Exception:
            # A defect of ours, and no reason to leave anybody without an answer.
            log.exception("Asking vPIC failed; the embedded database answers for %d VINs", len(questions))
            return [*await self._from_embedded(questions)]
        failed = [index for index, answer in enumerate(answers) if isinstance(answer, SourceError)]
        for index, record in zip(
            failed, await self._from_embedded([questions[index] for index in failed]), strict=True
        ):
            if len(failed) < len(questions):
                log.warning("%s: %s; the embedded database answers", questions[index].vin, answers[index])
            answers[index] = record
        return answers

    async def _waited_for(self, questions: Sequence[Question]) -> list[Record | SourceError]:
        """vPIC's answers, when need be after it has come back."""
        loop = asyncio.get_running_loop()
        gives_up = loop.time() + self.patience
        tries = 0
        while True:
            tries += 1
            try:
                return await self._from_vpic(questions)
            except SourceError as error:
                # The breaker is told of those who asked; who was refused waits with the others.
                if not (error.unreachable or not error.asked) or loop.time() >= gives_up:
                    raise
                if error.answered and len(questions) == 1 and tries > 1:
                    raise
            # Not as long as the breaker says: somebody else's try may bring vPIC back at any time.
            pause = min(_LOOKING_AGAIN, max(gives_up - loop.time(), 0))
            await asyncio.sleep(pause)

    async def _from_vpic(self, questions: Sequence[Question]) -> list[Record | SourceError]:
        """vPIC's answers; where a batch cannot be answered as a whole it is halved until
        what it cannot answer is alone."""
        if self._vpic is None:
            # With its client and the authorities that it trusts this takes a tenth of a second, for
            # which what else is on the event loop is not to wait.
            made = await asyncio.to_thread(_vpic_source, self._settings, self._tally)
            self._vpic = self._vpic or made
        if not self.breaker.admits():
            pause = self.breaker.pause
            raise SourceError(
                f"vPIC was away when last asked, and will be asked again in {pause:.0f} seconds",
                unreachable=True,
                retry_after=pause,
                asked=False,
            )
        began = asyncio.get_running_loop().time()
        try:
            answers = await _Halving(self._vpic, questions).answers(questions)
        except SourceError as error:
            self._told(error, questions, began=began)
            raise
        except BaseException:
            self.breaker.abandoned()
            raise
        failures = [answer for answer in answers if isinstance(answer, SourceError)]
        if len(failures) == len(questions):
            # Too few of them to be taken for everybody's; that vPIC answers cannot be told from them either.
            for question, failure in zip(questions, failures, strict=True):
                self._told(failure, [question], began=began)
            return answers
        self._choked, self._answered_at = 0, began
        self.nonsense.passed()
        if self.breaker.succeeded():
            log.warning("vPIC is back")
        return answers

    def _told(self, error: SourceError, questions: Sequence[Question], *, began: float) -> None:
        """Keep account of a failure of vPIC, and say it once."""
        alone = len(questions) == 1
        stand_in = "; the embedded database answers" if self._settings.source == "auto" else ""
        # Who was asked later and has answered is not away.
        there = self._answered_at > began
        self._choked = self._choked + 1 if alone and error.answered else 0
        of_one_vin = 0 < self._choked < _DOUBTED and self.breaker.state == "closed"
        if not error.asked:
            self.breaker.abandoned()
        elif there or of_one_vin or not error.unreachable:
            # It is there, and a VIN that it chokes on must not shut it off for others.
            self.breaker.succeeded()
            if not error.unreachable:
                self.nonsense.met(_whichever(error.reason, questions), f"{error}{stand_in}")
        elif self.breaker.failed(error.retry_after):
            log.warning("%s%s. vPIC is asked again in %.0f seconds", error, stand_in, self.breaker.pause)
        if error.unreachable:
            # Nobody will be let through earlier.
            error.retry_after = self.breaker.pause

    async def _from_embedded(self, questions: Sequence[Question]) -> list[Record]:
        if not questions:
            return []
        if self._embedded is None:
            from vin_datasette.sources.embedded import EmbeddedSource

            self._embedded = EmbeddedSource()
        return await self._embedded.decode(questions)


def _vpic_source(settings: Settings, tally: Tally) -> VpicSource:
    # httpx would import it with the first call, and anyio with it.
    import httpcore  # noqa: F401

    from vin_datasette.sources.vpic import VpicSource

    return VpicSource(settings, tally)


def _whichever(reason: str, questions: Sequence[Question]) -> str:
    """A reason that is the same whichever VIN it is about, and however many were asked about."""
    for question in questions:
        reason = reason.replace(question.vin, "…")
    return re.sub(r"\d[\d,]*", "…", reason)


_DOUBTED, _BELIEVED = 3, 10
"""Single questions that fail one after another until vPIC may be failing for everybody, and
until it is taken to, whatever it has answered before."""


class _Halving:
    """Asks a batch, and its halves when it fails although vPIC answers something, so that
    VINs that vPIC cannot take cost no other its answer."""

    def __init__(self, source: VpicSource, batch: Sequence[Question]) -> None:
        self._source = source
        self._batch = batch
        self._failed_alone = 0
        self._trusted = False

    async def answers(self, questions: Sequence[Question], attempts: int | None = None) -> list[Record | SourceError]:
        """A record for each question, or its own error. Raises `SourceError` for all of them."""
        try:
            records = await self._source.decode(questions, attempts=attempts)
        except SourceError as error:
            if not error.answered:
                raise
            if len(questions) == 1:
                return [await self._alone(error, is_part=attempts is not None)]
        else:
            self._failed_alone, self._trusted = 0, True
            return [*records]
        middle = len(questions) // 2
        parts = [questions[:middle], questions[middle:]]
        return [answer for part in parts for answer in await self.answers(part, ATTEMPTS_OF_A_HALF)]

    async def _alone(self, error: SourceError, *, is_part: bool) -> SourceError:
        """The error of one question, unless it is taken for everybody's: then it is raised."""
        self._failed_alone += 1
        if not is_part or self._failed_alone >= _BELIEVED:
            raise error
        if self._failed_alone >= _DOUBTED and not self._trusted:
            # VINs alike stand side by side, and fail together; the far end tells whether others do.
            await self._source.decode(self._batch[-1:], attempts=ATTEMPTS_OF_A_HALF)
            self._trusted = True
        return error
