"""python -m tests.chaos.run --minutes 30 --seed 7: kills for so long. With no seed it takes one, and says which.

With --spark the nodes live in the executors of a local-cluster, which are killed, too.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--spark", action="store_true", help="in a session of RayContext")
    chosen = parser.parse_args()
    sys.stdout.write(f"seed {chosen.seed}, {chosen.minutes:g} minutes\n")
    sys.stdout.flush()
    os.environ.update(CHAOS_MINUTES=str(chosen.minutes), CHAOS_SEED=str(chosen.seed))
    storm = TESTS / "spark" / "test_chaos.py" if chosen.spark else TESTS / "chaos" / "test_kills.py"
    return int(pytest.main(["-q", str(storm)]))


if __name__ == "__main__":
    sys.exit(main())
