"""Tags that every execution answers about itself: ``ctx.get(flow_meta.depth)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow_runner._core.tags import DerivedTag, Tag, tag

flow_name: Tag[str] = DerivedTag(str, "flow_meta.flow_name", lambda ctx: ctx.name)
depth: Tag[int] = DerivedTag(int, "flow_meta.depth", lambda ctx: ctx.depth)
parent_name: Tag[str | None] = DerivedTag(
    object,  # type: ignore[arg-type]
    "flow_meta.parent_name",
    lambda ctx: ctx.parent.name if ctx.parent is not None else None,
)
# The config= of a step whose body is a flow.
config: Tag[Mapping[str, Any]] = tag(Mapping, label="flow_meta.config", default={})  # type: ignore[type-abstract]
is_parallel: Tag[bool] = DerivedTag(bool, "flow_meta.is_parallel", lambda ctx: ctx._fanout is not None)
