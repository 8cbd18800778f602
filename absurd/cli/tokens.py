"""complete-token."""

from __future__ import annotations

from typing import Annotated

import typer

from absurd.cli.arguments import read_json
from absurd.cli.command import command
from absurd.cli.session import Session
from absurd.cli.text import escape

GROUP = "Events"

TokenText = Annotated[str, typer.Argument(metavar="TOKEN", help="The token, or the link that ends with it.")]
Payload = Annotated[
    str | None, typer.Option("-p", "--payload", metavar="JSON", help="Answer: JSON, @file, or - for standard input.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(
        app,
        "complete-token",
        complete_token,
        "absurdctl complete-token https://example.com/tokens/141c3025cbb44aa7 -p true",
        """absurdctl complete-token 141c3025cbb44aa7 -p '{"approved": true, "comment": "fine"}'""",
        group=GROUP,
    )


def complete_token(session: Session, token: TokenText, payload: Payload = None) -> None:
    """Answer a token, once: the task that waits for it goes on."""
    value = None if payload is None else read_json(payload, "--payload")
    client = session.client()
    info = client.read_token(token)
    client.complete_token(token, value)
    text = f'Answered token "{escape(info.name)}" of task {info.task_id} ({escape(info.task_name)})'
    session.out.done(text, token_id=info.token_id, task_id=info.task_id, task_name=info.task_name)
