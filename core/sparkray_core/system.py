"""Whether this system has what Linux has. Every module that uses such a means has its fallback beside it."""

from __future__ import annotations

import os
import sys

# pidfd, prctl, subreaper, /proc, memfd, epoll, sched_getaffinity, and a fork that is safe after libraries were loaded.
# The variable is for tests: everything as on other systems.
LINUX = sys.platform == "linux" and not os.environ.get("SPARKRAY_PORTABLE")
