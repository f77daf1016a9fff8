"""What a policy document would have done with the logged requests: share, cost, latency and quality, with intervals.

**The question.** A request has features X and four possible outcomes of interest: how good, how dear, how slow the
student's answer S would be, and the teacher's T. A document is a function of X, and with a cascade of the student's
draft as well. It ends in one of three actions: S, T, or T after a draft D. Quality depends on whose answer is
delivered; cost of D then T is that of both; latency is the draft's time and the teacher's. What is wanted is the mean
outcome under a document that was not in force.

**What the log tells.** Where the document would do what was done, everything. Elsewhere:

- *Which action* is computed, not estimated: from recorded features and scores before generation, and after it from the
  recorded draft (mean logprob, finish reason, emptiness), so another threshold of a cascade is replayed exactly for
  every request that had a draft, or was answered by the student with logprobs. A stream is judged by its first tokens:
  exact under a window of the same size, or when the answer ends within it. For requests that were escalated before
  generation the review is unknown. A shadow of the student shows it for a sample of known propensity; a model of the
  known reviews covers the rest and is corrected by that sample. Without shadows these requests count as *unsupported*.
- *Deterministic policies have no overlap*: the propensity of the action that was taken is 1, of the other 0, and no
  reweighting of what was delivered says anything about requests that would move. Two things give overlap. Shadow
  sampling puts a request to the other model as well with a probability that is recorded; given who answered, the
  draw depends on nothing but the record, so among requests that one model answered a graded shadow has *both* outcomes,
  weighted 1/propensity. Exploration draws the route itself; its propensity is in the decision.
- *Strata.* Requests answered by the student and by the teacher (and those not captured in full, which are never
  shadowed) were drawn under different designs and stand only for their own kind. An outcome that was never observed in
  a stratum is unsupported there: quality is then refused with a warning when it concerns more than 5 % of the requests;
  below that the interval allows for the best and the worst. Nothing is extrapolated silently. Quality *loss* against
  all-teacher needs labels only where the document would use the student; it is paired, so its interval is that of the
  difference.
- *Cost* of the answer that was not made: from shadows; else from the stated price of the teacher for the same tokens
  (a warning says so). *Latency* of the other model: a model fitted on the requests that it answered.

**Estimators** (policies/replay/estimators.py): inverse propensity, self-normalised, and doubly robust, the default: the
prediction of a cross-fitted outcome model plus the weighted residuals. It is right when the propensities are, whatever
the model is worth, and those are not estimated but recorded.

**What is not the policy's doing.** Fall backs and degraded answers: the request counts with the route that a document
chooses; the answer's grade is a label of the model that gave it; its latency is not used. Requests without an answer,
answers from the cache and embeddings are left out; forced routes stay as they are under every document.

**What it assumes.** Requests do not influence each other (no queueing effects of more load on the student), the future
is like the log, the models are those of the log (only records of one student count), grades mean what they say, and
answers that graders could not grade, or budgets left out, are like the others. Feedback, used where nothing is
shadowed, is taken to be given at random within a stratum, which nobody guarantees.
"""
