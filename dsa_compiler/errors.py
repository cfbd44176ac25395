"""The three kinds of error that this package raises.

`UserError` is for what a user can mend (a model, an option, a file); `Infeasible` is feedback between
passes and never reaches a user; `InternalError` is a defect of ours.
"""

from __future__ import annotations


class DsacError(Exception):
    """Base of every error of this package: what went wrong, where, and what to do.

    The message reads ``[where] problem; action``.
    """

    def __init__(self, problem: str, *, where: str = "", action: str = "") -> None:
        self.problem = problem
        self.where = where
        self.action = action
        text = f"[{where}] {problem}" if where else problem
        super().__init__(f"{text}; {action}" if action else text)


class UserError(DsacError):
    """A model, option, input or file that cannot be accepted."""


class Infeasible(DsacError):
    """A choice that a pass cannot realise; the level above answers with another one.

    `limit` names what ran out (a scope or a dimension), in the unit of `needed` and `available`.
    """

    def __init__(self, limit: str, needed: int, available: int, *, where: str = "") -> None:
        self.limit = limit
        self.needed = needed
        self.available = available
        super().__init__(f"{limit}: {needed} needed, {available} available", where=where)


class InternalError(DsacError):
    """A defect of the compiler: an invariant that does not hold."""
