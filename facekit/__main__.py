"""``python -m facekit`` is ``facekit``."""

from __future__ import annotations

import sys

from facekit.cli import main

if __name__ == "__main__":
    sys.exit(main())
