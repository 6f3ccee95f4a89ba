"""Planned inference on a CPU: a function recorded once per shape and replayed without allocating anything."""

from .planned import Plan, plan

__all__ = ["Plan", "plan"]
