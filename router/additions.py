"""Options that the gateway adds to a request for itself, and how they leave no trace in the answer.

Asked for: the tokens' logprobs (the cascade judges by them) and token ids (training needs them; text is never tokenized
again). The client sees what the backend would have answered without them, byte for byte.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from router.body import Edit, Walked, edited, removals, walk_array, walk_object


class Additions(NamedTuple):
    """What is wanted from a backend beside the answer, or what was added to one request for it."""

    logprobs: bool = False
    token_ids: bool = False
    top_logprobs: int = 0
    """How many of the most likely tokens at each place; they come within `logprobs`, and go with them."""

    def options(self) -> dict[str, str]:
        """The members of a request that ask for it, with their values as JSON."""
        named = (
            ("logprobs", "true" if self.logprobs else ""),
            ("top_logprobs", str(self.top_logprobs) if self.logprobs and self.top_logprobs else ""),
            ("return_token_ids", "true" if self.token_ids else ""),
        )
        return {name: value for name, value in named if value}


NOTHING = Additions()
LOGPROBS = Additions(logprobs=True)
IN_EVERY_CHUNK = frozenset({"finish_reason", "usage"})
"""Members that a stream spells as `null` also where the backend leaves absent ones out."""


def additions_to(values: dict[str, Any], wanted: Additions, *, choices: int, keeps_text: bool) -> Additions:
    """What has to be added to a plain request: what is wanted and not asked for by the client already.

    Args:
        values: the request.
        choices: `n`; several answers have no one mean and no one row of ids, so that nothing is added for them.
        keeps_text: the log takes this request at level `full`; below, token ids would give the text away.
    """
    if choices != 1:
        return NOTHING
    # `top_logprobs` without `logprobs` is a mistake that the client shall hear of; and what a client asks for itself is
    # what it gets: the margins of such an answer stay unknown unless it asks for enough.
    logprobs = wanted.logprobs and _is_unasked(values, "logprobs") and values.get("top_logprobs") is None
    return Additions(
        logprobs=logprobs,
        token_ids=wanted.token_ids and keeps_text and _is_unasked(values, "return_token_ids"),
        top_logprobs=wanted.top_logprobs if logprobs else 0,
    )


def without_in_chunk(chunk: bytes, *, spells_nulls: bool) -> tuple[bytes, bool]:
    """A chunk of a stream as the backend would have written it without our `logprobs`.

    Args:
        spells_nulls: other chunks of the stream have shown that absent members are spelled.
    Returns:
        The chunk, and whether this one shows it, or others have.
    Raises:
        ValueError, RecursionError: not a JSON object with a list of choices.
    """
    cut = _Cut(chunk.decode("utf-8"), LOGPROBS, spells_nulls=spells_nulls, no_sign=IN_EVERY_CHUNK)
    return cut.result().encode("utf-8"), cut.spells_nulls


def _is_unasked(values: dict[str, Any], key: str) -> bool:
    value = values.get(key)
    return value is None or value is False


def without(body: bytes, added: Additions) -> bytes:
    """The answer as the backend would have written it had nothing been added.

    A backend that spells absent members as `null` (vLLM, OpenAI) would have sent ours so, too; from the answers of one
    that leaves absent members out (llama.cpp) they are removed.

    Raises:
        ValueError, RecursionError: not a JSON object with a list of choices.
    """
    return _Cut(body.decode("utf-8"), added).result().encode("utf-8")


class _Cut:
    def __init__(
        self, text: str, added: Additions, *, spells_nulls: bool = False, no_sign: frozenset[str] = frozenset()
    ) -> None:
        """
        Args:
            spells_nulls: it is known already that the backend does.
            no_sign: keys whose `null` does not show it.
        """
        self._text = text
        self._no_sign = no_sign
        self._of_answer = frozenset({"prompt_token_ids"} if added.token_ids else ())
        ours = (("logprobs", added.logprobs), ("token_ids", added.token_ids))
        self._of_choice = frozenset(name for name, asked in ours if asked)
        self._found: list[tuple[list[Walked], list[int]]] = []
        """Objects with the indexes of the members that are ours."""
        self.spells_nulls = spells_nulls

    def result(self) -> str:
        members, _ = walk_object(self._text, 0, {"choices": self._choices})
        self._note(members, self._of_answer)
        edits: list[Edit] = []
        for members, ours in self._found:
            if self.spells_nulls:
                edits += [(members[i].member.value_start, members[i].member.value_end, "null") for i in ours]
            else:
                edits += removals([each.member for each in members], ours)
        return edited(self._text, edits)

    def _choices(self, at: int) -> int:
        return walk_array(self._text, at, self._choice)

    def _choice(self, at: int) -> int:
        members, end = walk_object(self._text, at, {})
        self._note(members, self._of_choice)
        return end

    def _note(self, members: list[Walked], names: frozenset[str]) -> None:
        ours = [i for i, each in enumerate(members) if each.key in names and each.value is not None]
        self._found.append((members, ours))
        self.spells_nulls = self.spells_nulls or any(
            not each.visited and each.key not in self._no_sign and (each.value is None or _holds_null(each.value))
            for each in members
        )


def _holds_null(value: Any) -> bool:
    """Whether an absent member is spelled out; a message whose content is null says something else: it is a call."""
    return isinstance(value, dict) and any(each is None and key != "content" for key, each in value.items())
