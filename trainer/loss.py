"""Losses against a teacher of which only the K most likely tokens are known at each position.

The tail is one bucket. With P_H and Q_H the mass that teacher and student (at T = 1) put on the teacher's head,
decoupled  = KL(Bern(P_H) || Bern(Q_H)) + P_H * T^2 * KL(p_head^T || q_head^T)
where p_head^T and q_head^T are both renormalised over the head. At T = 1 this is the KL over K + 1 buckets (chain
rule), at K = V it is T^2 * KL. Everything is reduced in float32 or above, and stays finite for finite logits.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from trainer.rows import SENTINEL

LossName = Literal["decoupled", "renormalised"]
FLOOR = -1e30
"""Stands for minus infinity: exp gives 0, and gradients stay numbers."""


def real_entries(logprobs: Tensor) -> Tensor:
    """[N, K] bool: what the teacher said, sentinels aside."""
    return torch.isfinite(logprobs) & (logprobs > SENTINEL)


class Head:
    """The teacher's head: masses and a mask of its real entries. A token without any has no distribution: see `known`.

    Args:
        ids: [N, K] int64, vocabulary ids.
        logprobs: [N, K] natural logarithms at temperature 1; sentinels (-inf, -9999) mark absent entries.
        vocabulary_size: V of the student's logits, padding included.
    Raises:
        ValueError: an id outside the vocabulary, or shapes that differ.
    """

    def __init__(self, ids: Tensor, logprobs: Tensor, vocabulary_size: int) -> None:
        if ids.shape != logprobs.shape or ids.dim() != 2:
            raise ValueError(f"head ids {tuple(ids.shape)} and logprobs {tuple(logprobs.shape)} must both be [N, K]")
        real = real_entries(logprobs)
        if real.any() and not (int(ids[real].min()) >= 0 and int(ids[real].max()) < vocabulary_size):
            raise ValueError(f"a head id is outside the vocabulary of {vocabulary_size}: another tokenizer?")
        self.real = real
        self.known = real.any(dim=1)
        """[N] bool: the teacher's distribution is known. Without it a token has no divergence (0, no gradient)."""
        # Absent entries point at a real one, so that gathering and scattering by id does nothing for them. Where there
        # is none the stored ids mean nothing, and may lie outside the vocabulary.
        first = ids.gather(1, real.to(torch.int64).argmax(dim=1, keepdim=True))
        self.ids = torch.where(real, ids, torch.where(self.known[:, None], first, 0))
        self.logprobs = logprobs.masked_fill(~real, FLOOR)
        mass = self.logprobs.exp().sum(dim=1)
        covers_all = real.sum(dim=1) >= vocabulary_size
        self.mass = torch.where(covers_all, torch.ones_like(mass), mass.clamp(max=1.0))
        """[N], P_H; rounding of stored logprobs may take the sum above 1."""


def decoupled(logits: Tensor, head_ids: Tensor, head_logprobs: Tensor, temperature: float) -> Tensor:
    """KL of teacher to student with the tail as one bucket, per token.

    Args:
        logits: [N, V] of the student, any float dtype.
        head_ids, head_logprobs: [N, K], see `Head`.
    Returns:
        [N], nats; 0 where the student's head logprobs equal the teacher's, and where the teacher's are not known.
    """
    logits = _at_least_float32(logits)
    head = Head(head_ids, head_logprobs.to(logits.dtype), logits.shape[1])
    total = logits.logsumexp(dim=1)
    taken = logits.gather(1, head.ids).masked_fill(~head.real, FLOOR)
    tail = logits.scatter(1, head.ids, FLOOR)
    bernoulli = _bernoulli_kl(head.mass, taken.logsumexp(dim=1) - total, tail.logsumexp(dim=1) - total)
    total_kl = bernoulli + head.mass * temperature**2 * _head_kl(head, taken, temperature)
    return total_kl.masked_fill(~head.known, 0.0)


def renormalised(logits: Tensor, head_ids: Tensor, head_logprobs: Tensor, temperature: float) -> Tensor:
    """The usual top-K loss, for comparison: the teacher's head renormalised at T as if there were no tail, against
    the student's softmax over the whole vocabulary. Not 0 at equality: it pushes the tail's mass into the head.

    Returns:
        [N], T^2 times nats.
    """
    logits = _at_least_float32(logits)
    head = Head(head_ids, head_logprobs.to(logits.dtype), logits.shape[1])
    log_p = (head.logprobs / temperature).log_softmax(dim=1)
    scaled = logits / temperature
    log_q = scaled.gather(1, head.ids) - scaled.logsumexp(dim=1, keepdim=True)
    divergence = (log_p.exp() * (log_p - log_q)).masked_fill(~head.real, 0.0).sum(dim=1)
    return temperature**2 * divergence


def distillation(
    logits: Tensor,
    targets: Tensor,
    head_ids: Tensor,
    head_logprobs: Tensor,
    corrected: Tensor,
    *,
    name: LossName,
    temperature: float,
    hard_loss_weight: float,
) -> Tensor:
    """h * CE + (1 - h) * soft, per token; one without a teacher's distribution counts as CE alone.

    Corrected tokens have none, and neither has a token whose head holds no real entry.

    Args:
        logits: [N, V]; targets: [N]; corrected: [N] bool; the rest as in `decoupled`.
    Returns:
        [N], nats. Sum it and divide by the number of supervised tokens of the whole optimizer step.
    """
    hard = cross_entropy(logits, targets)
    soft = (decoupled if name == "decoupled" else renormalised)(logits, head_ids, head_logprobs, temperature)
    mixed = hard_loss_weight * hard + (1 - hard_loss_weight) * soft
    taught = real_entries(head_logprobs).any(dim=1) & ~corrected
    return torch.where(taught, mixed, hard)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """[N, V], [N] -> [N], nats."""
    return functional.cross_entropy(_at_least_float32(logits), targets, reduction="none")


def _bernoulli_kl(mass: Tensor, log_q_head: Tensor, log_q_tail: Tensor) -> Tensor:
    """KL(Bern(P) || Bern(Q)) from P and both logarithms of Q; 0 * log 0 is 0."""
    rest = 1 - mass
    head = torch.xlogy(mass, mass) - mass * log_q_head
    tail = torch.xlogy(rest, rest) - rest * log_q_tail
    return torch.where(mass > 0, head, torch.zeros_like(head)) + torch.where(rest > 0, tail, torch.zeros_like(tail))


def _head_kl(head: Head, taken: Tensor, temperature: float) -> Tensor:
    log_p = (head.logprobs / temperature).masked_fill(~head.real, FLOOR).log_softmax(dim=1)
    log_q = (taken / temperature).masked_fill(~head.real, FLOOR).log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).masked_fill(~head.real, 0.0).sum(dim=1)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
