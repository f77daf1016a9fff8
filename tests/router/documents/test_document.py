"""Documents: what is accepted, what is said about the rest, and how two of them differ."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.config_file import parse
from router.documents.archive import KEPT_VERSIONS, Archive
from router.documents.diff import changes
from router.documents.document import DocumentRejected, PolicyDocument, Version, parse_document, seed_of
from tests.effort import examples
from tests.router.documents.conftest import CONFIG

SEED = seed_of(parse(CONFIG.format(rest="[server]\nretry_after_s = 9")), now_s=5.0)


def parsed(value: object) -> PolicyDocument:
    return parse_document(value, defaults=SEED.document)


def test_seed_is_what_the_file_says() -> None:
    assert SEED.version == 0
    assert SEED.document.server.retry_after_s == 9
    assert SEED.document.routing.policies[0] == {"type": "long_context"}


def test_bounds_that_are_left_out_stay_as_they_are() -> None:
    document = parsed({"routing": {}, "server": {"max_inflight_requests": 5}})
    assert (document.server.max_inflight_requests, document.server.retry_after_s) == (5, 9)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([], "document: must be an object"),
        ({}, "routing: is required"),
        ({"routing": {}, "student": {}}, "student: unknown key"),
        ({"routing": {"default_route": "both"}}, "routing.default_route: "),
        ({"routing": {"policies": [{}]}}, "routing.policies.0.type: must name a policy"),
        ({"routing": {}, "server": {"port": 1}}, "server.port: unknown key"),
        ({"routing": {}, "server": {"retry_after_s": 0}}, "server.retry_after_s: "),
        ({"routing": {}, "server": 3}, "server: "),
        ({"routing": {}, "tenants": {"acme": {"requests_per_minute": -1}}}, "tenants.acme.requests_per_minute: "),
        ({"routing": {}, "limits": {"budget": 1}}, "limits.budget: unknown key"),
        ({"routing": {"policies": [{"type": "x"}] * 65}}, "routing.policies: has more than 64"),
    ],
)  # fmt: skip
def test_wrong_document_is_refused_with_its_key(value: object, problem: str) -> None:
    with pytest.raises(DocumentRejected) as rejected:
        parsed(value)
    assert any(each.startswith(problem) for each in rejected.value.problems), rejected.value.problems


def test_null_in_a_tenants_table_means_what_leaving_it_out_means() -> None:
    document = parsed({"routing": {}, "tenants": {"acme": {"requests_per_minute": None, "tokens_per_minute": 5}}})
    assert document.tenants["acme"].model_fields_set == {"tokens_per_minute"}
    version = SEED.model_copy(update={"document": document})
    assert Version.decoded(version.encoded()).document.tenants["acme"].model_fields_set == {"tokens_per_minute"}


def test_unlimited_survives_its_encoding() -> None:
    document = parsed({"routing": {}, "limits": {"budget_usd_per_day": "unlimited"}})
    again = Version.decoded(SEED.model_copy(update={"document": document}).encoded()).document
    assert again == document
    assert again.limits.budget_usd_per_day == float("inf")


def test_version_survives_its_encoding() -> None:
    assert Version.decoded(SEED.encoded()) == SEED
    with pytest.raises(DocumentRejected):
        Version.decoded(b"\xff")


def test_diff_names_policies_by_type_and_their_order_by_itself() -> None:
    before = parsed({"routing": {"policies": [{"type": "long_context"}, {"type": "cascade", "threshold": 0.3}]}})
    after = parsed({"routing": {"policies": [{"type": "cascade", "threshold": 0.4}, {"type": "long_context"}]}})
    assert {change.key: (change.before, change.after) for change in changes(before, after)} == {
        "routing.order": (["long_context", "cascade"], ["cascade", "long_context"]),
        "routing.policies.cascade.threshold": (0.3, 0.4),
    }


def test_diff_leaves_out_the_side_on_which_a_key_is_absent() -> None:
    before = parsed({"routing": {"policies": []}})
    after = parsed({"routing": {"policies": [{"type": "long_context"}]}})
    encoded = msgspec.to_builtins(changes(before, after))
    assert {"key": "routing.policies.long_context", "after": {}} in encoded


scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | st.floats(0, 1)
policies = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "c"]), scalars, max_size=2).map(lambda each: {"type": "t", **each}),
    max_size=3,
)


@settings(max_examples=examples(60), deadline=None)
@given(policies, policies)
def test_diff_is_empty_exactly_when_documents_are_equal(
    before: list[dict[str, object]], after: list[dict[str, object]]
) -> None:
    one, other = (parsed({"routing": {"policies": each}}) for each in (before, after))
    assert bool(changes(one, other)) == (one.encoded() != other.encoded())


def test_archive_forgets_what_is_long_past(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    for number in (1, 2, KEPT_VERSIONS + 1):
        archive.keep(SEED.model_copy(update={"version": number}))
    assert archive.numbers() == [2, KEPT_VERSIONS + 1]
    newest = archive.newest()
    assert newest is not None
    assert newest.version == KEPT_VERSIONS + 1
