"""What is stored of an exception. Whatever the exception is, this never raises and never yields what the database refuses."""

from __future__ import annotations

import traceback

from absurd.codec import encode
from absurd.errors import NonRetryableError, PayloadTooLargeError, SerializationError, ValidationError

# Characters kept of a message and of a traceback: what a person reads, not what a runaway repr() produces.
MAX_MESSAGE = 10_000
MAX_TRACEBACK = 50_000
MAX_SUMMARY = 300

# Trying again cannot mend these: the same code makes the same value.
HOPELESS = (NonRetryableError, SerializationError, ValidationError, PayloadTooLargeError)


def describe(error: BaseException) -> str:
    """JSON text of a failure: name, message, traceback."""
    return encode(
        {
            "name": _clean(error_name(error), 500),
            "message": _clean(_message(error), MAX_MESSAGE),
            "traceback": _clean(_trace(error), MAX_TRACEBACK),
        },
        "failure",
    )


def summary(error: BaseException) -> str:
    """Name and message on one line, for logs."""
    text = f"{error_name(error)}: {_message(error)}"[:MAX_SUMMARY]
    return "".join(char if char.isprintable() else " " for char in text)


def is_retryable(error: BaseException, no_retry_on: tuple[type[BaseException], ...]) -> bool:
    """Whether another attempt may make sense."""
    return not isinstance(error, (*HOPELESS, *no_retry_on))


def error_name(error: BaseException) -> str:
    """The name under which the failure of an attempt is stored."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as problem:  # user code: __str__ may raise anything
        return f"(the message of this {type(error).__name__} cannot be read: its __str__ raised {type(problem).__name__})"


def _trace(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException as problem:
        return f"(no traceback: formatting it raised {type(problem).__name__})"


def _clean(text: str, limit: int) -> str:
    """Text that PostgreSQL stores: no NUL characters, no lone surrogates, not endless."""
    if len(text) > limit:
        text = f"{text[: limit // 2]}\n… {len(text) - limit} characters left out …\n{text[-limit // 2 :]}"
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
