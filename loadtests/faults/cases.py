"""The table of faults: each row is a case, defined once, run by the tests against Locum and by `make faults` against
every gateway that can be installed."""

from __future__ import annotations

from loadtests.faults.client_cases import CLIENTS, FIDELITY, PROCESS
from loadtests.faults.judging import Case
from loadtests.faults.upstream_cases import BEFORE_THE_FIRST_BYTE, BREAKING

GROUPS: dict[str, tuple[Case, ...]] = {
    "The stream breaks": BREAKING,
    "It fails before the first byte": BEFORE_THE_FIRST_BYTE,
    "Clients": CLIENTS,
    "Fidelity": FIDELITY,
    "The process": PROCESS,
}
CASES: tuple[Case, ...] = tuple(case for group in GROUPS.values() for case in group)
