"""What all commands share: the options after the command, a session, and how errors are shown."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import typer
from rich.markup import escape as escape_markup

from absurd.cli.options import AsJson, Database, Debug
from absurd.cli.output import Output, print_error
from absurd.cli.session import Session
from absurd.db import mask, translate
from absurd.errors import AbsurdError, SchemaError

Body = Callable[..., None]

INTERRUPTED = 128 + 2  # as a shell reports SIGINT
BROKEN_PIPE = 128 + 13


@dataclass(slots=True)
class Globals:
    """Options that were given before the command."""

    database: str | None = None
    debug: bool = False


def examples(*lines: str) -> str:
    """The end of a command's help. Blank lines keep each example on a line of its own."""
    return "\n\n".join(["[bold]Examples[/bold]", *(escape_markup(line) for line in lines)])


def command(app: typer.Typer, name: str, body: Body, *lines: str, group: str, takes_json: bool = True) -> None:
    """Makes a command of a function whose first argument is the session; ``lines`` are its examples.

    The options that every command takes are added, so that they mean the same everywhere.
    """

    @functools.wraps(body)
    def run(ctx: typer.Context, database: str | None, debug: bool, as_json: bool = False, **arguments: Any) -> None:
        given = ctx.obj or Globals()
        session = Session(database if database is not None else given.database, Output(as_json=as_json))
        with _reporting(session, debug or given.debug):
            body(session, **arguments)

    shared = [_keyword("ctx", typer.Context), *_parameters(body), _keyword("database", Database, None)]
    if takes_json:
        shared.append(_keyword("as_json", AsJson, False))
    shared.append(_keyword("debug", Debug, False))
    del run.__dict__["__wrapped__"]
    run.__signature__ = inspect.Signature(shared)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shared}
    app.command(name, epilog=examples(*lines), rich_help_panel=group)(run)


def _parameters(body: Body) -> list[inspect.Parameter]:
    """The command's own parameters, without the session."""
    own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
    return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]


def _keyword(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


@contextmanager
def _reporting(session: Session, debug: bool) -> Iterator[None]:
    """Errors become one line on standard error and an exit status; with ``debug`` the traceback is shown before it."""
    try:
        with session:
            try:
                yield
            except SchemaError as error:
                raise session.explain(error) from error
            except (AbsurdError, psycopg.Error) as error:
                told = error if isinstance(error, AbsurdError) else translate(error)
                raise session.name_owner(told) from error
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # Who read our output has seen enough. Nothing more may be written, not even at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(BROKEN_PIPE) from None
    except Exception as error:
        if debug:
            sys.stderr.write(mask(traceback.format_exc()))
        print_error(_message(error, debug))
        raise typer.Exit(1) from None


def _message(error: Exception, debug: bool) -> str:
    if isinstance(error, psycopg.Error):
        error = translate(error)
    if isinstance(error, AbsurdError):
        return str(error)
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object!a} holds bytes that are no UTF-8; give text in UTF-8"
    hint = "" if debug else " (--debug shows where)"
    return f"{type(error).__name__}: {mask(str(error))}{hint}"
