"""Many flows that are observed: nothing is left of them, in the process or in the observers."""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest
from core.test_soak import KINDS, LONG, held, resident, waits
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span
from prometheus_client import CollectorRegistry, generate_latest

from workflow_runner import Scope
from workflow_runner.extensions.metrics import Metrics
from workflow_runner.extensions.traces import Traces

FLOWS = 20_000


class Open(SpanProcessor):
    """Counts the spans that have begun and not ended, and how many there were."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.ended = 0
        self._lock = threading.Lock()

    def on_start(self, span: Span, parent_context: object = None) -> None:
        self.open.add(span.get_span_context().span_id)

    def on_end(self, span: ReadableSpan) -> None:
        with self._lock:
            self.ended += 1
            self.open.discard(span.get_span_context().span_id)


@pytest.mark.timeout(240)
def test_nothing_is_left_of_20_000_observed_flows() -> None:
    """A tenth is sampled. Every span ends, every run is counted, and nothing is left of any."""
    chance, registry, processor = random.Random(7), CollectorRegistry(), Open()
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.1)), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    weights = [weight for weight, _, _ in KINDS]
    threads, before = set(threading.enumerate()), held()
    ended: Counter[str] = Counter()
    memory: list[int] = []
    lines: list[int] = []
    with Scope(max_workers=8, max_abandoned=1000, extensions=[Traces(provider=provider), Metrics(registry)]) as scope:
        for _ in range(FLOWS // 500):
            executions = []
            for n, (_, kind, options) in enumerate(chance.choices(KINDS, weights, k=500)):
                execution = scope.exec(kind, n, **options)
                if (kind is waits and not options) or chance.random() < 0.02:
                    execution.cancel("enough")
                executions.append(execution)
            for execution in executions:
                execution.exception(LONG)
                ended[str(execution.status)] += 1
            del execution, executions
            memory.append(resident())
            lines.append(len(generate_latest(registry).splitlines()) if len(memory) % 10 == 0 else 0)
    for thread in set(threading.enumerate()) - threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert sum(ended.values()) == FLOWS
    counted = {
        status: sum(
            sample.value
            for family in registry.collect()
            for sample in family.samples
            if sample.name == "workflow_runner_runs_total" and sample.labels["status"] == status
        )
        for status in ended
    }
    assert counted == ended
    assert processor.open == set()
    assert processor.ended > FLOWS / 20
    assert len({count for count in lines if count}) == 1
    assert held() - before == Counter()
    # what the allocator keeps is there after the first part
    assert max(memory[len(memory) // 2 :]) - max(memory[: len(memory) // 4]) < 16 * 2**20
