"""Dedupe, decontaminate, split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.pipeline.conftest import Result, bag_of_words, quiet
from trainer.recipe import Recipe
from trainer.similarity.texts import Templates
from trainer.similarity.vectors import windows
from trainer.stage import Progress, StageContext, StageError, Summary
from trainer.stages.decontaminate import Decontaminate
from trainer.stages.dedupe import Dedupe
from trainer.stages.split import STAGE as SPLIT
from trainer.stages.split import TRAIN, VALIDATION, Session, newest, session_of
from trainer.tables import Example, ExampleWriter

Make = Callable[..., Example]
Run = Callable[..., Result]
Recipes = Callable[..., Recipe]
NEAR = {"dedupe": {"cosine": 0.9}}
DOCUMENT = "\n".join(
    f"Clause {chr(97 + i)}: the tenant of flat {chr(65 + i)} pays the rent in advance." for i in range(20)
)


def no_encoder(texts: Path, out: Path, progress: Progress) -> int:
    raise StageError("the encoder needs sentence_transformers")


def test_dedupe_keeps_the_corrected_then_the_best_then_the_newest(
    recipe: Recipes, example: Make, run_stage: Run
) -> None:
    rows = [
        example(0, "How  do I PAY?"), example(1, "how do i pay?"), example(2, "how do i pay?", score=3.0),
        example(3, "Where is it?", correction="There."), example(4, "where is it?", score=5.0),
        example(5, "Who?", score=5.0), example(6, "who?", score=4.0), example(7, "Other"),
    ]  # fmt: skip
    result = run_stage(Dedupe(no_encoder), recipe(), rows)
    assert result.ids() == [2, 3, 5, 7]
    assert set(result.dropped().values()) == {"exact"}


def test_dedupe_tells_conversations_apart_by_what_came_before(recipe: Recipes, example: Make, run_stage: Run) -> None:
    def talk(*turns: str) -> list[dict[str, str]]:
        return [{"role": "assistant" if i % 2 else "user", "content": turn} for i, turn in enumerate(turns)]

    rows = [
        example(0, messages=talk("Cancel my card", "Sure?", "yes")),
        example(1, messages=talk("Close my account", "Sure?", "yes")),
        example(2, messages=talk("Close my account", "Sure?", "Yes")),
    ]
    assert run_stage(Dedupe(bag_of_words), recipe(**NEAR), rows).ids() == [0, 2]


def test_minhash_finds_a_request_with_a_small_change(recipe: Recipes, example: Make, run_stage: Run) -> None:
    rows = [example(0, DOCUMENT), example(1, DOCUMENT.replace("flat H pays", "flat H also pays")), example(2, "Other")]
    result = run_stage(Dedupe(no_encoder), recipe(), rows)
    assert result.ids() == [1, 2]
    assert result.dropped() == {0: "minhash"}
    off = recipe(dedupe={"cosine": 1, "minhash_threshold": 1})
    assert run_stage(Dedupe(no_encoder), off, rows).ids() == [0, 1, 2]


@pytest.mark.parametrize("stage", [Dedupe(no_encoder), Dedupe(bag_of_words)])
def test_two_questions_about_one_document_are_two_requests(
    recipe: Recipes, example: Make, run_stage: Run, stage: Dedupe
) -> None:
    questions = ["Who pays for repairs?", "When does the contract end?"]
    rows = [example(i, f"{DOCUMENT}\n\n{question}") for i, question in enumerate(questions)]
    questions = ["Is a dog allowed?", "Which flat is the cheapest?"]
    rows += [example(i + 2, f"{question}\n\n{DOCUMENT}") for i, question in enumerate(questions)]
    changes = NEAR if stage._embed is bag_of_words else {}
    assert run_stage(stage, recipe(**changes), rows).ids() == [0, 1, 2, 3]


def test_cosine_needs_equal_numerals(recipe: Recipes, example: Make, run_stage: Run) -> None:
    text = "please tell me what the sum of these two numbers is, {} and {}, thank you very much"
    rows = [
        example(0, text.format(3, 4)), example(1, text.format(3, 5)),
        example(2, "thank you very much, please tell me what the sum is of these two numbers, 3 and 4"),
    ]  # fmt: skip
    result = run_stage(Dedupe(bag_of_words), recipe(**NEAR), rows)
    assert result.ids() == [1, 2]
    assert result.dropped() == {0: "cosine"}


def test_shared_template_makes_no_duplicates(recipe: Recipes, example: Make, run_stage: Run) -> None:
    task = "Classify the message of a customer into one of the intents and answer with the name of the intent alone: "
    words = [
        "card",
        "transfer",
        "refund",
        "limit",
        "cash",
        "pin",
        "rate",
        "fee",
        "name",
        "phone",
        "app",
        "visa",
        "top",
        "up",
        "code",
        "bank",
        "atm",
        "post",
        "gift",
        "tax",
        "loan",
    ]
    rows = [example(i, f"{task}my {word} is gone") for i, word in enumerate(words)]
    assert len(rows) > 20
    assert run_stage(Dedupe(bag_of_words), recipe(**NEAR), rows).ids() == list(range(len(rows)))


def test_missing_encoder_is_named(recipe: Recipes, example: Make, run_stage: Run) -> None:
    with pytest.raises(StageError, match="the encoder needs"):
        run_stage(Dedupe(no_encoder), recipe(**NEAR), [example(0), example(1)])
    with pytest.raises(StageError, match=r"dedupe\.encoder"):
        Dedupe().key(recipe(dedupe={"encoder": "/no/such/folder"}))


def test_encoder_is_keyed_by_its_content_not_by_its_place(recipe: Recipes, tmp_path: Path) -> None:
    for name, weights in (("one", b"w"), ("moved", b"w"), ("other", b"v")):
        (tmp_path / name / "1_Pooling").mkdir(parents=True)
        (tmp_path / name / "modules.json").write_text("[]")
        (tmp_path / name / "1_Pooling" / "weights").write_bytes(weights)
    one, moved, other = (
        Dedupe().key(recipe(dedupe={"encoder": str(tmp_path / name)})) for name in ("one", "moved", "other")
    )
    assert one == moved != other
    assert Dedupe().key(recipe()) not in (one, other)


def test_decontaminate_embeds_only_what_dedupe_has_not(
    recipe: Recipes, example: Make, tmp_path: Path, evaluation_set: Callable[..., Path]
) -> None:
    evaluation_set(["Why was my card DECLINED at the shop"])
    asked: list[str] = []

    def embed(texts: Path, out: Path, progress: Progress) -> int:
        asked.extend(pq.read_table(texts).column("text").to_pylist())
        return bag_of_words(texts, out, progress)

    rows = [
        example(0, "Card declined at the shop, why was it MY"), example(1, "How do I open an Account?"),
        example(2, messages=[
            {"role": "user", "content": "An earlier Question"}, {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": "And then?"},
        ]),
    ]  # fmt: skip
    made = recipe(dedupe={"cosine": 0.9}, decontaminate={"cosine": 0.9})
    for name in ("quality", "dedupe", "decontaminate"):
        (tmp_path / name).mkdir()
    with ExampleWriter(tmp_path / "quality" / "examples.parquet") as writer:
        for each in rows:
            writer.keep(each)

    def run(stage: Any, need: str, summary: Summary, folder: str) -> Summary:
        inputs, summaries = {need: tmp_path / need}, {need: summary}
        found: Summary = stage.run(StageContext(made, tmp_path / folder, inputs, summaries, quiet))
        return found

    first = run(Dedupe(embed), "quality", {}, "dedupe")
    asked.clear()
    second = run(Decontaminate(embed), "dedupe", first, "decontaminate")
    assert sorted(asked) == ["an earlier question", "why was my card declined at the shop"]
    assert second["dropped"] == {"cosine": 1}
    (tmp_path / "alone").mkdir()
    alone = run(Decontaminate(embed), "dedupe", {**first, "embedding_dim": 0}, "alone")  # dedupe.cosine = 1
    assert alone == second


LEAK = "My new card has not arrived yet although I ordered it from the app two weeks ago, what should I do now?"


def test_decontaminate_finds_planted_leaks_without_an_encoder(
    recipe: Recipes, example: Make, run_stage: Run, evaluation_set: Callable[..., Path]
) -> None:
    evaluation_set([LEAK, "yes please"])
    tokens = LEAK.split()
    rows = [
        example(0, "What is the fee of a transfer to another country?"),
        example(1, LEAK.upper().replace(" ", "  ")),
        example(2, " ".join([*tokens[10:], *tokens[:10]])),
        example(3, f"Hello there. {LEAK} Thanks in advance!"),
        example(4, "A request", answer=f"You asked: {LEAK}"),
        example(5, messages=[
            {"role": "user", "content": LEAK}, {"role": "assistant", "content": "Wait."},
            {"role": "user", "content": "And then?"},
        ]),
        example(6, "yes please, tell me about the weather in the mountains"),
        example(7, "Yes  please"),
        example(8, "When will the new card come?"),
    ]  # fmt: skip
    result = run_stage(Decontaminate(no_encoder), recipe(), rows, {"embedding_dim": 0})
    assert result.ids() == [0, 6, 8]
    assert result.dropped() == {1: "same_text", 2: "same_words", 3: "ngram", 4: "ngram", 5: "same_text", 7: "same_text"}
    assert result.summary["leaked_cases"] == 2


def test_decontaminate_finds_near_requests_by_embedding(
    recipe: Recipes, example: Make, run_stage: Run, evaluation_set: Callable[..., Path]
) -> None:
    evaluation_set(["why was my card declined at the shop"])
    rows = [example(0, "card declined at the shop why was it my"), example(1, "how do I open an account")]
    result = run_stage(Decontaminate(bag_of_words), recipe(decontaminate={"cosine": 0.9}), rows, {"embedding_dim": 0})
    assert result.dropped() == {0: "cosine"}


def test_template_of_the_task_is_no_leak(
    recipe: Recipes, example: Make, run_stage: Run, evaluation_set: Callable[..., Path]
) -> None:
    task = "Read the message of the customer below and answer with the one intent out of the list that fits it best: "
    evaluation_set([f"{task}case {chr(97 + i)} number {i}" for i in range(25)])
    rows = [example(i, f"{task}word{chr(97 + i)} is lost") for i in range(25)] + [example(30, f"{task}case b number 1")]
    assert run_stage(Decontaminate(no_encoder), recipe(), rows, {}).dropped() == {30: "same_text"}


def test_everything_leaked_is_an_error_with_the_option(
    recipe: Recipes, example: Make, run_stage: Run, evaluation_set: Callable[..., Path]
) -> None:
    evaluation_set([LEAK])
    with pytest.raises(StageError, match=r"1 dropped as ngram \(decontaminate\.ngram\)"):
        run_stage(Decontaminate(no_encoder), recipe(), [example(0, f"Well, {LEAK}")], {})


def test_long_texts_are_embedded_in_windows_that_lose_nothing() -> None:
    text = " ".join(f"word{i}" for i in range(1000))
    assert " ".join(windows(text)) == text
    assert max(map(len, windows("x" * 3000))) <= 800


def test_templates_need_many_different_requests() -> None:
    start = "one two three four five six seven eight nine ten"
    few = Templates([f"{start} a{i}" for i in range(18)] + [f"{start} same"] * 50)
    assert few.strip(f"{start} a1") == f"{start} a1"
    many = Templates([f"{start} a{i} and what comes behind it is the same for all" for i in range(30)])
    assert many.strip(f"{start} a1 and what comes behind it is the same for all").split()[:1] == ["a1"]


def test_split_holds_out_the_newest_sessions_whole(recipe: Recipes, example: Make, run_stage: Run) -> None:
    rows = [example(i, f"Q{i}", session=f"s{i % 5}", created_s=float(i % 5)) for i in range(50)]
    result = run_stage(SPLIT, recipe(split={"validation_share": 0.2}), rows)
    assert {each.session for each in result.kept(VALIDATION)} == {"s4"}
    assert len(result.kept(TRAIN)) == 40
    none = run_stage(SPLIT, recipe(split={"validation_share": 0}), rows)
    assert none.summary["validation_rows"] == 0
    with pytest.raises(StageError, match=r"split\.validation_share = 0"):
        run_stage(SPLIT, recipe(), [example(i, "same", session="s") for i in range(3)])


def test_conversation_without_a_session_stays_together(example: Make) -> None:
    first: list[dict[str, Any]] = [{"role": "user", "content": "Hello, about my card"}]
    more = [*first, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "It is lost"}]
    assert session_of(example(0, messages=first)) == session_of(example(1, messages=more))
    assert session_of(example(0, messages=first)) != session_of(example(1, messages=more, tenant="other"))
    assert session_of(example(0, session="a")) != session_of(example(0, session="a", tenant="other"))


SESSIONS = st.dictionaries(
    st.binary(min_size=1, max_size=2), st.builds(Session, st.integers(1, 20), st.floats(0, 10)), min_size=1, max_size=30
)


@given(SESSIONS, st.floats(0.01, 0.9), st.integers(0, 2**80))
def test_held_out_sessions_are_the_newest_and_never_all(
    sessions: dict[bytes, Session], share: float, seed: int
) -> None:
    chosen = newest(sessions, share, seed)
    assert chosen == newest(dict(reversed(sessions.items())), share, seed)
    assert len(chosen) < len(sessions)
    total = sum(each.rows for each in sessions.values())
    fit = {key for key, each in sessions.items() if 2 * each.rows <= total}
    if len(sessions) > 1:
        assert chosen or not fit
    rest = fit - chosen
    if chosen and rest:
        assert min(sessions[key].last_s for key in chosen) >= max(sessions[key].last_s for key in rest)
