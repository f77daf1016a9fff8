"""The top-K losses against plain references, written as their definitions read: slow, in float64, over whole vocabularies."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("trl")  # first: torch alone, which takes seconds, is elsewhere as well
torch = pytest.importorskip("torch")

from trainer import loss  # noqa: E402 - needs torch

pytestmark = pytest.mark.train

V, N = 11, 5


def log_softmax(values: list[float]) -> list[float]:
    top = max(values)
    total = top + math.log(sum(math.exp(each - top) for each in values))
    return [each - total for each in values]


def kl(p: list[float], q: list[float]) -> float:
    """From probabilities; 0 log 0 = 0."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def reference(student: list[float], teacher: list[float], k: int, temperature: float) -> float:
    """DESIGN's formula from the teacher's whole distribution, one position."""
    log_p, log_q = log_softmax(teacher), log_softmax(student)
    head = sorted(range(len(teacher)), key=lambda index: -teacher[index])[:k]
    p_h, q_h = (sum(math.exp(each[index]) for index in head) for each in (log_p, log_q))
    p_head = [math.exp(each) for each in log_softmax([log_p[index] / temperature for index in head])]
    q_head = [math.exp(each) for each in log_softmax([student[index] / temperature for index in head])]
    bernoulli = kl([p_h, max(0.0, 1 - p_h)], [q_h, max(1e-300, 1 - q_h)]) if k < len(teacher) else 0.0
    return bernoulli + p_h * temperature**2 * kl(p_head, q_head)


def bucket_kl(student: list[float], teacher: list[float], k: int) -> float:
    log_p, log_q = log_softmax(teacher), log_softmax(student)
    head = sorted(range(len(teacher)), key=lambda index: -teacher[index])[:k]
    rest = [index for index in range(len(teacher)) if index not in head]
    buckets = [[index] for index in head] + [rest]
    p, q = ([sum(math.exp(each[index]) for index in bucket) for bucket in buckets] for each in (log_p, log_q))
    return kl(p, q)


def top(teacher, k):
    logprobs, ids = teacher.log_softmax(dim=1).topk(k, dim=1)
    return ids, logprobs


def draw(seed: int, rows: int = N, columns: int = V):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * 3
    teacher = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * 3
    return student, teacher


cases = st.tuples(st.integers(0, 10_000), st.integers(1, V - 1), st.sampled_from([0.5, 1.0, 2.0, 5.0]))


@given(cases)
@settings(max_examples=60, deadline=None)
def test_decoupled_equals_its_definition(case: tuple[int, int, float]) -> None:
    seed, k, temperature = case
    student, teacher = draw(seed)
    expected = [reference(s, t, k, temperature) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    assert loss.decoupled(student, *top(teacher, k), temperature).tolist() == pytest.approx(expected, abs=1e-9)


@given(cases)
@settings(max_examples=30, deadline=None)
def test_decoupled_is_zero_when_student_equals_teacher(case: tuple[int, int, float]) -> None:
    seed, k, temperature = case
    _, teacher = draw(seed)
    shifted = teacher + 7.0  # logits are free up to a constant
    assert loss.decoupled(shifted, *top(teacher, k), temperature).abs().max() < 1e-12


@given(cases)
@settings(max_examples=30, deadline=None)
def test_decoupled_is_the_bucket_kl_when_temperature_is_one(case: tuple[int, int, float]) -> None:
    seed, k, _ = case
    student, teacher = draw(seed)
    expected = [bucket_kl(s, t, k) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    assert loss.decoupled(student, *top(teacher, k), 1.0).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_decoupled_is_the_full_scaled_kl_when_the_head_is_the_vocabulary(temperature: float) -> None:
    student, teacher = draw(3)
    p, q = (each / temperature for each in (teacher, student))
    expected = temperature**2 * (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum(1)
    found = loss.decoupled(student, *top(teacher, V), temperature)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def test_decoupled_is_never_negative_and_grows_with_the_tail_that_the_student_forgets() -> None:
    teacher = torch.tensor([[3.0, 2.0, 1.0, 0.5, 0.0, 0.0]], dtype=torch.float64)
    ids, logprobs = top(teacher, 2)
    losses = []
    for sharper in (0.0, 2.0, 4.0, 8.0):
        student = teacher.clone()
        student[0, :2] += sharper  # the head's shape stays right, the tail vanishes
        losses.append(float(loss.decoupled(student, ids, logprobs, 2.0)))
    assert losses == sorted(losses) and losses[0] == pytest.approx(0.0, abs=1e-12) and losses[-1] > 1.0


def test_renormalised_pushes_the_tail_into_the_head_when_student_equals_teacher() -> None:
    _, teacher = draw(5)
    ids, logprobs = top(teacher, 3)
    assert (loss.renormalised(teacher, ids, logprobs, 2.0) > 0.1).any()
    p = (logprobs / 2.0).softmax(1)
    expected = 4.0 * (p * (p.log() - (teacher / 2.0).log_softmax(1).gather(1, ids))).sum(1)
    torch.testing.assert_close(loss.renormalised(teacher, ids, logprobs, 2.0), expected)


@pytest.mark.parametrize("name", ["decoupled", "renormalised"])
@pytest.mark.parametrize(("k", "temperature"), [(1, 2.0), (3, 1.0), (3, 2.0), (V, 2.0)])
def test_gradients_match_finite_differences(name: loss.LossName, k: int, temperature: float) -> None:
    student, teacher = draw(11, rows=3)
    ids, logprobs = top(teacher, k)
    targets, corrected = ids[:, 0], torch.tensor([False, True, False])

    def total(logits):
        return loss.distillation(
            logits, targets, ids, logprobs, corrected, name=name, temperature=temperature, hard_loss_weight=0.3
        ).sum()

    assert torch.autograd.gradcheck(total, (student.requires_grad_(),))


def test_gradient_of_each_token_sums_to_zero_over_the_vocabulary() -> None:
    student, teacher = draw(2)
    student.requires_grad_()
    loss.decoupled(student, *top(teacher, 4), 2.0).sum().backward()
    assert student.grad is not None
    assert student.grad.sum(dim=1).abs().max() < 1e-9


@pytest.mark.parametrize("sentinel", [-math.inf, -9999.0])
def test_sentinels_change_nothing_when_a_head_is_shorter_than_the_others(sentinel: float) -> None:
    student, teacher = draw(7)
    ids, logprobs = top(teacher, 3)
    padded_ids = torch.cat([ids, torch.zeros(N, 2, dtype=ids.dtype)], dim=1)
    padded_logprobs = torch.cat([logprobs, torch.full((N, 2), sentinel, dtype=logprobs.dtype)], dim=1)
    for name in (loss.decoupled, loss.renormalised):
        short, long = student.clone().requires_grad_(), student.clone().requires_grad_()
        name(short, ids, logprobs, 2.0).sum().backward()
        name(long, padded_ids, padded_logprobs, 2.0).sum().backward()
        torch.testing.assert_close(name(short, ids, logprobs, 2.0), name(long, padded_ids, padded_logprobs, 2.0))
        torch.testing.assert_close(short.grad, long.grad)


def test_tail_costs_nothing_when_the_head_holds_the_whole_mass() -> None:
    """P_H = 1 after rounding: the student's tail still has to vanish, and nothing is infinite or not a number."""
    student, _ = draw(9)
    student.requires_grad_()
    ids = torch.arange(3).repeat(N, 1)
    logprobs = torch.tensor([[0.7, 0.2, 0.1 + 1e-7]], dtype=torch.float64).log().repeat(N, 1)
    found = loss.decoupled(student, ids, logprobs, 2.0)
    q_head = student.log_softmax(1).gather(1, ids).logsumexp(1)
    assert (found >= -q_head - 1e-9).all()
    found.sum().backward()
    assert torch.isfinite(found).all() and torch.isfinite(student.grad).all()


def test_padding_of_the_vocabulary_counts_as_tail() -> None:
    student, teacher = draw(13)
    padded = torch.cat([student, torch.full((N, 5), -2.0, dtype=torch.float64)], dim=1)
    ids, logprobs = top(teacher, 4)
    rest = torch.cat([teacher.log_softmax(1), torch.full((N, 5), -math.inf, dtype=torch.float64)], dim=1)
    expected = [bucket_kl(s, t, 4) for s, t in zip(padded.tolist(), rest.tolist(), strict=True)]
    assert loss.decoupled(padded, ids, logprobs, 1.0).tolist() == pytest.approx(expected, abs=1e-9)


def test_head_is_refused_when_an_id_is_outside_the_vocabulary() -> None:
    student, teacher = draw(1)
    ids, logprobs = top(teacher, 2)
    with pytest.raises(ValueError, match="another tokenizer"):
        loss.decoupled(student[:, : int(ids.max())], ids, logprobs, 1.0)
    with pytest.raises(ValueError, match="another tokenizer"):
        loss.decoupled(student, ids - V, logprobs, 1.0)
    with pytest.raises(ValueError, match=r"\[N, K\]"):
        loss.decoupled(student, ids, logprobs[:, :1], 1.0)


def test_corrected_tokens_count_as_cross_entropy_alone_whatever_their_head_says() -> None:
    student, _ = draw(4)
    targets = torch.zeros(N, dtype=torch.int64)
    student.requires_grad_()
    found = loss.distillation(
        student, targets, torch.zeros(N, 3, dtype=torch.int64), torch.full((N, 3), -math.inf, dtype=torch.float64),
        torch.ones(N, dtype=torch.bool), name="decoupled", temperature=2.0, hard_loss_weight=0.3,
    )  # fmt: skip
    torch.testing.assert_close(found, -student.log_softmax(1)[:, 0])
    found.sum().backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("sentinel", [-math.inf, -9999.0])
@pytest.mark.parametrize("name", ["decoupled", "renormalised"])
@pytest.mark.parametrize("stray", [0, V + 7])
def test_token_without_a_real_entry_counts_as_cross_entropy_alone(
    name: loss.LossName, sentinel: float, stray: int
) -> None:
    """It must neither be counted as a tail of mass 1 (which pushes a stray id down) nor touch the other tokens."""
    student, teacher = draw(21)
    ids, logprobs = top(teacher, 3)
    targets, corrected = ids[:, 0], torch.zeros(N, dtype=torch.bool)
    options = {"name": name, "temperature": 2.0, "hard_loss_weight": 0.3}
    whole = loss.distillation(student, targets, ids, logprobs, corrected, **options)
    ids, logprobs = ids.clone(), logprobs.clone()
    ids[2], logprobs[2] = stray, sentinel
    student.requires_grad_()
    found = loss.distillation(student, targets, ids, logprobs, corrected, **options)
    soft = {"decoupled": loss.decoupled, "renormalised": loss.renormalised}[name](student, ids, logprobs, 2.0)
    assert soft[2] == 0
    torch.testing.assert_close(found[2], -student.log_softmax(1)[2, targets[2]])
    others = [0, 1, 3, 4]
    torch.testing.assert_close(found[others], whole[others])
    (gradient,) = torch.autograd.grad(found.sum(), student)
    expected = student.detach().softmax(1)[2] - torch.nn.functional.one_hot(targets[2], V)
    torch.testing.assert_close(gradient[2], expected)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["decoupled", "renormalised"])
def test_batch_without_any_real_entry_is_finite(name: loss.LossName) -> None:
    student, _ = draw(22)
    student.requires_grad_()
    ids, logprobs = torch.full((N, 3), -1), torch.full((N, 3), -math.inf, dtype=torch.float64)
    targets = torch.zeros(N, dtype=torch.int64)
    found = loss.distillation(
        student, targets, ids, logprobs, torch.zeros(N, dtype=torch.bool), name=name, temperature=2.0,
        hard_loss_weight=0.3,
    )  # fmt: skip
    torch.testing.assert_close(found, -student.log_softmax(1)[:, 0])
    found.sum().backward()
    assert student.grad is not None and torch.isfinite(student.grad).all()


def test_float16_heads_and_bfloat16_logits_are_reduced_in_float32() -> None:
    student, teacher = draw(6)
    ids, logprobs = top(teacher, 4)
    exact = loss.decoupled(student, ids, logprobs, 2.0)
    stored = loss.decoupled(student.to(torch.bfloat16), ids, logprobs.to(torch.float16), 2.0)
    assert stored.dtype == torch.float32
    torch.testing.assert_close(stored.double(), exact, atol=0.2, rtol=0.05)
