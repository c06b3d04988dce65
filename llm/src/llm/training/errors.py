"""Why training ends before its last step."""

from __future__ import annotations

import signal


class BadStepError(RuntimeError):
    """A step that would harm the model; the weights are those of the step before."""


class NonFiniteLossError(BadStepError):
    """The loss or its gradient is not a number."""


class LossSpikeError(BadStepError):
    """The loss has leapt."""


class OutOfMemoryError(RuntimeError):
    """A step does not fit into memory, and no smaller forward is possible."""


class TrainingStoppedError(RuntimeError):
    """A signal asked training to stop; it did so after a whole step.

    Args:
        message: what was saved where.
        received: the signal.
    """

    def __init__(self, message: str, received: signal.Signals) -> None:
        super().__init__(message)
        self.received = received
        # what a shell says of a process that the signal ended
        self.exit_code = 128 + received
