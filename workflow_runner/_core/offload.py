"""Work in other processes: ``on=`` names a stdlib ``Executor``, and JSON text travels both ways.

What is submitted is always `run_batch`, a function of this module, with one text: no closure and no pickled object of
ours crosses the border. The work itself is found by its import path on the other side.
"""

from __future__ import annotations

import functools
import pickle
import threading
from concurrent.futures import BrokenExecutor, Executor
from typing import TYPE_CHECKING, Any

from workflow_runner._core import codec
from workflow_runner._core.flow import Call, Flow, FunctionFlow, call
from workflow_runner.errors import Aborted, DefinitionError, WorkflowRunnerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from workflow_runner._core.flow_context import FlowContext
    from workflow_runner._core.scope import Scope


class Executors:
    """The named executors of one scope; factories are called at first use, and again when their pool has broken."""

    def __init__(self, named: dict[str, Executor | Callable[[], Executor]]) -> None:
        self._named = named
        self._lock = threading.Lock()
        self._made: dict[str, Executor] = {}

    def get(self, name: str) -> Executor:
        """The executor called ``name``.

        Raises:
            DefinitionError: there is none.
        """
        with self._lock:
            if name in self._made:
                return self._made[name]
            if name not in self._named:
                raise DefinitionError(f"on={name!r} names no executor of the scope; there are {sorted(self._named)}")
            named = self._named[name]
            if isinstance(named, Executor):
                return named
            executor = self._made[name] = named()
            return executor

    def discard(self, name: str, broken: Executor) -> None:
        """Forget a pool that has broken, so that the factory is asked for a new one."""
        with self._lock:
            if self._made.get(name) is broken:
                del self._made[name]
        broken.shutdown(wait=False)

    def close(self) -> None:
        """Shut down what the factories have made; executors that were given stay their owner's."""
        with self._lock:
            made, self._made = self._made, {}
        for executor in made.values():
            executor.shutdown(wait=False, cancel_futures=True)


def run(ctx: FlowContext, flow: Flow[Any, Any], input: Any, on: str) -> Any:
    """Run ``flow`` on the executor ``on`` and wait for its value.

    The deadline travels with the work. Cancelling frees the caller at once; what has started over there goes on until
    its deadline.

    Raises:
        DefinitionError: there is no such executor, or the function cannot be found by an import path.
        SerializationError: the input or the output cannot travel.
        BrokenExecutor: the pool lost a worker; a factory gives a new one to the next attempt.
    """
    scope = ctx._scope
    task = ctx._task
    left = None if task is None or task._due is None else task._due - scope._clock.monotonic()
    where = f"flow {flow.name!r}"
    if isinstance(flow, FunctionFlow):
        work = {"function": import_path(input.function), "args": input.args, "kwargs": input.kwargs}
    else:
        work = {"flow": import_path(flow.handler), "input": flow.prepare(input)}
    place = {"run_id": ctx.run_id, "path": ctx._path, "attempt": ctx.attempt, "timeout": left}
    text = codec.dumps([{**work, **place}], where=where)
    executor = scope._executors.get(on)
    signal = ctx.signal
    ended = threading.Event()
    try:
        future = executor.submit(run_batch, text)
        future.add_done_callback(lambda _future: ended.set())
        undo = signal.on_abort(ended.set)
        ended.wait()
        undo()
        if not future.done():
            future.cancel()
            raise Aborted(signal.reason)
        return codec.loads(future.result())[0]
    except BrokenExecutor:
        scope._executors.discard(on, executor)
        raise


def run_batch(text: str) -> str:
    """The other side: run each piece of work in ``text`` and give the values back. Called by an executor.

    Raises:
        BaseException: what the work has raised; of what no pickle can bring home (it would break the pool), the text.
    """
    values: list[Any] = []
    for work in codec.loads(text):
        if "function" in work:
            piece = call(find(work["function"]), *work["args"], **work["kwargs"])
        else:
            piece = Call(find(work["flow"]), work["input"])
        host: Flow[Any, Any] = Flow(functools.partial(_perform, piece, work), name=piece.flow.name)
        try:
            values.append(_scope().run(host, timeout=work["timeout"], run_id=work["run_id"]))
        except BaseException as error:
            if _travels(error):
                raise
            raise WorkflowRunnerError(f"{type(error).__qualname__}: {error}") from error
    return codec.dumps(values, where="the result")


def _perform(piece: Call, work: dict[str, Any], root: FlowContext, _input: None) -> Any:
    """Run ``piece`` in the place that it has in its run; its timeout and its retry are the caller's part."""
    ctx = type(root)(root._scope, root, piece.flow.name)
    ctx._segment, ctx._attempt = work["path"], work["attempt"]
    return ctx._run_here(ctx._perform, piece.flow, piece.flow.prepare(piece.input))


def _travels(error: BaseException) -> bool:
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        return False


@functools.cache
def _scope() -> Scope:
    from workflow_runner._core.scope import Scope

    return Scope(name="remote")


def import_path(function: Any) -> str:
    """``module:qualified.name`` of a function.

    Raises:
        DefinitionError: nobody else could find it by that.
    """
    path = f"{getattr(function, '__module__', None)}:{getattr(function, '__qualname__', None)}"
    try:
        found = find(path)
    except (ImportError, AttributeError):
        found = None
    if found is function or (isinstance(found, Flow) and found.handler is function):
        return path
    raise DefinitionError(
        f"{path} cannot run in another process, which would not find it: define it at the top of a module"
    )


def find(path: str) -> Any:
    """What stands at ``module:qualified.name``."""
    import importlib

    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found
