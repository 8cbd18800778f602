"""export-task, check-replay: would the present code go on with the tasks that older code has begun?"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from absurd.cli.command import command
from absurd.cli.find_app import find_app
from absurd.cli.options import Limit, NewerThan, OlderThan, QueueFilter, TaskNameFilter, listed_keys, uuid
from absurd.cli.output import Column, Rows
from absurd.cli.session import Session
from absurd.cli.tasks import StateFilter
from absurd.cli.text import dump, escape
from absurd.cli.worker import App
from absurd.errors import AppNotFoundError, ConfigurationError
from absurd.queries import inspect
from absurd.testing.history import UNFINISHED, TaskHistory, export_task, load_histories, load_history
from absurd.testing.replaying import TIMEOUT, Replay, replay

GROUP = "Tasks"
SAMPLE = 20  # tasks of each name and state

TaskIds = Annotated[
    list[UUID] | None, typer.Argument(metavar="[TASK_ID]…", help="Tasks to export; none: a sample, by the options.", parser=uuid)
]
Paths = Annotated[
    list[Path] | None, typer.Argument(metavar="[FILE_OR_DIR]…", help="Exported histories, and directories of them (*.json).")
]
OutputFile = Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write there, not to standard output.")]
OutputDir = Annotated[
    Path | None, typer.Option("--output-dir", metavar="DIR", help="Write a file TASK_ID.json for each task into this directory.")
]
Redact = Annotated[
    str | None,
    typer.Option(
        "--redact", metavar="KEY,…", help='Replace the values of exactly these keys by "***", wherever they stand; case counts.'
    ),
]
FromDatabase = Annotated[
    bool, typer.Option("--from-database", help="Check tasks of the database: unfinished ones unless --state says otherwise.")
]
TimeLimit = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0.01, help="For one replay of one task.")]
Hooks = Annotated[bool, typer.Option("--hooks/--no-hooks", help="Run the app's around_execution hooks too.")]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    task = "01890a5d-ac96-774b-bcce-b302099a8057"
    command(
        app,
        "export-task",
        export,
        f"absurdctl export-task {task} --output order.json --redact email,card",
        "absurdctl export-task --output-dir histories/",
        "absurdctl export-task --name order --state sleeping --limit 50 --output-dir histories/",
        group=GROUP,
        takes_json=False,
    )
    command(
        app,
        "check-replay",
        check_replay,
        "absurdctl check-replay --app myproject.tasks:app histories/",
        "absurdctl check-replay --app myproject.tasks:app --from-database",
        "absurdctl check-replay --from-database --name order --state sleeping --limit 500 --json",
        group=GROUP,
    )


def export(
    session: Session,
    task_id: TaskIds = None,
    output: OutputFile = None,
    output_dir: OutputDir = None,
    redact: Redact = None,
    name: TaskNameFilter = None,
    state: StateFilter = None,
    queue: QueueFilter = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = SAMPLE,
) -> None:
    """Export what tasks have done: params, attempts, checkpoints, result; one JSON document for each. Reads only.

    Without a TASK_ID: of each task name the newest --limit in each state in which they are not finished, or in --state.
    """
    keys = [] if redact is None else listed_keys(redact)
    if output_dir is None and (not task_id or len(task_id) > 1):
        raise typer.BadParameter("several tasks need a directory for their files", param_hint="--output-dir")
    if output is not None and output_dir is not None:
        raise typer.BadParameter("give one of --output and --output-dir", param_hint="--output")
    if output_dir is None:
        assert task_id is not None
        _write(session, export_task(session.connection, task_id[0], keys), output)
        return
    wanted = inspect.TaskFilter(queue, name, state.value if state else None, older_than, newer_than)
    ids = task_id or list(_sample(session, wanted, limit))
    with _writing(output_dir, "--output-dir"):
        output_dir.mkdir(parents=True, exist_ok=True)
    for one in ids:
        _write(session, export_task(session.connection, one, keys), output_dir / f"{one}.json", quiet=True)
    session.out.done(f"Exported {len(ids)} task(s) to {escape(str(output_dir))}")


def _write(session: Session, document: dict[str, Any], path: Path | None, *, quiet: bool = False) -> None:
    if path is None:
        session.out.json(document)
        return
    with _writing(path, "--output-dir" if quiet else "--output"):
        path.write_text(dump(document, indent=True) + "\n", encoding="utf-8")
    if not quiet:
        session.out.done(f"Exported task {document['task_id']} to {escape(str(path))}")


@contextlib.contextmanager
def _writing(path: Path, option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror or error}; give another place with {option}") from None


def _sample(session: Session, wanted: inspect.TaskFilter, limit: int) -> Iterator[UUID]:
    """Ids of tasks: of each name, the newest in each state."""
    session.require_queue(wanted.queue_name)
    names = [wanted.task_name] if wanted.task_name is not None else session.run(inspect.task_names())
    for name in names:
        for state in UNFINISHED if wanted.state is None else (wanted.state,):
            filters = inspect.TaskFilter(wanted.queue_name, name, state, wanted.older_than, wanted.newer_than)
            left, last = limit, None
            while left > 0:
                page = session.run(inspect.list_tasks(filters, last, min(left, inspect.PAGE_SIZE)))
                yield from (row.task_id for row in page)
                left, last = (left - len(page), page[-1].task_id) if len(page) == inspect.PAGE_SIZE else (0, None)


def check_replay(
    session: Session,
    path: Paths = None,
    app: App = None,
    from_database: FromDatabase = False,
    name: TaskNameFilter = None,
    state: StateFilter = None,
    queue: QueueFilter = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = SAMPLE,
    timeout: TimeLimit = TIMEOUT,
    hooks: Hooks = True,
) -> None:
    """Replay tasks against the present code, without running a step: would it go on where older code has stopped?

    Exit status 0: all of them go on; 1: at least one does not, or an error; 2: the command was not understood, or there was
    nothing to read. --name, --state, --limit and the ages choose among the tasks of the database.
    """
    if bool(path) == from_database:
        raise typer.BadParameter("give either files and directories, or --from-database", param_hint="FILE_OR_DIR")
    choosers = {"--name": name, "--state": state, "--queue": queue, "--older-than": older_than, "--newer-than": newer_than}
    given = [option for option, value in choosers.items() if value is not None] + ["--limit"] * (limit != SAMPLE)
    if path and given:
        raise typer.BadParameter("it chooses among tasks of the database; files are all checked", param_hint=given[0])
    try:
        found = find_app(app)
    except AppNotFoundError as error:
        raise typer.BadParameter(str(error), param_hint="--app") from None
    if path:
        histories = _from_files(path)
    else:
        if session.database is None:
            session.database = found.database_url
        wanted = inspect.TaskFilter(queue, name, state.value if state else None, older_than, newer_than)
        histories = [(str(one), load_history(export_task(session.connection, one))) for one in _sample(session, wanted, limit)]
        if name is not None and found.registry.find(name) is None and name not in session.run(inspect.task_names()):
            # A check before a deployment must not pass because of a slip of the pen.
            problem = f"neither the application nor the database has a task {name!r}"
            raise typer.BadParameter(problem, param_hint="--name")
    results = []
    for where, history in histories:
        # What the code prints is no part of this program's output.
        with contextlib.redirect_stdout(sys.stderr), session.out.progress(f"{history}"):
            results.append((where, replay(found, history, timeout=timeout, hooks=hooks)))
    _show(session, results)
    if not all(result.ok for _, result in results):
        raise typer.Exit(1)


def _from_files(paths: list[Path]) -> list[tuple[str, TaskHistory]]:
    found: list[tuple[str, TaskHistory]] = []
    for path in paths:
        try:
            inside = list(load_histories(path)) if path.is_dir() else [(path, load_history(path))]
        except (OSError, ConfigurationError) as error:
            raise typer.BadParameter(str(error), param_hint="FILE_OR_DIR") from None
        found += [(str(file), history) for file, history in inside]
    return found


def _show(session: Session, results: list[tuple[str, Replay]]) -> None:
    if session.out.as_json:
        session.out.json([_document(where, result) for where, result in results])
        return
    columns = [Column("TASK ID", fixed=True), Column("NAME"), Column("STATE", fixed=True), Column("STEPS", right=True)]
    columns += [Column("REPLAY", fixed=True), Column("MESSAGE")]
    rows: Rows = [
        [
            str(result.history.task_id),
            escape(result.history.task_name),
            result.history.state,
            str(len(result.recorded)),
            "ok" if result.ok else "DIFFERS",
            escape(result.message),
        ]
        for _, result in results
    ]
    session.out.table(columns, rows, empty="No tasks to check.")
    seen = set()
    for where, result in results:
        # Tasks that differ in the same way are shown once.
        sign = (result.history.task_name, result.kind, result.step_name)
        if not result.ok and sign not in seen:
            seen.add(sign)
            session.out.line()
            session.out.line(escape(f"{where}: {result}" if where != str(result.history.task_id) else str(result), keep="\n"))
    if results:
        differ = sum(not result.ok for _, result in results)
        session.out.line()
        session.out.line(f"{len(results)} checked, {differ} differ" if differ else f"{len(results)} checked, all go on")


def _document(where: str, result: Replay) -> dict[str, Any]:
    history = result.history
    return {
        "source": where,
        "task_id": history.task_id,
        "task_name": history.task_name,
        "queue_name": history.queue_name,
        "state": history.state,
        "ok": result.ok,
        "kind": result.kind,
        "step_name": result.step_name,
        "message": result.message,
        "recorded": result.recorded,
        "now": result.now,
        "unchecked": result.unchecked,
    }
