"""Cutting takes out exactly what was added, whatever the answer looks like around it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from router.additions import Additions, without

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
blanks = st.text(alphabet=" \t\r\n", max_size=2)
both = Additions(logprobs=True, token_ids=True)
wishes = st.sampled_from([both, Additions(logprobs=True), Additions(token_ids=True)])
OURS = {"logprobs", "token_ids", "prompt_token_ids", "choices"}
foreign = st.dictionaries(texts.filter(lambda key: key not in OURS), values, max_size=4)
LOGPROBS = '{"content":[{"token":"\\"logprobs\\":","logprob":-1e-3,"bytes":[1],"top_logprobs":[]}]}'


@st.composite
def answers(draw: st.DrawFn, *, nulls: bool) -> tuple[str, str, Additions]:
    """An answer with additions and the same without; `nulls`: the backend spells absent members."""
    added = draw(wishes)
    ascii_only = draw(st.booleans())

    def written(members: list[tuple[str, str, str | None]]) -> tuple[str, str]:
        """Members as (key, with additions, without): None leaves it out."""
        before, between, after = draw(blanks), draw(blanks), draw(blanks)
        pairs = [(f'{before}"{key}"{between}:', first, second) for key, first, second in members]
        with_ours = ",".join(f"{key}{first}" for key, first, _ in pairs)
        plain = ",".join(f"{key}{second}" for key, _, second in pairs if second is not None)
        return f"{{{with_ours}{after}}}", f"{{{plain}{after}}}"

    def some(given_members: dict[str, Any], ours: list[tuple[str, str]]) -> list[tuple[str, str, str | None]]:
        members: list[tuple[str, str, str | None]] = []
        for key, value in given_members.items():
            text = json.dumps(value, ensure_ascii=ascii_only)
            members.append((json.dumps(key)[1:-1], text, text))
        for key, text in ours:
            members.insert(draw(st.integers(0, len(members))), (key, text, "null" if nulls else None))
        return members

    in_choice = [("logprobs", LOGPROBS)] * added.logprobs + [("token_ids", "[1, 2]")] * added.token_ids
    in_answer = [("prompt_token_ids", "[3]")] * added.token_ids
    choice, plain_choice = written(some(draw(foreign), in_choice))
    members = some(draw(foreign), in_answer)
    members.insert(draw(st.integers(0, len(members))), ("choices", f"[{choice} ]", f"[{plain_choice} ]"))
    if nulls:
        members.append(("service_tier", "null", "null"))
    answer, plain = written(members)
    return answer, plain, added


@given(answers(nulls=True))
def test_member_becomes_null_when_the_backend_spells_nulls(case: tuple[str, str, Additions]) -> None:
    answer, plain, added = case
    assert without(answer.encode(), added).decode() == plain


@given(answers(nulls=False))
def test_member_disappears_when_the_backend_leaves_absent_ones_out(case: tuple[str, str, Additions]) -> None:
    answer, plain, added = case
    assert json.loads(without(answer.encode(), added)) == json.loads(plain)
    assert "".join(without(answer.encode(), added).decode().split()) == "".join(plain.split())


@given(answers(nulls=True))
def test_answer_without_ours_stays_as_it_is(case: tuple[str, str, Additions]) -> None:
    _, plain, added = case
    assert without(plain.encode(), added) == plain.encode()
