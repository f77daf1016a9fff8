"""From a parsed request to a decision: the forced route if there is one, else the policy chain."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from policies.base import Extend, RequestFeatures, Route, RouteDecision, Signal, StudentDefaults
from policies.chain import Evaluation, PolicyChain, Vote
from policies.record import Draft
from router.chat import ChatRequest
from router.config import DEFAULT_OUTPUT_FRACTION, DEFAULT_OUTPUT_TOKENS, Config, RouteName, RoutingConfig
from router.errors import InvalidRequest, ModelNotFound
from router.signals import SignalSource

if TYPE_CHECKING:
    from router.resilience.pool import Pool

FORCED_POLICY = "request"
"""Stands as the policy of a decision that the client made."""


def build_chain(config: RoutingConfig, student: StudentDefaults | None = None, *, version: int = 0) -> PolicyChain:
    """The chain of a policy document, named by its number and its content. Raises: PolicyConfigError.

    Args:
        student: a bundle that brings thresholds along; it is part of the name.
        version: of the document; 0 is the configuration file.
    """
    content = config.model_dump_json() + (student.bundle_id if student else "")
    digest = hashlib.sha256(content.encode()).hexdigest()
    built = config.build_policies(student)
    return PolicyChain(
        built.policies,
        reviewers=built.reviewers,
        version=f"{f'v{version}' if version else 'file'}-{digest[:12]}",
        default_route=config.default_route,
        on_policy_error=config.on_policy_error,
    )


def model_names(config: Config) -> dict[str, RouteName | str]:
    """Every model name that clients may use, with what it means."""
    return {"auto": "auto", "student": "student", "teacher": "teacher", **config.aliases}


class Decider:
    """Decides by one chain about one student. Shared by the gateway and `locum explain`."""

    def __init__(
        self, config: Config, routing: RoutingConfig, chain: PolicyChain, signals: SignalSource, student: Pool
    ) -> None:
        """
        Args:
            routing: what the chain was built from; the configuration's own may be older.
        """
        self.version = chain.version
        self.chain = chain
        self.reviews = bool(chain.reviewers)
        """Whether drafts of the student are judged."""
        self.commit_window = chain.commit_window
        self._signals = signals
        self._student = student
        self._models = model_names(config)
        self._configured_output_tokens = routing.default_output_tokens

    async def decide(self, request: ChatRequest, *, tenant: str, every_vote: bool = False) -> Evaluation:
        """The decision, without calling a backend.

        Args:
            every_vote: ask every policy, also behind a decision and for a forced route.
        Raises:
            ModelNotFound, InvalidRequest: the model name is unknown or contradicts `router.route`.
        """
        forced = self._forced_route(request)
        features = request.features(
            tenant=tenant,
            default_output_tokens=self._default_output_tokens(),
            student_window_tokens=self._student.window_tokens,
        )
        if forced is None or every_vote:

            async def measure(signal: Signal, current: RequestFeatures) -> RequestFeatures:
                return await self._signals.measure(signal, current, request.prompt_texts())

            evaluation = await self.chain.evaluate(features, measure, every_vote=every_vote)
            if forced is None:
                return evaluation
            return msgspec.structs.replace(evaluation, decision=self._decision(forced))
        return Evaluation(decision=self._decision(forced), votes=(), features=features)

    def review(self, features: RequestFeatures, draft: Draft) -> tuple[RouteDecision | Extend | None, tuple[Vote, ...]]:
        """What the reviewers say about a draft of the student; None when all of them let it stand."""
        return self.chain.review(features, draft)

    def _decision(self, forced: Route) -> RouteDecision:
        return RouteDecision(route=forced, reason="forced", policy=FORCED_POLICY, version=self.version)

    def _forced_route(self, request: ChatRequest) -> Route | None:
        meant = self._models.get(request.model)
        if meant is None:
            raise ModelNotFound(request.model, list(self._models))
        wanted = request.directives.route or "auto"
        if meant != "auto" and wanted not in ("auto", meant):
            raise InvalidRequest(
                f"router.route is {wanted!r}, but the model {request.model!r} means {meant!r}. Use the model 'auto'.",
                param="router.route",
            )
        chosen = meant if wanted == "auto" else wanted
        if chosen == "auto":
            return None
        return "student" if chosen == "student" else "teacher"

    def _default_output_tokens(self) -> int:
        if self._configured_output_tokens is not None:
            return self._configured_output_tokens
        window_tokens = self._student.window_tokens
        return DEFAULT_OUTPUT_TOKENS if window_tokens is None else max(1, window_tokens // DEFAULT_OUTPUT_FRACTION)
