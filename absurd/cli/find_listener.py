"""Finds the listener that ``listen`` runs, ``module:Class``, and makes it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from absurd.cli.find_app import Setting, check_form, import_module, kind_of
from absurd.errors import AbsurdError, ConfigurationError
from absurd.listeners import AsyncEventListener, EventListener

EXAMPLE = "myproject.listeners:MailListener"
ARGUMENT = "LISTENER"

AnyListener = EventListener | AsyncEventListener


def make_listener(text: str, options: Mapping[str, Any]) -> AnyListener:
    """An instance of the class that ``module:Class`` names, made with these options.

    Raises:
        ConfigurationError: there is no such class, it is no listener, or it cannot be made; the message says why.
    """
    listener_class = _find_class(text)
    _check_options(listener_class, options)
    try:
        return listener_class(**options)
    except AbsurdError:
        raise
    except Exception as error:
        raise ConfigurationError(f"{text} could not be made: {type(error).__name__}: {error}") from error


def _find_class(text: str) -> type[AnyListener]:
    setting = Setting(text, ARGUMENT, Path.cwd())
    if str(setting.directory) not in sys.path:
        sys.path.insert(0, str(setting.directory))
    module_name, _, path = text.partition(":")
    check_form(setting, module_name, path, EXAMPLE)
    module = import_module(module_name, setting)
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part, None)
    if isinstance(value, type) and issubclass(value, (EventListener, AsyncEventListener)):
        return value
    what = f'has no "{path}"' if value is None else f'holds "{path}", which is no EventListener or AsyncEventListener but '
    raise ConfigurationError(f'"{module_name}" {what}{"" if value is None else kind_of(value)}. {_candidates(module)}')


def _candidates(module: ModuleType) -> str:
    own = [
        f"{module.__name__}:{name}"
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, (EventListener, AsyncEventListener))
        and value not in (EventListener, AsyncEventListener)
    ]
    return f"It has {', '.join(own)}" if own else "It has no listener; derive a class from absurd.EventListener"


def _check_options(listener_class: type[AnyListener], options: Mapping[str, Any]) -> None:
    """Refuses what the constructor does not take, and says what it takes."""
    parameters = dict(inspect.signature(listener_class).parameters)
    inherits = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    if inherits:
        # The ready-made ones hand on what is not their own.
        parameters.update({name: p for name, p in inspect.signature(EventListener).parameters.items() if name != "app"})
    known = [n for n, p in parameters.items() if p.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)]
    is_ours = listener_class.__module__.startswith("absurd.")
    unknown = [name for name in options if name not in known and (is_ours or not inherits)]
    missing = [n for n, p in parameters.items() if n in known and p.default is inspect.Parameter.empty and n not in options]
    for what, names in (("has no option", unknown), ("needs the option", missing)):
        if names:
            raise ConfigurationError(
                f"{listener_class.__name__} {what} {', '.join(names)}; its options are: {', '.join(known) or 'none'}"
            )
