"""What a number says: its name, and whether more of it is better."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Metric"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a task.

    Attributes:
        name: such as ``macro_f1``.
        higher_is_better: or lower.
        percent: whether people read it in percent; its value is the share all the same.
    """

    name: str
    higher_is_better: bool = True
    percent: bool = False
