"""The layouts in which sets of labelled faces are handed on, each in a file of its own."""

from __future__ import annotations

from facekit.train.probe.layouts.open import LAYOUTS, open_examples

__all__ = ["LAYOUTS", "open_examples"]
