"""Steps side by side: the scheduler of a level whose steps name what they need."""

from __future__ import annotations

import heapq
from _thread import allocate_lock
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from workflow_runner._core.fanout import FanOut
from workflow_runner._workflow.context import WorkflowContext
from workflow_runner._workflow.graph import Graph
from workflow_runner.errors import Aborted, MergeConflict

if TYPE_CHECKING:
    from workflow_runner._core.flow_context import FlowContext
    from workflow_runner._core.slots import Worker

# What a step adds to the context: outputs by step name (a choice adds those of its branch) and updates of the params.
Addition = tuple[tuple[tuple[str, Any], ...], Mapping[str, Any]]


class Dag(FanOut):
    """One run of a level.

    The caller and its helpers take the ready step with the longest chain below it; whoever ends a step releases those
    that waited for it. ``_lock`` guards what is ready, what is missing and what has been added.

    Args:
        perform: runs the step with this index in this context; its addition, or None if it has failed and may.
        skip: notes that the step is skipped because of the needed one.
    """

    def __init__(
        self,
        parent: FlowContext,
        graph: Graph,
        context: WorkflowContext,
        perform: Callable[[Dag, int], Addition | None],
        skip: Callable[[int, str], None],
    ) -> None:
        super().__init__(parent, "steps", parent._scope.max_workers, None, None)
        self.graph = graph
        self.errors: dict[int, BaseException] = {}
        self._start = context
        self._perform = perform
        self._skip = skip
        self._lock = allocate_lock()
        self._missing = [len(before) for before in graph.before]
        self._ready = [(-graph.height[i], i) for i, missing in enumerate(self._missing) if not missing]
        heapq.heapify(self._ready)
        self._added: dict[int, Addition] = {}
        # the steps that have failed, or were skipped because of one that has
        self._lost: set[int] = set()
        # those that have updated params, as the bits of a number
        self._writers = 0
        # the contexts that steps were given
        self._before: dict[int, WorkflowContext] = {}

    def has_more(self) -> bool:
        return bool(self._ready) and not (self._stopped or self._above_signal._aborted)

    def execute(self) -> WorkflowContext:
        """Run every step; the context after all of them.

        Raises:
            Aborted: the parent was told to stop.
            MergeConflict: two steps disagree.
            BaseException: the failure of the step that was declared first.
        """
        self._call_for_helpers()
        try:
            self._work(None)
            self._join()
        except BaseException:  # an interrupt between two steps
            self._stop("interrupted")
            self._join()
            raise
        finally:
            self._end()
        failures = {i: e for i, e in self.errors.items() if not self._obeyed(e)}
        if failures:
            raise failures[min(failures)]
        self._above_signal.throw_if_aborted()
        if self.errors:
            raise Aborted(self.signal.reason)
        return self.context_before(None)

    def _call_for_helpers(self) -> None:
        with self._slots.lock:
            helpers = min(len(self._ready), self.concurrency) - 1
            helpers = min(helpers, self.concurrency - 1 - self.joined - self.wanted)
            if self.gate is not None and self._ready:
                self.open_gate()
        if helpers > 0:
            self._slots.wish(self, helpers)

    def _work(self, worker: Worker | None) -> None:
        pending = self._slots.pending
        while not (self._stopped or self._above_signal._aborted):
            with self._lock:
                if not self._ready:
                    return
                index = heapq.heappop(self._ready)[1]
            try:
                addition = self._perform(self, index)
            except BaseException as error:
                self.errors[index] = error
                self._stop(error)
                return
            self._finished(index, addition)
            if worker is not None and pending:
                return

    def _finished(self, index: int, addition: Addition | None) -> None:
        graph = self.graph
        ended = [index]
        with self._lock:
            if addition is None:
                self._lost.add(index)
            else:
                self._added[index] = addition
                if addition[1]:
                    self._writers |= 1 << index
            while ended:
                before = ended.pop()
                for i in graph.after[before]:
                    self._missing[i] -= 1
                    if self._missing[i]:
                        continue
                    lost = [
                        b for b in graph.before[i] if b in self._lost and graph.nodes[b].name in graph.nodes[i].named
                    ]
                    if lost:
                        self._lost.add(i)
                        self._skip(i, graph.nodes[lost[0]].name)
                        ended.append(i)
                    else:
                        heapq.heappush(self._ready, (-graph.height[i], i))
        if self._ready:
            self._call_for_helpers()

    # -- contexts

    def context_before(self, index: int | None) -> WorkflowContext:
        """The context that a step sees: the start and what its ancestors have added; None: after all steps.

        Raises:
            MergeConflict: two of them that may run side by side wrote different values to one param.
        """
        graph = self.graph
        if index is None:
            needed, direct = (1 << len(graph.nodes)) - 1, tuple(graph.order)
        else:
            needed, direct = graph.ancestors[index], graph.before[index]
        if not needed:
            return self._start
        if self._writers & needed:
            self._check_conflicts(needed)
        # go on from the context of the need with the most ancestors; in a chain only that need itself is missing
        base = max((b for b in direct if b in self._before), key=lambda b: graph.ancestors[b].bit_count(), default=None)
        if base is None:
            context, missing = self._start, needed
        else:
            context, missing = self._before[base], needed & ~graph.ancestors[base]
        for i in self._in_order(missing):
            if i in self._added:
                context = add(context, self._added[i])
        if index is not None:
            self._before[index] = context
        return context

    def _in_order(self, steps: int) -> list[int]:
        """The indices in ``steps``, as bits, in topological order."""
        found = []
        while steps:
            lowest = steps & -steps
            found.append(lowest.bit_length() - 1)
            steps ^= lowest
        return sorted(found, key=self.graph.rank.__getitem__)

    def _check_conflicts(self, needed: int) -> None:
        graph = self.graph
        writers: dict[str, list[int]] = {}
        for i in self._in_order(self._writers & needed):
            for param in self._added[i][1]:
                writers.setdefault(param, []).append(i)
        for param, steps in writers.items():
            steps.sort()  # by declaration, for the message
            for a in steps:
                for b in steps:
                    side_by_side = a < b and not (graph.ancestors[a] >> b & 1 or graph.ancestors[b] >> a & 1)
                    if side_by_side and not _equal(self._added[a][1][param], self._added[b][1][param]):
                        raise MergeConflict(
                            f"steps {graph.nodes[a].name!r} and {graph.nodes[b].name!r} may run side by side and wrote"
                            f" different values to param {param!r}: {self._added[a][1][param]!r} and"
                            f" {self._added[b][1][param]!r}"
                        )


def add(context: WorkflowContext, addition: Addition) -> WorkflowContext:
    """``context`` with what a step has added."""
    outputs, updates = addition
    for name, output in outputs:
        context = context._merged(name, output, updates)
        updates = {}
    return context


def _equal(a: Any, b: Any) -> bool:
    try:
        return a is b or bool(a == b)
    except Exception:  # values that cannot be compared (arrays) are not known to be equal
        return False
