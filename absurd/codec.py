"""JSON in and out, exactly: what is stored comes back equal, or is refused by name before anything is stored.

orjson does the work where it is exact. It turns NaN into null, refuses integers beyond 64 bits when writing and rounds them when
reading; those cases go through the standard library. PostgreSQL's ``jsonb`` cannot hold NUL characters and lone surrogates, so
both are refused here, by the path at which they stand.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import inspect
import json
import math
import operator
import re
import sys
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import orjson
import typing_extensions

from absurd.errors import SerializationError, ValidationError

if typing.TYPE_CHECKING:
    from pydantic import TypeAdapter

_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
# An integer that may not fit into 64 bits has at least this many digits. One that long shows at every 19th place, which is seven
# times as fast to look at.
_LONG_NUMBER = re.compile(r"[0-9]{19}")
_DIGIT = re.compile(r"[0-9]")
# A reader's depth limit: deeper values would be stored but could not be read back by every client.
_MAX_DEPTH = 200


def encode(value: Any, what: str) -> str:
    """JSON text of a value.

    Args:
        value: what JSON can hold; tuples become arrays, enums their values, UUIDs strings.
        what: names the value in errors, such as ``result of step "charge"``.

    Raises:
        SerializationError: it is no JSON, or holds NaN, an infinity, a NUL character or a lone surrogate.
    """
    try:
        raw = orjson.dumps(value, option=_OPTIONS)
    except (TypeError, RecursionError) as error:
        return _encode_slowly(value, what, error)
    # NaN and infinities come out as null: look closer wherever there is one.
    if b"null" in raw or b"\\u0000" in raw:
        return _encode_slowly(value, what, None)
    return raw.decode()


def decode(text: str, what: str = "a stored value") -> Any:
    """The value of a JSON text, with all digits of its integers; ``what`` names it in errors.

    Raises:
        SerializationError: it is none, or Python cannot read it: too deep, or an integer of more than 4,300 digits.
    """
    try:
        if _DIGIT.search(text[18::19]) and _LONG_NUMBER.search(text):
            return json.loads(text)
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SerializationError(f"{what} cannot be read: {error}") from None


def copy_through_json(value: Any, text: str) -> Any:
    """What a reader of ``text`` will get for ``value``: the first run returns this too, so that replay is no different."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    return decode(text)


def _encode_slowly(value: Any, what: str, error: BaseException | None) -> str:
    try:
        _refuse_unstorable(value, what, "$", 0)
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_as_json)
    except SerializationError:
        raise
    except (TypeError, ValueError, RecursionError) as problem:
        raise SerializationError(f"{what} cannot be stored as JSON: {problem}") from error


def _as_json(value: Any) -> Any:
    """What orjson converts by itself, for the standard library."""
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} is no JSON type")


def _refuse_unstorable(value: Any, what: str, path: str, depth: int) -> None:
    """Raises for the first part of a value that JSON or PostgreSQL cannot hold, saying where it stands."""
    if depth > _MAX_DEPTH:
        raise SerializationError(f"{what} is nested more than {_MAX_DEPTH} levels deep, or contains itself")
    if isinstance(value, str):
        _refuse_text(value, what, path)
    elif isinstance(value, float) and not math.isfinite(value):
        raise SerializationError(f"{what} holds {value!r} at {path}, which JSON has no way to write; use None or a string")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_key(key, what, path)
            _refuse_unstorable(item, what, f"{path}.{key}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_unstorable(item, what, f"{path}[{index}]", depth + 1)
    elif value is not None and not isinstance(value, (int, float, uuid.UUID, enum.Enum)):
        raise SerializationError(_no_json(value, what, path))


def _refuse_key(key: Any, what: str, path: str) -> None:
    if not isinstance(key, str):
        raise SerializationError(f"{what} has the key {key!r} ({type(key).__name__}) at {path}; JSON keys are strings")
    _refuse_text(key, what, path)


def _refuse_text(value: str, what: str, path: str) -> None:
    if "\x00" in value:
        raise SerializationError(
            f"{what} holds a NUL character (\\u0000) at {path}, which PostgreSQL cannot store; remove or encode it"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        bad = value[error.start]
        raise SerializationError(
            f"{what} holds the lone surrogate {bad!a} at {path}, which is no Unicode text; decode bytes with errors='replace'"
        ) from None


def _no_json(value: Any, what: str, path: str) -> str:
    name = type(value).__name__
    hint = "use plain dicts, lists, strings, numbers, booleans or None"
    if inspect.isawaitable(value):
        hint = "put an await before the call that made it"
    elif hasattr(value, "__dataclass_fields__") or hasattr(value, "model_dump") or hasattr(value, "isoformat"):
        hint = f"declare the type, as annotation of the function or, of a step, with result_type={name}; or convert it yourself"
    return f"{what} holds a value of type {name} at {path}, which is no JSON; {hint}"


class Codec(Protocol):
    """How values of a declared type are stored and read."""

    def encode(self, value: Any, what: str) -> str:
        """JSON text of a value; raises ``SerializationError`` or ``ValidationError``."""

    def decode(self, text: str, what: str) -> Any:
        """The value of a JSON text; raises ``ValidationError`` when it does not fit the type, or ``SerializationError``."""

    def load(self, value: Any, what: str) -> Any:
        """The same, of a value that has been read from JSON already."""


class PlainCodec:
    """Values without a declared type: JSON as it is."""

    def encode(self, value: Any, what: str) -> str:  # noqa: D102
        return encode(value, what)

    def decode(self, text: str, what: str) -> Any:  # noqa: D102
        return decode(text, what)

    def load(self, value: Any, what: str) -> Any:  # noqa: D102
        return value


# Places that a message names; a long list may be wrong at each of its items.
_MAX_PLACES = 20


def _reason(error: Exception) -> str:
    """What pydantic found, and where, without the values that it shows beside: such errors are logged and stored."""
    from pydantic import ValidationError as Misfit

    if not isinstance(error, Misfit):
        return str(error)
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{'.'.join(map(str, one['loc'])) or 'the value'}\n  {one['msg']}" for one in found[:_MAX_PLACES]]
    more = ["…"] if len(found) > _MAX_PLACES else []
    count = "1 validation error" if len(found) == 1 else f"{len(found)} validation errors"
    return "\n".join([f"{count} for {error.title}", *lines, *more])


def _without_input(error: Exception) -> Exception | None:
    """The cause that a traceback may show: none of pydantic's, which repeats what it was given."""
    from pydantic import ValidationError as Misfit

    return None if isinstance(error, Misfit) else error


class TypedCodec:
    """Values of a declared type (dataclass, TypedDict, pydantic model, datetime, …), through pydantic both ways."""

    def __init__(self, adapter: TypeAdapter[Any], name: str) -> None:
        self._adapter = adapter
        self._name = name

    def encode(self, value: Any, what: str) -> str:  # noqa: D102
        try:
            plain = self._adapter.dump_python(self._adapter.validate_python(value), mode="json")
        except Exception as error:
            raise self._misfit(what, error) from _without_input(error)
        return encode(plain, what)

    def decode(self, text: str, what: str) -> Any:  # noqa: D102
        try:
            return self._adapter.validate_json(text)
        except Exception as error:
            raise self._misfit(what, error) from _without_input(error)

    def load(self, value: Any, what: str) -> Any:  # noqa: D102
        return self.decode(encode(value, what), what)

    def _misfit(self, what: str, error: Exception) -> ValidationError:
        return ValidationError(f"{what} does not fit {self._name}: {_reason(error)}")

    def json_schema(self) -> Any:
        """The JSON Schema of values of the type; raises ``SerializationError`` if it has none."""
        from pydantic import PydanticUserError

        try:
            return self._adapter.json_schema()
        except PydanticUserError as error:
            raise SerializationError(f"type {self._name} has no JSON Schema: {error.message}") from None


PLAIN = PlainCodec()
_PLAIN_TYPES = (Any, object, dict, list, str, int, float, bool, None, type(None), typing.Mapping, Mapping)


# Of a key of a TypedDict that must be there, and of one that need not.
_MARKERS: tuple[Any, Any] = (typing.Required, typing.NotRequired)


def codec_for(declared: Any) -> Codec:
    """The codec for a declared type; plain JSON for ``Any``, ``dict``, ``list`` and the like."""
    return PLAIN if _is_plain(declared) else typed_codec(declared)


def typed_codec(declared: Any) -> TypedCodec:
    """The codec for a declared type that checks it, also if it is a plain one such as ``bool``."""
    try:
        return _typed_codec(declared)
    except TypeError:  # unhashable annotation, such as Annotated[..., [..]]
        return _make_typed_codec(declared)


def _is_plain(declared: Any) -> bool:
    if declared in _PLAIN_TYPES or isinstance(declared, (str, typing.TypeVar, typing.ForwardRef)):
        return True
    origin = typing.get_origin(declared)
    if origin in (dict, list, typing.Union, types.UnionType, Mapping):
        return all(_is_plain(argument) for argument in typing.get_args(declared))
    return False


@functools.lru_cache(maxsize=1024)
def _typed_codec(declared: Any) -> TypedCodec:
    return _make_typed_codec(declared)


def _make_typed_codec(declared: Any) -> TypedCodec:
    from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter

    if isinstance(declared, Mapping):  # pydantic would read it as a schema of its own making
        raise SerializationError(f"type {declared!r} cannot be stored: it is a value, and no type")
    try:
        return TypedCodec(TypeAdapter(_portable(declared)), getattr(declared, "__name__", str(declared)))
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise SerializationError(
            f"type {declared!r} cannot be stored: declare a dataclass, TypedDict, pydantic model or JSON type ({error.message})"
        ) from None


def _portable(declared: Any) -> Any:
    """The same type in a form that pydantic takes: before Python 3.12 it refuses ``typing.TypedDict``."""
    if sys.version_info >= (3, 12):
        return declared
    if typing.is_typeddict(declared) and type(declared).__module__ == "typing":
        fields = {
            name: hint if typing.get_origin(hint) in _MARKERS else _MARKERS[name not in declared.__required_keys__][hint]
            for name, hint in typing.get_type_hints(declared, include_extras=True).items()
        }
        make: Any = typing_extensions.TypedDict
        return make(declared.__name__, {name: _portable(hint) for name, hint in fields.items()})
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, map(_portable, arguments))
    if origin in (dict, list, tuple, set, frozenset, *_MARKERS):
        return origin[tuple(map(_portable, arguments))] if len(arguments) > 1 else origin[_portable(*arguments)]
    return declared


# Evaluating annotations takes longer than all the rest of a step: once per function and annotation is enough. Cleared when it is
# full, which only code that makes functions without end can bring about.
_RETURN_CODECS: dict[tuple[Any, Any], Codec] = {}
_MAX_RETURN_CODECS = 4096


def return_codec(fn: Callable[..., Any]) -> Codec:
    """The codec for what a function returns, by its annotation; plain JSON when it has none that can be read."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    annotations = getattr(fn, "__annotations__", None)
    if not annotations or "return" not in annotations:
        return PLAIN
    # Functions of one code object have one set of globals, so that a name in their annotation means the same.
    key = (getattr(fn, "__code__", fn), annotations["return"])
    try:
        return _RETURN_CODECS[key]
    except (KeyError, TypeError):  # unknown, or an annotation that cannot be hashed
        codec = codec_for(_annotations(fn).get("return", Any))
    if len(_RETURN_CODECS) >= _MAX_RETURN_CODECS:
        _RETURN_CODECS.clear()
    with contextlib.suppress(TypeError):
        _RETURN_CODECS[key] = codec
    return codec


def first_parameter_codec(fn: Callable[..., Any]) -> Codec:
    """The codec for a handler's params: the annotation of its first parameter."""
    import inspect

    hints = _annotations(fn)
    names = list(inspect.signature(fn).parameters)
    return codec_for(hints.get(names[0], Any)) if names else PLAIN


def _annotations(fn: Callable[..., Any]) -> dict[str, Any]:
    if not getattr(fn, "__annotations__", None):
        return {}
    try:
        return typing.get_type_hints(fn, include_extras=True)
    except Exception:  # a name that exists for the type checker only: the function is untyped then
        return {}
