"""`python -m ddpo_utils`: see cli.py."""

import sys

from .cli import main
from .settings import let_threads_sleep

if __name__ == "__main__":
    let_threads_sleep()
    sys.exit(main())
