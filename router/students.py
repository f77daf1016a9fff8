"""Makes generations: a student of the configuration or of a promoted bundle, under the policy document in force."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from policies.base import Policy, PolicyConfigError, Signal, StudentDefaults
from policies.bundle import Bundle
from policies.chain import PolicyChain
from router.additions import Additions
from router.backends import AbsentStudent, Backend
from router.config import Config, ConfigError, StudentConfig
from router.documents.document import Version, seed_of
from router.encoder import Encoder, EncoderUnavailable
from router.generations import Equipment, Generation, Users
from router.machine import MachineClock, machine_of
from router.resilience.pool import OnBreaker, Pool
from router.routing import Decider, build_chain
from router.signals import SignalSource
from router.tokenizer import PromptTokenizer, TokenizerUnsupported, load_tokenizer

if TYPE_CHECKING:
    from router.governance.governance import Governance

logger = logging.getLogger(__name__)

ENCODER_SIGNALS = frozenset({Signal.CHUNK_SIMILARITIES, Signal.PROMPT_EMBEDDING})
NO_BUNDLE = "none"
"""`Generation.bundle_id` while the registry has no bundle that serves."""


class Students:
    """The one place that knows what a student brings along. What all of them share is made once."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str] = os.environ,
        *,
        on_breaker: OnBreaker = lambda name, state: None,
        governance: Governance | None = None,
    ) -> None:
        """
        Args:
            governance: of the gateway; None where nothing is served (`locum explain`).
        Raises:
            ConfigError.
        """
        self._governance = governance
        self._config = config
        self._on_breaker = on_breaker
        self._environ = environ
        self.machines: dict[str, MachineClock | None] = {
            name: machine_of(name, student.machine_usd_per_hour) for name, student in config.student.endpoints()
        }
        """By the endpoint's name: one student after the other uses them."""
        self.version = seed_of(config, now_s=time.time())
        """The policy document that new generations are made under."""
        self.encoder: Encoder | None = None
        self.equip(build_chain(config.routing).asked_first)

    def equip(self, policies: tuple[Policy, ...]) -> bool:
        """Load the encoder if these policies ask for it and it is not there; takes seconds.

        Returns:
            Whether it was loaded: then it is to be warmed.
        Raises:
            ConfigError: it cannot be loaded.
        """
        if self.encoder is not None:
            return False
        self.encoder = _encoder(self._config, policies)
        return self.encoder is not None

    async def close(self) -> None:
        if self.encoder is not None:
            await self.encoder.close()

    def first(self) -> Generation:
        """What the gateway starts with; with a registry no student is there until it is loaded. Raises: ConfigError."""
        student = self._config.student
        if student.registry is not None:
            equipment = Equipment(StudentDefaults(bundle_id=NO_BUNDLE), None)
            return self._generation(equipment, self._pool([AbsentStudent(student)]), self._chain(equipment))
        equipment = Equipment(StudentDefaults(bundle_id=student.model), _configured_tokenizer(student))
        return self._generation(equipment, self._pool(self._backends(student)), self._chain(equipment))

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
            certificate=folder / bundle.certificate if bundle.certificate else None,
            cascade_threshold=bundle.cascade_threshold,
            model_sha256=bundle.model_sha256,
        )
        equipment = Equipment(defaults, _tokenizer_of(folder / bundle.model))
        try:
            chain = self._chain(equipment)
        except PolicyConfigError as exc:
            raise ConfigError(f"bundle {bundle.bundle_id}", [f"routing.policies.{exc}"]) from exc
        backends = self._backends(_of_bundle(self._config.student, bundle, base_url))
        for backend in backends:
            backend.window_tokens = backend.window_tokens or bundle.context_window_tokens
        return self._generation(equipment, self._pool(backends), chain)

    def revised(self, generation: Generation, version: Version) -> Generation:
        """The same student under another policy document. Reads files; the encoder has been loaded (`equip`).

        Raises:
            PolicyConfigError: prefixed with the index of the policy.
        """
        chain = self._chain(generation.equipment, version)
        return self._generation(generation.equipment, generation.student, chain, version, generation.users)

    def _chain(self, equipment: Equipment, version: Version | None = None) -> PolicyChain:
        version = version or self.version
        return build_chain(version.document.routing, equipment.defaults, version=version.version)

    def _backends(self, student: StudentConfig) -> list[Backend]:
        return [
            Backend("student", config, self._environ, name=name, machine=self.machines.get(name))
            for name, config in student.endpoints()
        ]

    def _pool(self, backends: list[Backend]) -> Pool:
        config = self._config
        return Pool(backends, config.resilience, spread=config.student.spread, on_breaker=self._on_breaker)

    def _wanted(self, chain: PolicyChain) -> Additions:
        student = self._config.student
        judged = bool(chain.reviewers) or (chain.shadows is not None and chain.shadows.reviews)
        logprobs = student.capture_logprobs or judged
        return Additions(
            logprobs=logprobs, token_ids=student.capture_token_ids, top_logprobs=chain.measures.top_logprobs
        )

    def _generation(
        self,
        equipment: Equipment,
        student: Pool,
        chain: PolicyChain,
        version: Version | None = None,
        users: Users | None = None,
    ) -> Generation:
        document = (version or self.version).document
        budget_s = self._config.encoder.latency_budget_s
        signals = SignalSource(tokenizer=equipment.tokenizer, encoder=self.encoder, budget_s=budget_s)
        decider = Decider(self._config, document.routing, chain, signals, student, self._governance)
        return Generation(student, decider, document, equipment, self._wanted(chain), users)


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
