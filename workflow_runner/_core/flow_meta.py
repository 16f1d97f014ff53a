"""Tags that every execution answers about itself: ``ctx.get(flow_meta.depth)``."""

from __future__ import annotations

from workflow_runner._core.tags import DerivedTag, Tag

flow_name: Tag[str] = DerivedTag(str, "flow_meta.flow_name", lambda ctx: ctx.name)
depth: Tag[int] = DerivedTag(int, "flow_meta.depth", lambda ctx: ctx.depth)
parent_name: Tag[str | None] = DerivedTag(
    object,  # type: ignore[arg-type]
    "flow_meta.parent_name",
    lambda ctx: ctx.parent.name if ctx.parent is not None else None,
)
is_parallel: Tag[bool] = DerivedTag(bool, "flow_meta.is_parallel", lambda ctx: ctx._fanout is not None)
