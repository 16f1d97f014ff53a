"""Crash safety, proven on real processes that are killed. The oracle is outside the engine."""
