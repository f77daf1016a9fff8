"""From a parsed request to a decision: the forced route if there is one, else the policy chain."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from policies.base import Extend, RequestFeatures, Route, RouteDecision, Signal, StudentDefaults
from policies.chain import Evaluation, Measure, PolicyChain, Vote
from policies.governing import Governors
from policies.record import Draft
from policies.shadowing import Shadows
from router.chat import ChatRequest
from router.config import DEFAULT_OUTPUT_FRACTION, DEFAULT_OUTPUT_TOKENS, Config, RouteName, RoutingConfig
from router.errors import InvalidRequest, ModelNotFound
from router.signals import SignalSource

if TYPE_CHECKING:
    from router.governance.governance import Governance
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
    name = f"{f'v{version}' if version else 'file'}-{digest[:12]}"
    return PolicyChain(
        built.policies,
        reviewers=built.reviewers,
        version=name,
        default_route=config.default_route,
        on_policy_error=config.on_policy_error,
        standings=built.standings,
        governors=Governors(built.governors, version=name) if built.governors else None,
        shadows=Shadows(built.shadows, version=name) if built.shadows else None,
    )


def model_names(config: Config) -> dict[str, RouteName | str]:
    """Every model name that clients may use, with what it means."""
    return {"auto": "auto", "student": "student", "teacher": "teacher", **config.aliases}


class Decider:
    """Decides by one chain about one student. Shared by the gateway and `locum explain`."""

    def __init__(
        self,
        config: Config,
        routing: RoutingConfig,
        chain: PolicyChain,
        signals: SignalSource,
        student: Pool,
        governance: Governance | None = None,
    ) -> None:
        """
        Args:
            routing: what the chain was built from; the configuration's own may be older.
            governance: tells governors what they look at; without it they let every decision stand.
        """
        self._governance = governance if chain.governors is not None else None
        self.is_governed = chain.governors is not None or chain.shadows is not None
        """Whether the end of a request has to be told to the gateway's governance."""
        self.version = chain.version
        self.chain = chain
        self.reviews = bool(chain.reviewers) or (chain.shadows is not None and chain.shadows.reviews)
        """Whether drafts of the student are judged, be it in shadow."""
        self.commit_window = chain.commit_window
        self._signals = signals
        self._student = student
        self._models = model_names(config)
        self._configured_output_tokens = routing.default_output_tokens

    async def decide(
        self,
        request: ChatRequest,
        *,
        tenant: str,
        every_vote: bool = False,
        decision_id: str = "",
        both_models: bool = True,
    ) -> Evaluation:
        """The decision, without calling a backend.

        Args:
            every_vote: ask every policy, also behind a decision and for a forced route.
            decision_id: decides what is drawn; without one nothing is.
            both_models: the tenant may use either.
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
            if self._governance is not None:
                features = self._governance.informed(
                    features, request, decision_id, reviewed=self._would_review(request), both_models=both_models
                )
            measure = self._measure(request)
            evaluation = await self.chain.evaluate(features, measure, every_vote=every_vote)
            if every_vote and self.chain.shadows is not None:
                said = await self.ask_shadows(request, evaluation)
                evaluation = msgspec.structs.replace(evaluation, votes=evaluation.votes + said)
            if forced is None:
                return evaluation
            return msgspec.structs.replace(evaluation, decision=self._decision(forced))
        return Evaluation(decision=self._decision(forced), votes=(), features=features)

    def review(self, features: RequestFeatures, draft: Draft) -> tuple[RouteDecision | Extend | None, tuple[Vote, ...]]:
        """What the reviewers say about a draft of the student; None when all of them let it stand."""
        return self.chain.review(features, draft)

    async def ask_shadows(self, request: ChatRequest, evaluation: Evaluation) -> tuple[Vote, ...]:
        """What the policies in shadow say before generation; to be asked while a model is at work."""
        assert self.chain.shadows is not None  # noqa: S101 - the caller has looked
        return await self.chain.shadows.ask(evaluation.features, evaluation.decision, self._measure(request))

    def _measure(self, request: ChatRequest) -> Measure:
        async def measure(signal: Signal, current: RequestFeatures) -> RequestFeatures:
            return await self._signals.measure(signal, current, request.prompt_texts())

        return measure

    def _would_review(self, request: ChatRequest) -> bool:
        """Whether a student's answer to this request is judged by reviewers that have a say."""
        chain = self.chain
        seen = bool(chain.reviewers) and (not request.stream or chain.commit_window is not None)
        return seen and request.choices == 1 and request.reviewable

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
