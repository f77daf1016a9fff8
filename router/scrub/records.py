"""Where in a record what people write can lie, and the record without what must not be kept of it.

Every field that is a text is named here, or in `tests/scrub/test_records.py` as one that holds nothing of a client's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from msgspec.structs import replace

from policies.base import Chunk, RequestFeatures
from policies.record import AnyRecord, DecisionRecord, FeedbackRecord, ShadowRecord
from router.scrub.findings import Engine
from router.scrub.json_text import JsonText, Part, part_of
from router.scrub.placeholders import Sheet

Rebuilt = Callable[[], AnyRecord]


def scrubbed(record: AnyRecord, engine: Engine) -> tuple[AnyRecord, Counter[str]]:
    """The record with placeholders, and how many of each kind; the very same record where nothing was found.

    Token ids would give away what was replaced, and no longer belong to the text: they go.

    Raises:
        TooMuchWork, and what the engine raises.
    """
    sheet = Sheet()
    match record:
        case DecisionRecord():
            rebuilt = _decision(record, sheet)
        case FeedbackRecord():
            rebuilt = _feedback(record, sheet)
        case ShadowRecord():
            rebuilt = _shadow(record, sheet)
    counts = sheet.scrub(engine)
    return (rebuilt(), counts) if counts else (record, counts)


def without_texts(record: DecisionRecord | ShadowRecord) -> DecisionRecord | ShadowRecord:
    """What is left when the texts could not be scrubbed: nothing that a client wrote."""
    if isinstance(record, ShadowRecord):
        return replace(record, completion=None, session=None, tags={})
    features, draft = record.features, record.draft
    if features is not None:
        chunks = tuple(Chunk(text="", score=chunk.score, id=None) for chunk in features.chunks)
        features = replace(features, last_user_turn="", chunks=chunks, session=None, tags={})
    return replace(
        record,
        requested_model="",
        features=features,
        session=None,
        tags={},
        capture="metadata",
        request=None,
        completion=None,
        token_ids=None,
        draft=None if draft is None else replace(draft, text=None),
    )


def _decision(record: DecisionRecord, sheet: Sheet) -> Rebuilt:
    request = None if record.request is None else JsonText(record.request, sheet)
    features = None if record.features is None else _features(record.features, sheet)
    draft = None if record.draft is None else _optional(record.draft.text, sheet)
    completion = _optional(record.completion, sheet)
    requested_model, tags = part_of(record.requested_model, sheet), Tags(record.tags, sheet)
    session = Session(record.session, sheet)

    def rebuilt() -> DecisionRecord:
        return replace(
            record,
            request=None if request is None else str(request),
            features=None if features is None else features(),
            draft=None if record.draft is None else replace(record.draft, text=_value(draft)),
            completion=_value(completion),
            requested_model=str(requested_model),
            tags=tags.value(),
            session=session.value(),
            token_ids=None,
        )

    return rebuilt


def _features(features: RequestFeatures, sheet: Sheet) -> Callable[[], RequestFeatures]:
    last_user_turn = part_of(features.last_user_turn, sheet)
    chunks = [(part_of(chunk.text, sheet), chunk.score, _optional(chunk.id, sheet)) for chunk in features.chunks]
    tags, session = Tags(features.tags, sheet), Session(features.session, sheet)

    def rebuilt() -> RequestFeatures:
        return replace(
            features,
            last_user_turn=str(last_user_turn),
            chunks=tuple(Chunk(text=str(text), score=score, id=_value(identity)) for text, score, identity in chunks),
            tags=tags.value(),
            session=session.value(),
        )

    return rebuilt


def _feedback(record: FeedbackRecord, sheet: Sheet) -> Rebuilt:
    label, correction = _optional(record.label, sheet), _optional(record.correction, sheet)
    return lambda: replace(record, label=_value(label), correction=_value(correction))


def _shadow(record: ShadowRecord, sheet: Sheet) -> Rebuilt:
    completion, tags = _optional(record.completion, sheet), Tags(record.tags, sheet)
    session = Session(record.session, sheet)
    return lambda: replace(record, completion=_value(completion), tags=tags.value(), session=session.value())


class Tags:
    """Tags keep what they tell apart from each other: two addresses are two placeholders."""

    def __init__(self, tags: dict[str, str], sheet: Sheet) -> None:
        self._pairs = [(part_of(key, sheet), part_of(value, sheet)) for key, value in tags.items()]

    def value(self) -> dict[str, str]:
        return {str(key): str(value) for key, value in self._pairs}


class Session:
    """A session that names a person goes: one placeholder would make one session of all people's."""

    def __init__(self, session: str | None, sheet: Sheet) -> None:
        self._text = None if session is None else part_of(session, sheet)

    def value(self) -> str | None:
        return None if self._text is None or self._text.changed else str(self._text)


def _optional(text: str | None, sheet: Sheet) -> Part | None:
    return None if text is None else part_of(text, sheet)


def _value(part: Part | None) -> str | None:
    return None if part is None else str(part)
