"""list-tasks, cancel-task, retry-task, run-task-now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from absurd.cli.command import command
from absurd.cli.options import Limit, NewerThan, OlderThan, QueueFilter, State, TaskId, TaskNameFilter
from absurd.cli.output import Column, Rows, state_text
from absurd.cli.session import Session
from absurd.cli.text import escape, moment_text
from absurd.queries import inspect

GROUP = "Tasks"

StateFilter = Annotated[State | None, typer.Option("-s", "--state", help="Only tasks in this state.")]
SpawnNew = Annotated[bool, typer.Option("--spawn-new", help="Start a copy of the task from its beginning instead.")]
MaxAttempts = Annotated[
    int | None, typer.Option("--max-attempts", metavar="N", help="Attempts in all, those made included. Usual: one more.")
]


FromStep = Annotated[
    str | None,
    typer.Option(
        "--from-step", metavar="STEP", help="Start a copy that keeps the results of the steps before STEP and goes on there."
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(
        app,
        "list-tasks",
        list_tasks,
        "absurdctl list-tasks --queue orders --state failed",
        "absurdctl list-tasks --name send-mail --newer-than 2h --limit 500 --json",
        group=GROUP,
    )
    command(app, "cancel-task", cancel_task, "absurdctl cancel-task 01890a5d-ac96-774b-bcce-b302099a8057", group=GROUP)
    command(
        app,
        "retry-task",
        retry_task,
        "absurdctl retry-task 01890a5d-ac96-774b-bcce-b302099a8057",
        "absurdctl retry-task 01890a5d-ac96-774b-bcce-b302099a8057 --spawn-new",
        "absurdctl retry-task 01890a5d-ac96-774b-bcce-b302099a8057 --from-step charge",
        group=GROUP,
    )
    command(app, "run-task-now", run_task_now, "absurdctl run-task-now 01890a5d-ac96-774b-bcce-b302099a8057", group=GROUP)


def list_tasks(
    session: Session,
    queue: QueueFilter = None,
    name: TaskNameFilter = None,
    state: StateFilter = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = 50,
) -> None:
    """List tasks, the newest first; failed and cancelled ones, the last ended first. Ages count from the spawn."""
    session.require_queue(queue)
    wanted = inspect.TaskFilter(queue, name, state.value if state else None, older_than, newer_than)
    rows = list(_pages(session, wanted, limit))
    if session.out.as_json:
        session.out.json([asdict(row) for row in rows])
        return
    columns = [
        Column("TASK ID", fixed=True),
        Column("QUEUE"),
        Column("NAME"),
        Column("STATE", fixed=True),
        Column("ATTEMPT", right=True),
        Column("SPAWNED"),
    ]
    notes = any(row.note for row in rows)
    if notes:
        columns.append(Column("NOTE"))
    cells: Rows = [
        [
            str(row.task_id),
            escape(row.queue_name),
            escape(row.task_name),
            state_text(row.state),
            f"{row.attempt or 1}/{row.max_attempts or '∞'}",
            moment_text(row.spawned_at, session.now),
            *([escape(row.note or "")] if notes else []),
        ]
        for row in rows
    ]
    session.out.table(columns, cells, empty="No tasks.")
    if len(rows) == limit:
        session.out.note(f"The first {limit}; there may be more (--limit).")


def _pages(session: Session, wanted: inspect.TaskFilter, limit: int) -> Iterator[inspect.TaskRow]:
    last = None
    while limit > 0:
        page = session.run(inspect.list_tasks(wanted, last, min(limit, inspect.PAGE_SIZE)))
        yield from page
        if len(page) < min(limit, inspect.PAGE_SIZE):
            return
        limit -= len(page)
        last = page[-1].task_id


def cancel_task(session: Session, task_id: TaskId) -> None:
    """Cancel a task, whatever it is doing. One that has ended stays as it is; its worker learns of it at its next call."""
    handle = session.client().task(task_id)
    before = handle.state()
    handle.cancel()
    after = handle.state()
    ended = before in ("completed", "failed", "cancelled")
    text = f"Task {task_id} had ended already: {after}" if ended else f"Cancelled task {task_id}"
    session.out.done(text, task_id=task_id, state=after, cancelled=not ended)


def retry_task(
    session: Session,
    task_id: TaskId,
    spawn_new: SpawnNew = False,
    from_step: FromStep = None,
    max_attempts: MaxAttempts = None,
) -> None:
    """Give a failed or cancelled task another attempt from its last checkpoint, with a new allowance of --max-duration.

    With --spawn-new or --from-step the task stays as it is, whatever its state, and a copy of it is started.
    """
    if from_step is not None and spawn_new:
        raise typer.BadParameter("give one of --spawn-new and --from-step", param_hint="--from-step")
    task = session.client().task(task_id)
    if from_step is not None:
        handle = task.fork(from_step, max_attempts=max_attempts)
        text = f"Spawned a copy that goes on from step {escape(from_step)}: task {handle.task_id}"
    else:
        handle = task.retry(spawn_new=spawn_new, max_attempts=max_attempts)
        text = f"Spawned a copy: task {handle.task_id}" if spawn_new else f"Task {task_id} runs again, attempt {handle.attempt}"
    session.out.done(text, task_id=handle.task_id, run_id=handle.run_id, attempt=handle.attempt, created=handle.created)


def run_task_now(session: Session, task_id: TaskId) -> None:
    """Make the time of a sleeping task now: of a delay, a sleep, the pause before another attempt, or the timeout of a wait."""
    session.client().run_task_now(task_id)
    session.out.done(f"Task {task_id} is ready", task_id=task_id)
