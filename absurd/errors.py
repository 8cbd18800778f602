"""Every exception of the library: one base, one line each; control signals are no ``Exception``.

Application code catches ``AbsurdError`` or one of its kinds. The control signals at the end derive from ``BaseException``
so that an ``except Exception`` around a wait in a handler cannot swallow them.
"""

from __future__ import annotations

import builtins


class AbsurdError(Exception):
    """Base of every error that the library raises."""


class ConfigurationError(AbsurdError):
    """A setting, an option or an argument cannot be used as it was given."""


class AppNotFoundError(ConfigurationError):
    """No application could be imported from ``--app``, ``ABSURD_APP`` or ``[tool.absurd]``."""


class DatabaseError(AbsurdError):
    """The database refused a statement for a reason that has no kind of its own below."""


class DatabaseUnavailableError(DatabaseError):
    """The database cannot be reached, or the connection broke."""


class SchemaError(DatabaseError):
    """The schema ``absurd`` is missing, older or newer than this release needs."""


class EmbeddedPostgresError(AbsurdError):
    """The embedded PostgreSQL could not be found, started or stopped."""


class QueueNotFoundError(AbsurdError):
    """No queue of that name exists."""


class TaskNotFoundError(AbsurdError):
    """No task of that id exists."""


class TokenError(AbsurdError):
    """A token cannot be used. ``reason``: ``unknown``, ``used``, ``expired``, or ``ended`` when its task has."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ScheduleNotFoundError(AbsurdError):
    """No schedule of that name exists."""


class ScheduleConflictError(AbsurdError):
    """A schedule of that name exists with another definition or owner, or was changed meanwhile."""


class InvalidOptionError(ConfigurationError, ValueError):
    """An option of a task or queue is out of its range or of the wrong type."""


class SerializationError(AbsurdError, TypeError):
    """A value is no JSON, or holds something that PostgreSQL cannot store."""


class ValidationError(AbsurdError, ValueError):
    """A value does not fit the type that the task or step declares."""


class PayloadTooLargeError(AbsurdError, ValueError):
    """A value is larger than the queue allows."""


class TaskFailedError(AbsurdError):
    """The awaited task ended as failed; ``failure`` holds what is known."""

    def __init__(self, message: str, failure: object = None) -> None:
        super().__init__(message)
        self.failure = failure


class TaskCancelledError(AbsurdError):
    """The awaited task ended as cancelled."""


class TimeoutError(AbsurdError, builtins.TimeoutError):
    """A wait ended by its timeout; the builtin ``TimeoutError`` catches it too."""


class NonRetryableError(AbsurdError):
    """Raised by a handler: the task fails at once, however many attempts are left."""


class ReplayMismatchError(AbsurdError):
    """The handler took other steps than the ones recorded before (strict replay only)."""


class ContextError(AbsurdError):
    """A context was used outside its run, or in a way that cannot be replayed."""


class RunInterrupted(BaseException):
    """Base of the control signals that end a run without an outcome of the handler's own."""


class RunSuspended(RunInterrupted):
    """The run goes to sleep until its wait is over."""


class RunCancelled(RunInterrupted):
    """The task has been cancelled (SQLSTATE AB001)."""


class RunLost(RunInterrupted):
    """The run's lease has gone to another worker, or the run has ended (SQLSTATE AB002)."""


class RunReleased(RunInterrupted):
    """The worker shuts down and hands the run back."""
