"""`python -m sparkray`: the same as the command `sparkray`."""

import sys

from sparkray.cli import main

sys.exit(main())
