"""Entry of a worker process: ``python -m vecserver.engine HOST_PID SOCKET MEMORY BELL TOKENS DONE_BELL``."""

from __future__ import annotations

import logging
import sys

from vecserver.engine.worker import main
from vecserver.outlet import outlive_everywhere

if __name__ == "__main__":
    outlive_everywhere()
    logging.basicConfig(format="%(levelname)s worker %(process)d: %(message)s")
    main(*(int(argument) for argument in sys.argv[1:7]))
