"""From words to a command, and from what it says to an exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import partial

import cyclopts

from workflow_runner import __version__
from workflow_runner._core import secrets
from workflow_runner._core.traceparent import from_environment, joined
from workflow_runner.cli import NAME, document, early, params
from workflow_runner.cli.commands import COMMANDS, EXAMPLES, FLAGS, PARAMETERS_LAST, TAKES_TARGET
from workflow_runner.cli.defaults import check, defaults, project, variable_of
from workflow_runner.cli.exits import CommandError, Exit
from workflow_runner.cli.output import Reply, give, stdout_for
from workflow_runner.cli.signals import die_of
from workflow_runner.cli.target import EXAMPLE
from workflow_runner.cli.words import Words

_SETTINGS = "the environment or pyproject.toml"


def dispatch(words: Sequence[str]) -> int:
    """Run the command that the words name; the one place where an error becomes a message and an exit code.

    Args:
        words: without the name of the program.

    Returns:
        The exit code.
    """
    words = _fence_target(words)
    options = words[: words.index("--")] if "--" in words else words
    as_json, debug, quiet = (_is_on(flag, options) for flag in ("json", "debug", "quiet"))
    trace = joined(from_environment())
    with secrets.kept(), trace, stdout_for(only_us=as_json, quiet=quiet and "--help" not in words) as stdout:
        try:
            reply = _obey(words)
            code = Exit.DONE if reply is None else give(reply, stdout, as_json=as_json)  # None: a page has been printed
        except SystemExit:  # rich, when the reader of a page has seen enough; what a flow says of it comes as an error
            return Exit.DONE
        except KeyboardInterrupt:
            return die_of(signal.SIGINT)
        except Exception as error:
            if debug:
                sys.stderr.write(secrets.mask("".join(traceback.format_exception(error.__cause__ or error))))
            reply = _refusal(error, words)
            code = give(reply, stdout, as_json=as_json)
    if reply is None:
        return code
    if reply.signal is not None:
        return die_of(reply.signal)
    if reply.abrupt:
        _leave(code)
    return code


def _is_on(flag: str, options: Sequence[str]) -> bool:
    """Whether a flag is given; before anything is parsed, since what goes wrong there is told accordingly."""
    settings = {}
    with suppress(CommandError):  # which comes again when they are read in earnest
        settings = defaults()
    return any(word in (f"--{flag}", f"--{flag}=true") for word in options) or early.is_true(settings.get(flag))


def _obey(words: Sequence[str]) -> Reply | None:
    """Call the command that the words name; None if a help page has been printed."""
    if words[:2] == ["run", "--"] and len(words) > 2 and not defaults():  # nothing to parse, which takes its time
        from workflow_runner.cli.commands.run import run

        return run(*words[2:])
    reply: Reply | None = make_app(whole=words in ([], ["--help"]))(words)
    return reply


def make_app(*, whole: bool) -> cyclopts.App:
    """The command; ``whole``: import all that it can do, to list it."""
    app = params.new_app(
        NAME,
        help="Run flows and workflows in this process, on threads.",
        help_format="plaintext",
        help_epilogue=f"Example:\n\n  {NAME} run --as-of-date 2013-02-28 \\\n    {EXAMPLE}",
        version=__version__,
        version_flags=["--version"],
    )
    if defaults():
        app.config = (partial(_settings, app),)
    for name, place in COMMANDS.items():
        epilogue = {"help_epilogue": f"Example:\n\n  {NAME} {EXAMPLES[name]}"} if name in EXAMPLES else {}
        app.command(f"{__package__}.commands.{place}", name=name, **epilogue)
        if whole:
            _ = app[name]  # imports it
    return app


def _settings(
    root: cyclopts.App, app: cyclopts.App, commands: tuple[str, ...], arguments: cyclopts.ArgumentCollection
) -> None:
    """Fill in the options that nobody gave; what cyclopts calls a config."""
    known = _names(arguments)
    if not known.issuperset(project()[1]):  # those of the other commands are only imported for what is none of this one
        check(known.union(*(_names(root[name].assemble_argument_collection()) for name in COMMANDS)))
    # by command, since cyclopts takes a setting that is called as a command for one of that command
    settings = cyclopts.config.Dict(dict.fromkeys(COMMANDS, defaults()), allow_unknown=True, source=_SETTINGS)
    settings(app, commands, arguments)


def _names(arguments: Iterable[cyclopts.Argument]) -> set[str]:
    return {name.removeprefix("--") for argument in arguments for name in argument.names}


def _refusal(error: Exception, words: Sequence[str]) -> Reply:
    """What to say when nothing was run."""
    if isinstance(error, cyclopts.CycloptsError):
        error = _misused(error, words)
    elif not isinstance(error, CommandError):
        hint = "this is a bug of ours; --debug shows the traceback"
        error = CommandError(Exit.BUG, f"{type(error).__name__}: {error}", hint=hint)
    return Reply(
        code=error.code,
        document=partial(document.refusal, error),
        show=lambda: None,
        complain=partial(_complain, error),
    )


def _misused(error: cyclopts.CycloptsError, words: Sequence[str]) -> CommandError:
    message = params.explain(error, words)
    tokens = [] if error.argument is None else error.argument.tokens
    name = next((token.keyword or "" for token in tokens if token.source == _SETTINGS), None)
    if name is None:
        hint = _usage_hint(words, unknown=isinstance(error, cyclopts.UnknownOptionError))
        return CommandError(Exit.USAGE, message, hint=hint)
    option = name.strip("[]")  # as cyclopts writes what is no word of the command line
    hint = f"it is set by {variable_of(option)} in the environment, or by {option} in pyproject.toml"
    return CommandError(Exit.CONFIGURATION, message.replace(name, option), hint=hint)


def _complain(error: CommandError) -> None:
    from workflow_runner.cli.render import show_refusal

    show_refusal(error)


def _usage_hint(words: Sequence[str], *, unknown: bool) -> str:
    if ":" in words[0]:
        return f"did you mean: {NAME} run {' '.join(words)}"
    if unknown and words[0] in PARAMETERS_LAST and "--" not in words:
        return f"see {NAME} {words[0]} --help; the flow's own parameters come last, after --"
    if words[0] in COMMANDS:
        return f"see {NAME} {words[0]} --help"
    near = get_close_matches(words[0], COMMANDS, n=1)
    return f"did you mean: {NAME} {' '.join([*near, *words[1:]])}" if near else f"see {NAME} --help"


def _fence_target(words: Sequence[str]) -> list[str]:
    """Put a ``--`` before the target: what follows it is the flow's, whatever it looks like."""
    if not words or words[0] not in TAKES_TARGET:
        return list(words)
    found = Words(words, FLAGS)
    return [*words[: found.target], *([] if found.fenced else ["--"]), *words[found.target :]]


def _leave(code: int) -> None:
    """End now, also if the flow has started threads of its own that the interpreter would wait for."""
    others = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    if others:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
