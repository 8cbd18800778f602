"""move-queue: queues with all that belongs to them go to another database."""

from __future__ import annotations

from typing import Annotated

import typer

from absurd.cli.command import command
from absurd.cli.complete import complete_queue
from absurd.cli.options import seconds
from absurd.cli.session import Session
from absurd.cli.text import duration, escape
from absurd.moving import Move, Moved, give_up_move, move_queues

QueueNames = Annotated[
    list[str],
    typer.Argument(metavar="QUEUE...", help="Queues that move together.", autocompletion=complete_queue),
]
To = Annotated[str, typer.Option("--to", metavar="URL", help="The database they move to, with the schema installed.")]
Router = Annotated[
    str | None,
    typer.Option("--router", metavar="URL", help="The PL/Proxy router before both: its calls for these queues wait meanwhile."),
]
Wait = Annotated[
    float, typer.Option("--wait", metavar="TIME", help="How long running tasks may take to end, like 30s or 2h.", parser=seconds)
]
Renumber = Annotated[
    bool, typer.Option("--renumber", help="Give events new numbers, in their order, where the target has such numbers already.")
]

GiveUp = Annotated[
    bool,
    typer.Option("--give-up", help="Give up a move that was interrupted: the queues go on where they are, the copy is deleted."),
]

STEPS = {
    "paused": "No worker claims tasks of it any more",
    "drained": "No task of it is running",
    "disturbed": "A task was claimed at the last moment: waiting for its end",
    "copied": "Copied; the copy is paused",
    "again": "Somebody has locked or changed a row of it meanwhile: once more",
    "kept": "The queues go on at the source",
    "dropped": "Deleted at the source: the target has it now",
    "routed": "Calls go to the target",
    "resumed": "Workers at the target may claim",
}


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    here, there = "postgresql://absurd@db1.example/absurd", "postgresql://absurd@db2.example/absurd"
    router = "postgresql://absurd@router.example/absurd"
    command(
        app,
        "move-queue",
        move_queue,
        f"absurdctl move-queue orders -d {here} --to {there}",
        f"absurdctl move-queue orders mail -d {here} --to {there} --router {router} --wait 30m",
        group="Queues",
    )


def move_queue(
    session: Session,
    queues: QueueNames,
    to: To,
    router: Router = None,
    wait: Wait = 300.0,
    renumber: Renumber = False,
    give_up: GiveUp = False,
) -> None:
    """Move queues to another database: tasks, history, events, subscriptions, schedules, triggers, tokens and keys.

    Claims stop, running tasks end, the rest is copied and deleted in one snapshot; spawns and emits wait for the copy.
    Sleeping tasks go on at the target. There is one owner at every moment, whatever dies: repeat the command, and it goes on.
    """
    move = Move(queues, session.url, to, router, wait, renumber)
    names = ", ".join(f'"{escape(queue)}"' for queue in queues)
    if give_up:
        give_up_move(move)
        session.out.done(f"Gave up the move of {names}; they go on where they were", queues=queues, moved=False)
        return
    try:
        with session.out.progress("Moving"):
            moved = move_queues(move, lambda step: _say(session, step))
    except KeyboardInterrupt:
        session.out.note(f"{names} may be paused at both ends. Repeat the command to go on, or give the move up: --give-up")
        raise
    facts = {
        "queues": queues,
        "moved": moved.moved,
        "rows": moved.rows,
        "held_seconds": moved.held_seconds,
        "paused": list(moved.paused),
    }
    session.out.done(f"{_sentence(names, moved)}{_still_paused(moved)}", **facts)


def _say(session: Session, step: str) -> None:
    if not session.out.as_json:
        session.out.note(STEPS[step])


def _sentence(names: str, moved: Moved) -> str:
    if not moved.moved:
        return f"{names}: nothing had to be copied, the target has it"
    if not moved.rows:
        return f"Finished the move of {names}"
    return f"Moved {names}: {moved.rows} rows; calls waited for {duration(moved.held_seconds)}"


def _still_paused(moved: Moved) -> str:
    return f"; still paused, as before: {', '.join(map(escape, moved.paused))}" if moved.paused else ""
