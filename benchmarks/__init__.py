"""Measurements of clipzs against other ways to the same scores; see docs/performance.md."""
