"""``python -m absurd`` is ``absurdctl``."""

from __future__ import annotations

from absurd.cli import main

if __name__ == "__main__":
    main()
