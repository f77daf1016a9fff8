"""Every text of every kind of record is either scrubbed or known to hold nothing of a client's."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from policies.base import Chunk, RequestFeatures
from policies.record import AnyRecord, DecisionRecord, Draft, FeedbackRecord, ShadowRecord, TokenIds, encode
from router.scrub.engine import BuiltInEngine
from router.scrub.findings import Finding
from router.scrub.patterns import PATTERNS
from router.scrub.records import scrubbed, without_texts
from tests.traffic_records import decision, judgement, shadow

ENGINE = BuiltInEngine(list(PATTERNS), {})
ADDRESS = "ann@example.org"
OURS = {
    "decision_id", "endpoint", "decision", "votes", "route", "reason", "degraded", "fallback_cause", "outcome",
    "error_code", "finish_reason", "student", "teacher", "tenant", "purpose", "capture", "distillation",
    "backend_fingerprint", "source", "delivered", "asked", "status", "grades", "features.reasoning_effort",
    "features.signals", "draft.finish_reason", "draft.review", "draft.signals", "subject",
}  # fmt: skip
"""Fields that the gateway, its operator or a backend fills. `source` and `reasoning_effort` are closed by a pattern,
`subject` is a hash."""


def features(text: str) -> RequestFeatures:
    return RequestFeatures(
        prompt_bytes=1,
        message_count=1,
        approx_prompt_tokens=1,
        requested_output_tokens=1,
        last_user_turn=text,
        chunks=(Chunk(text=text, score=0.5, id=text),),
        session=text,
        tags={text: text},
    )


def full_of(text: str) -> list[AnyRecord]:
    """A record of each kind with the text wherever somebody's words may stand."""
    return [
        decision(
            1,
            requested_model=text,
            request=json.dumps({"messages": [{"role": "user", "content": text}], "user": text}),
            completion=text,
            features=features(text),
            session=text,
            tags={text: text},
            token_ids=TokenIds(prompt=(1,), completion=(2,)),
            draft=Draft(text=text, tokens=3),
        ),
        judgement(1, label=text, correction=text, score=1.0),
        shadow(1, completion=text, session=text, tags={text: text}),
    ]


NESTED = ("str", "Literal", "RequestFeatures", "Draft", "Decision", "Vote", "Chunk", "Grade", "Signals")
"""Parts of the names of types that hold text."""


def text_fields(kind: type[msgspec.Struct]) -> set[str]:
    """Names of the fields whose values hold text."""
    fields = msgspec.structs.fields(kind)
    return {field.encode_name for field in fields if any(name in str(field.type) for name in NESTED)}


@pytest.mark.parametrize("kind", [DecisionRecord, FeedbackRecord, ShadowRecord])
def test_every_text_field_is_scrubbed_or_known_as_ours(kind: type[Any]) -> None:
    record = next(each for each in full_of(ADDRESS) if isinstance(each, kind))
    clean, _ = scrubbed(record, ENGINE)
    for name in text_fields(kind) - {"features", "draft"}:
        assert name in OURS or getattr(record, name) != getattr(clean, name), f"{kind.__name__}.{name} is not scrubbed"
    if isinstance(record, DecisionRecord) and isinstance(clean, DecisionRecord):
        for part, part_kind in (("features", RequestFeatures), ("draft", Draft)):
            before, after = getattr(record, part), getattr(clean, part)
            for name in text_fields(part_kind):
                dotted = f"{part}.{name}"
                known = dotted in OURS or name in OURS
                assert known or getattr(before, name) != getattr(after, name), f"{dotted} is not scrubbed"


@pytest.mark.parametrize("text", [ADDRESS, f"card 4111 1111 1111 1111, {ADDRESS}", '{"to": "ann\\u0040example.org"}'])
def test_nothing_is_left_of_what_was_found_in_any_record(text: str) -> None:
    for record in full_of(text):
        clean, counts = scrubbed(record, ENGINE)
        line = encode(clean).decode()
        assert "example.org" not in line
        assert "4111" not in line
        assert counts["email"] > 0
        msgspec.json.decode(line)


def test_value_has_one_placeholder_in_all_texts_of_a_record() -> None:
    record = decision(
        1,
        request=json.dumps({"messages": [{"role": "user", "content": f"{ADDRESS} wrote to bob@example.org"}]}),
        completion="Bob (BOB@example.org) got a mail of ann@example.org.",
        draft=Draft(text="bob@example.org"),
    )
    clean, counts = scrubbed(record, ENGINE)
    assert isinstance(clean, DecisionRecord)
    assert clean.completion == "Bob ([EMAIL_2]) got a mail of [EMAIL_1]."
    assert clean.draft is not None
    assert clean.draft.text == "[EMAIL_2]"
    assert json.loads(clean.request or "")["messages"][0]["content"] == "[EMAIL_1] wrote to [EMAIL_2]"
    assert counts == {"email": 5}


def test_token_ids_go_when_a_text_was_changed_and_stay_when_none_was() -> None:
    ids = TokenIds(prompt=(1, 2), completion=(3,))
    changed, _ = scrubbed(decision(1, completion=ADDRESS, token_ids=ids), ENGINE)
    kept = decision(2, token_ids=ids)
    assert isinstance(changed, DecisionRecord)
    assert changed.token_ids is None
    same, counts = scrubbed(kept, ENGINE)
    assert same is kept
    assert not counts


def test_session_that_names_somebody_goes_and_another_one_stays() -> None:
    gone, _ = scrubbed(decision(1, session=ADDRESS), ENGINE)
    kept, _ = scrubbed(decision(1, session="conv-17", completion=ADDRESS), ENGINE)
    assert isinstance(gone, DecisionRecord)
    assert isinstance(kept, DecisionRecord)
    assert gone.session is None
    assert kept.session == "conv-17"


def test_nothing_that_a_client_wrote_is_left_without_texts() -> None:
    for record in full_of("mark-of-the-client"):
        if not isinstance(record, FeedbackRecord):
            reduced = without_texts(record)
            assert b"mark-of-the-client" not in encode(reduced)
            assert reduced.decision_id == record.decision_id
            assert reduced.usage == record.usage
    assert without_texts(decision(1)).capture == "metadata"  # type: ignore[union-attr]


def test_long_text_is_searched_once_and_replaced_wherever_it_stands() -> None:
    searched: list[int] = []

    class Engine(BuiltInEngine):
        def find(self, data: bytes) -> list[Finding]:
            searched.append(len(data))
            return super().find(data)

    text = f"{ADDRESS} " + "words " * 500
    request = json.dumps({"messages": [{"role": "user", "content": text}]})
    clean, counts = scrubbed(decision(1, request=request, features=features(text)), Engine(list(PATTERNS), {}))
    assert searched[0] < 2 * len(text)
    assert ADDRESS not in encode(clean).decode()
    assert counts["email"] == 1
