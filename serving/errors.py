"""What can go wrong between a model on disk and a student that answers.

ServingError
├── ModelError        the model's folder cannot be served; one problem a line (wrong input)
├── LaunchError       the machine cannot start it: interpreter, port, secret (wrong input)
├── ProcessFailed     the process died for good; carries the end of its log
├── PreparationError  a pinned model cannot be downloaded, verified or converted
└── RegistryError     the registry of bundles cannot do what was asked; nothing was changed
    ├── UnknownBundle      there is no bundle of that id (wrong input)
    ├── DamagedBundle      a bundle's files are not what its manifest says
    └── PromotionRefused   the bundle's verdict, or there is nothing to go back to
"""

from __future__ import annotations

import re
from collections.abc import Sequence

TAIL_IN_MESSAGE_LINES = 40
CAUSE = re.compile(r"\b(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): \S.*|(?<=\.py: )error: \S.*")
"""An exception's line, or argparse's."""
SECONDHAND_CAUSE = re.compile(r"Engine core initialization failed|EngineDeadError|WorkerProc initialization failed")
"""What vLLM's API process says about a failure of its engine process, whose own error stands further up."""


class ServingError(Exception):
    """Base of all errors of this package."""


class ModelError(ServingError):
    """The model's folder cannot be served as the options ask. Each problem names the file or option and the fix."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class LaunchError(ServingError):
    """This machine cannot launch the process; the message names the option and the fix."""


class ProcessFailed(ServingError):
    """The supervised process died (or hung) and is not restarted any more."""

    def __init__(self, reason: str, log_tail: Sequence[str] = ()) -> None:
        self.reason = reason
        self.log_tail = tuple(log_tail)
        super().__init__("\n".join([reason, *describe_log(self.log_tail)]))


class PreparationError(ServingError):
    """A pinned model cannot be made ready; the message says what failed and what to do."""


class RegistryError(ServingError):
    """The registry cannot do what was asked. What was current before is current still."""


class UnknownBundle(RegistryError):
    """There is no bundle of that id; the message lists those there are."""


class DamagedBundle(RegistryError):
    """A file of a bundle is missing, changed, or contradicts another; the message names it."""


class PromotionRefused(RegistryError):
    """The bundle may not be made current; the message says why and what would be needed."""


def describe_log(lines: Sequence[str]) -> list[str]:
    """The end of a log for a person to read, and before it the line that most likely says why."""
    if not lines:
        return ["It wrote no log."]
    cause = likely_cause(lines)
    shown = [f"  | {line}" for line in lines[-TAIL_IN_MESSAGE_LINES:]]
    return [*([f"Likely cause: {cause}"] if cause else []), "The end of its log:", *shown]


def likely_cause(lines: Sequence[str]) -> str | None:
    """The last exception that is not a report of another one."""
    found = [match.group() for line in lines if (match := CAUSE.search(line))]
    return next((cause for cause in reversed(found) if not SECONDHAND_CAUSE.search(cause)), None)
