"""Entry of a worker process: ``python -m vecserver.engine HOST_PID SOCKET MEMORY BELL TOKENS DONE_BELL``."""

from __future__ import annotations

import logging
import sys

from vecserver.engine.worker import main

if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s worker %(process)d: %(message)s")
    main(*(int(argument) for argument in sys.argv[1:7]))
