"""Bodies of requests: never more than a limit is kept, and JSON is read strictly."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from absurd.codec import encode
from absurd.errors import SerializationError

# A body that is too large is read and dropped up to here before the answer: who is still sending when the connection is closed
# does not see the answer. Beyond that the connection is closed.
DRAINED_BYTES = 32 * 1024 * 1024
# Seconds in which a body must have come, so that nobody keeps connections open by sending byte after byte.
BODY_SECONDS = 60.0


class LimitedRequest(Request):
    """A request whose body is limited. ``limit`` is set by whoever makes it."""

    limit: int
    _kept: bytes | None = None

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            HTTPException: 413 when it is larger than the limit, 408 when it does not come.
        """
        if self._kept is None:
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    self._kept = await self._read()
            except TimeoutError:
                raise HTTPException(408, f"the body did not come within {BODY_SECONDS:.0f} s") from None
        return self._kept

    async def _read(self) -> bytes:
        announced = self.headers.get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced[:20]) > self.limit:
            if self.headers.get("expect", "").lower() != "100-continue":
                await self._drain()
            self._refuse()
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            part, more = await self._next_part()
            size += len(part)
            if size > self.limit:
                await self._drain(more)
                self._refuse()
            parts.append(part)
        return b"".join(parts)

    async def _next_part(self) -> tuple[bytes, bool]:
        """The next part of the body, and whether more follow."""
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        return message.get("body", b""), message.get("more_body", False)

    async def _drain(self, more: bool = True) -> None:
        dropped = 0
        while more and dropped < DRAINED_BYTES:
            part, more = await self._next_part()
            dropped += len(part)

    def _refuse(self) -> NoReturn:
        raise HTTPException(413, f"the body is larger than {self.limit} bytes, the limit of this server")


class JsonRequest(LimitedRequest):
    """A request whose body, if there is one, must be JSON."""

    async def body(self) -> bytes:
        """The whole body; also raises ``HTTPException`` 415 when it is said to be something else than JSON."""
        raw = await super().body()
        if raw and not is_json(self.headers.get("content-type", "")):
            raise HTTPException(415, "a body must be JSON; send Content-Type: application/json with it")
        return raw

    async def json(self) -> Any:
        """The value of the body; raises ``HTTPException`` 400 or 422 when it is no JSON, or none that can be stored."""
        return parse_json(await self.body())


def is_json(content_type: str) -> bool:
    """Whether a content type is JSON or built on it."""
    kind = content_type.partition(";")[0].strip().lower()
    main, _, sub = kind.partition("/")
    return main == "application" and (sub == "json" or sub.endswith("+json"))


def parse_json(raw: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        HTTPException: 400 when it is no JSON, 422 when it holds what PostgreSQL cannot store.
    """
    try:
        value = json.loads(raw.decode(), parse_constant=_no_constant)
    except RecursionError:
        raise HTTPException(400, "the body is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise HTTPException(400, f"the body is no UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise HTTPException(400, f"the body is no JSON: {error}") from None
    try:
        encode(value, "the body")
    except SerializationError as error:
        raise HTTPException(422, str(error)) from None
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
