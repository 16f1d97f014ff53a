"""``module:attribute`` on the command line, and the flow that it names."""

from __future__ import annotations

import difflib
import gc
import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterable
from typing import Any

from workflow_runner import Flow
from workflow_runner.cli.exits import CommandError, Exit

EXAMPLE = "workflow_runner.examples.market_close:nightly"


def search_here() -> None:
    """Let imports look in the working directory first, as ``python -m`` does."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def load(target: str) -> Flow[Any, Any]:
    """Import the flow that a target names; the working directory is searched first, as by ``python -m``.

    Args:
        target: ``module:attribute``; the attribute may have dots.

    Returns:
        The flow.

    Raises:
        CommandError: there is no such thing, or it is no flow; names what is near.
    """
    module_name, colon, attribute = target.partition(":")
    search_here()
    if not (colon and attribute and all(part.isidentifier() for part in module_name.split("."))):
        raise CommandError(Exit.USAGE, f"a target is module:attribute, not {target!r}", hint=f"such as {EXAMPLE}")
    module = _import(module_name, attribute)
    found: Any = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise CommandError(
                Exit.NOT_FOUND, f"{module_name} has no {attribute!r}", hint=_which_flow(module, module_name, attribute)
            )
        found = getattr(found, name)
    if not isinstance(found, Flow):
        what = "a plain function, without @flow" if callable(found) else f"of type {type(found).__name__}"
        raise CommandError(
            Exit.NOT_FOUND, f"{target} is no flow: it is {what}", hint=_which_flow(module, module_name, attribute)
        )
    return found


def _import(name: str, attribute: str) -> Any:
    gc.freeze()  # what is there before stays to the end: at the end too, nobody needs to look through it for garbage
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(
            f"{error.name}."
        ):  # the module is there; what it needs is not
            raise _broken(name, error) from error
        near = _near_module(name, error.name)
        hint = f"did you mean {near}:{attribute}?" if near else f"modules are looked for in {os.getcwd()} first"
        raise CommandError(Exit.NOT_FOUND, f"there is no module {error.name!r}", hint=hint) from error
    except (Exception, SystemExit) as error:  # whatever somebody's module does when it is imported
        raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> CommandError:
    where = ""
    if not isinstance(error, SyntaxError):  # which says itself where it is
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f" ({frame.filename}:{frame.lineno})"
    return CommandError(
        Exit.NOT_FOUND,
        f"{name} cannot be imported: {type(error).__name__}: {error}{where}",
        hint="--debug shows the traceback",
    )


def _near_module(name: str, missing: str) -> str | None:
    """The name with its missing part replaced by the nearest one that is there."""
    package, _, last = missing.rpartition(".")
    path = getattr(sys.modules[package], "__path__", None) if package else None
    if package and path is None:  # a module with nothing inside, often the name of its file: jobs.py
        return package
    near = _nearest(last, (module.name for module in pkgutil.iter_modules(path)))
    return f"{package}.{near}".lstrip(".") + name[len(missing) :] if near else None


def _which_flow(module: Any, module_name: str, attribute: str) -> str:
    flows = [name for name, value in vars(module).items() if isinstance(value, Flow)]
    near = _nearest(attribute, flows)
    if near:
        return f"did you mean {module_name}:{near}?"
    return f"flows in it: {', '.join(flows)}" if flows else "there is no flow in this module"


def _nearest(name: str, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(names), n=1)), None)
