"""Queries about resume tokens, and what is known of one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID

from absurd.errors import TokenError
from absurd.queries.query import Query, Row
from absurd.writes import CreateToken, WriteResult

TokenStatus: TypeAlias = Literal["open", "used", "expired", "ended"]

_WHY_NOT = {
    "unknown": "there is no such token: the link is cut off or mistyped, or its task has been cleaned up",
    "used": "the token has been used; it takes one answer",
    "expired": "the token has expired",
    "ended": "the task that made the token has ended and waits for no answer",
}


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What is known of a token.

    ``status`` says whether it may be used: ``open``, ``used``, ``expired``, or ``ended`` when its task has. ``json_schema`` is
    what an answer must be, ``None`` when it may be anything.
    """

    token_id: UUID
    name: str
    queue_name: str
    task_id: UUID
    task_name: str
    title: str | None
    description: str | None
    json_schema: Any
    created_at: datetime
    expires_at: datetime | None
    used_at: datetime | None
    status: TokenStatus


def create_token(item: CreateToken) -> Query[list[WriteResult]]:
    """Makes a token of a task and records it; ``detail`` is the JSON text of what was recorded, or the problem."""
    holder, *options = item
    sql = """
        select status, coalesce(state::text, message)
        from absurd.create_token(%s, %s, %s::int, %s, %s::int, %s, %s::float8, %s, %s, %s::json)"""
    args = (holder.task_id, holder.run_id, holder.epoch, *options)
    return Query(sql, args, lambda rows: [WriteResult(rows[0][0], rows[0][1])])


def read_token(secret: str) -> Query[TokenInfo]:
    """What is known of a token; raises ``TokenError`` if there is none."""
    sql = """
        select token_id, token_name, queue_name, task_id, task_name, title, description, json_schema, created_at, expires_at,
          used_at, status
        from absurd.read_token(%s)"""

    def decode(rows: list[Row]) -> TokenInfo:
        if not rows:
            raise refusal("unknown")
        return TokenInfo(*rows[0])

    return Query(sql, (secret,), decode)


def use_token(secret: str, payload: str) -> Query[None]:
    """Answers a token with JSON text; raises ``TokenError`` if it cannot be used. Not repeatable: a second time is refused."""

    def decode(rows: list[Row]) -> None:
        if rows[0][0] != "ok":
            raise refusal(rows[0][0])

    return Query("select absurd.use_token(%s, %s::json)", (secret, payload), decode, repeatable=False)


def refusal(reason: str) -> TokenError:
    """Why a token cannot be used: unknown, used, expired, ended."""
    return TokenError(_WHY_NOT[reason], reason)
