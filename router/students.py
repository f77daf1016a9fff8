"""Makes generations: from the configuration alone, or from a bundle that the registry has promoted."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from policies.base import Policy, PolicyConfigError, Signal, StudentDefaults
from policies.bundle import Bundle
from policies.chain import PolicyChain
from router.additions import Additions
from router.backends import AbsentStudent, Backend
from router.config import Config, ConfigError, StudentConfig
from router.encoder import Encoder, EncoderUnavailable
from router.generations import Generation
from router.routing import Decider, build_chain
from router.signals import SignalSource
from router.tokenizer import PromptTokenizer, TokenizerUnsupported, load_tokenizer

logger = logging.getLogger(__name__)

ENCODER_SIGNALS = frozenset({Signal.CHUNK_SIMILARITIES, Signal.PROMPT_EMBEDDING})
NO_BUNDLE = "none"
"""`Generation.bundle_id` while the registry has no bundle that serves."""


class Students:
    """The one place that knows what a student brings along. What all of them share is made once."""

    def __init__(self, config: Config, environ: Mapping[str, str] = os.environ) -> None:
        """Raises: ConfigError."""
        self._config = config
        self._environ = environ
        self.encoder = _encoder(config, build_chain(config.routing).policies)

    def first(self) -> Generation:
        """What the gateway starts with; with a registry no student is there until it is loaded. Raises: ConfigError."""
        student = self._config.student
        if student.registry is not None:
            chain = build_chain(self._config.routing, StudentDefaults(bundle_id=NO_BUNDLE))
            return self._generation(chain, AbsentStudent(student), None, NO_BUNDLE)
        chain = build_chain(self._config.routing, StudentDefaults(bundle_id=student.model))
        return self._generation(chain, self._backend(student, chain), _configured_tokenizer(student), student.model)

    def of_bundle(self, bundle: Bundle, folder: Path, base_url: str | None = None) -> Generation:
        """A bundle with all that it brings: tokenizer, calibrator, threshold, prices, window. Reads files.

        Args:
            folder: of the bundle.
            base_url: where its model is served; None asks nobody (`locum explain`).
        Raises:
            ConfigError: it cannot be used with this configuration.
        """
        defaults = StudentDefaults(
            bundle_id=bundle.bundle_id,
            calibrator=folder / bundle.calibrator if bundle.calibrator else None,
            cascade_threshold=bundle.cascade_threshold,
            model_sha256=bundle.model_sha256,
        )
        try:
            chain = build_chain(self._config.routing, defaults)
        except PolicyConfigError as exc:
            raise ConfigError(f"bundle {bundle.bundle_id}", [f"routing.policies.{exc}"]) from exc
        student = self._backend(_of_bundle(self._config.student, bundle, base_url), chain)
        student.window_tokens = student.window_tokens or bundle.context_window_tokens
        return self._generation(chain, student, _tokenizer_of(folder / bundle.model), bundle.bundle_id)

    def _backend(self, student: StudentConfig, chain: PolicyChain) -> Backend:
        logprobs = student.capture_logprobs or bool(chain.reviewers)
        wanted = Additions(logprobs=logprobs, token_ids=student.capture_token_ids)
        return Backend("student", student, self._environ, wanted=wanted)

    def _generation(
        self, chain: PolicyChain, student: Backend, tokenizer: PromptTokenizer | None, bundle_id: str
    ) -> Generation:
        budget_s = self._config.encoder.latency_budget_s
        signals = SignalSource(tokenizer=tokenizer, encoder=self.encoder, budget_s=budget_s)
        return Generation(student, Decider(self._config, chain, signals, student), bundle_id)


def _of_bundle(student: StudentConfig, bundle: Bundle, base_url: str | None) -> StudentConfig:
    """The configuration of one bundle: its prices, where it has both, win over the configured ones."""
    changes: dict[str, object] = {"base_url": base_url} if base_url is not None else {}
    prices = bundle.price_usd_per_1m_input_tokens, bundle.price_usd_per_1m_output_tokens
    if None not in prices:
        changes["price_usd_per_1m_input_tokens"], changes["price_usd_per_1m_output_tokens"] = prices
    return student.model_copy(update=changes)


def _configured_tokenizer(student: StudentConfig) -> PromptTokenizer | None:
    """A configured one must load; with an unsupported kind in the model's folder the length estimate stands."""
    if student.tokenizer is not None:
        try:
            return load_tokenizer(Path(student.tokenizer))
        except TokenizerUnsupported as exc:
            raise ConfigError("student.tokenizer", [str(exc)]) from exc
    return _tokenizer_of(student.model_folder) if student.model_folder is not None else None


def _tokenizer_of(model: Path) -> PromptTokenizer | None:
    """None: the length estimate stands, and the votes of `long_context` say so."""
    try:
        return load_tokenizer(model)
    except TokenizerUnsupported as exc:
        logger.warning("%s", exc)
        return None


def _encoder(config: Config, policies: tuple[Policy, ...]) -> Encoder | None:
    wanted = [p.name for p in policies if getattr(p, "optional_signals", frozenset)() & ENCODER_SIGNALS]
    if not wanted:
        return None
    try:
        return Encoder.load(config.encoder)
    except EncoderUnavailable as exc:
        raise ConfigError("encoder", [f"the policy {wanted[0]} asks for local embeddings: {exc}"]) from exc
