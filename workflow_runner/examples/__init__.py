"""Runnable flows on real data; ``market_close`` is the one to read first."""
