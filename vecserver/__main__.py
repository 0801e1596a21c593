"""``python -m vecserver``: the command line."""

from __future__ import annotations

from vecserver.cli import main

if __name__ == "__main__":
    main()
