"""Finds the application that a worker serves: ``--app``, ``ABSURD_APP``, or ``[tool.absurd]`` in pyproject.toml."""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from absurd.client.workers import WorkerMethods
from absurd.errors import AppNotFoundError

VARIABLE = "ABSURD_APP"
EXAMPLE = "myproject.tasks:app"
# Where this package lies.
_LIBRARY = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Setting:
    """``module:attribute`` and where it was said; ``directory`` is where its modules lie."""

    text: str
    origin: str
    directory: Path


def find_app(option: str | None) -> WorkerMethods:
    """The application, imported.

    Raises:
        AppNotFoundError: nothing is configured, or what is does not lead to one application; the message says why.
    """
    setting = _setting(option)
    for directory in (str(setting.directory), os.getcwd()):
        if directory not in sys.path:
            sys.path.insert(0, directory)
    module_name, colon, attribute = setting.text.partition(":")
    check_form(setting, module_name, attribute if colon else None)
    module = import_module(module_name, setting)
    return _attribute(module, attribute, setting) if colon else _only_app(module, setting)


def find_configured_app() -> WorkerMethods | None:
    """The application that ``ABSURD_APP`` or pyproject.toml names, imported; ``None`` if neither does."""
    return None if _configured() is None else find_app(None)


def _setting(option: str | None) -> Setting:
    found = _configured() if option is None else Setting(option, "--app", Path.cwd())
    if found is not None:
        return found
    raise AppNotFoundError(
        f"no app is configured. Say which one with --app {EXAMPLE}, with {VARIABLE}={EXAMPLE}, or in the pyproject.toml of this "
        f'directory or one above:\n\n    [tool.absurd]\n    app = "{EXAMPLE}"'
    )


def _configured() -> Setting | None:
    here = Path.cwd()
    if os.environ.get(VARIABLE):
        return Setting(os.environ[VARIABLE], VARIABLE, here)
    for directory in (here, *here.parents):
        found = _read_pyproject(directory / "pyproject.toml")
        if found is not None:
            return Setting(found, str(directory / "pyproject.toml"), directory)
    return None


def _read_pyproject(path: Path) -> str | None:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, ValueError) as error:
        raise AppNotFoundError(f"{path} cannot be read: {error}") from None
    section = content.get("tool", {}).get("absurd", {})
    app = section.get("app") if isinstance(section, dict) else section
    if app is not None and not isinstance(app, str):
        raise AppNotFoundError(f'[tool.absurd] in {path}: app must be a string like "{EXAMPLE}", not {app!r}')
    return app


def check_form(setting: Setting, module: str, attribute: str | None, example: str = EXAMPLE) -> None:
    """Refuses what is no ``module:attribute`` at all."""
    parts = [*module.split("."), *(attribute.split(".") if attribute is not None else [])]
    if all(part.isidentifier() for part in parts) and not module.endswith(".py"):
        return
    hint = ""
    if module.endswith(".py") or "/" in module:
        name = module.removesuffix(".py").strip("./").replace("/", ".")
        hint = f' Did you mean "{name}:{attribute or example.partition(":")[2]}"?'
    raise AppNotFoundError(f'"{setting.text}" (from {setting.origin}) is not of the form module:attribute, like {example}.{hint}')


def import_module(name: str, setting: Setting) -> ModuleType:
    """The module of a setting, imported; an error says whether it is missing or broken, and where."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise AppNotFoundError(
                f'there is no module "{error.name}" (from {setting.origin}: "{setting.text}"). '
                f"Looked in {setting.directory} and the installed packages; start it in your project's directory."
            ) from error
        raise _broken(name, setting, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, setting, error) from error


def _broken(name: str, setting: Setting, error: BaseException) -> AppNotFoundError:
    """The module is there, but something in it, or in what it imports, failed: say what and where."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    # Of an error that the library raised, the place that counts is the line of the user's code that led to it.
    frames = [frame for frame in frames if not Path(frame.filename).is_relative_to(_LIBRARY)]
    place = f", in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
    what = "".join(traceback.format_exception_only(error)).strip()
    return AppNotFoundError(f'the module "{name}" (from {setting.origin}) was found, but importing it failed{place}:\n{what}')


def _apps(module: ModuleType) -> list[str]:
    """Names of the applications in a module, each once."""
    found: dict[int, str] = {}
    for name, value in vars(module).items():
        if isinstance(value, WorkerMethods):
            found.setdefault(id(value), name)
    return list(found.values())


def _candidates(module: ModuleType) -> str:
    names = _apps(module)
    if not names:
        return f'"{module.__name__}" holds no Absurd or AsyncAbsurd at all; make one with: app = Absurd()'
    return "It has " + ", ".join(f"{module.__name__}:{name}" for name in names)


def _attribute(module: ModuleType, path: str, setting: Setting) -> WorkerMethods:
    value: Any = module
    for part in path.split("."):
        if not hasattr(value, part):
            raise AppNotFoundError(
                f'"{module.__name__}" has no attribute "{path}" (from {setting.origin}: "{setting.text}"). {_candidates(module)}'
            )
        value = getattr(value, part)
    if not isinstance(value, WorkerMethods):
        raise AppNotFoundError(
            f'"{setting.text}" (from {setting.origin}) is no Absurd or AsyncAbsurd but {kind_of(value)}. {_candidates(module)}'
        )
    return value


def _only_app(module: ModuleType, setting: Setting) -> WorkerMethods:
    names = _apps(module)
    if len(names) == 1:
        app: WorkerMethods = getattr(module, names[0])
        return app
    if not names:
        raise AppNotFoundError(f"{_candidates(module)} (from {setting.origin})")
    raise AppNotFoundError(f'"{module.__name__}" holds several apps (from {setting.origin}); choose one. {_candidates(module)}')


def kind_of(value: object) -> str:
    """What kind of thing a value is, for messages."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "a function" if callable(value) else f"of type {type(value).__name__}"
