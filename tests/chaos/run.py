"""python -m tests.chaos.run --minutes 30 --seed 7: kills for so long. With no seed it takes one, and says which."""

from __future__ import annotations

import argparse
import os
import random
import sys

import pytest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    chosen = parser.parse_args()
    sys.stdout.write(f"seed {chosen.seed}, {chosen.minutes:g} minutes\n")
    sys.stdout.flush()
    os.environ.update(CHAOS_MINUTES=str(chosen.minutes), CHAOS_SEED=str(chosen.seed))
    return int(pytest.main(["-q", os.path.join(os.path.dirname(__file__), "test_kills.py")]))


if __name__ == "__main__":
    sys.exit(main())
