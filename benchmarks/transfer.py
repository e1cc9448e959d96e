"""One large object from node to node, on sparkray and on Ray: real nodes of one machine, over loopback or its memory.

    python benchmarks/transfer.py                  1 GB, with Ray if --ray-python has it
    python benchmarks/transfer.py --mb 100 --rounds 1 --systems sparkray

one         a task on the second node reads what the driver has put on the first
three       a task on each of three further nodes does, all at a time
readers     eight tasks on the second node do, all at a time

sparkray reads from the other node's memory when both are on one host; `sparkray, network` hides that from it, so that
the bytes take the way that they take between two hosts: TLS over TCP. Ray's take TCP in either case, in the clear.
Each value is the median of several transfers of a fresh child, each of another object, after one that is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

from micro import describe_machine, say
from micro_process import run_child, why_not_importable

HERE = Path(__file__).resolve().parent
CHILD = HERE / "transfer_child.py"
OURS, NETWORK, RIVAL = "sparkray", "sparkray-network", "ray"
CASES = {"one": 1, "three": 3, "readers": 1}  # nodes that get a copy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=1000, help="of the object, in 10^6 bytes (1000)")
    parser.add_argument("--rounds", type=int, default=3, help="children per system and case (3)")
    parser.add_argument("--times", type=int, default=3, help="transfers in each that count (3)")
    parser.add_argument("--cases", default=",".join(CASES), help=f"with commas between: {', '.join(CASES)}")
    parser.add_argument("--systems", default=f"{OURS},{NETWORK},{RIVAL}", help="with commas between")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds for one child (180)")
    parser.add_argument("--ray-python", default=str(HERE.parent / ".venv-ray/bin/python"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value there as well")
    args = parser.parse_args()
    ray_python, systems = os.path.abspath(args.ray_python), args.systems.split(",")
    if RIVAL in systems:
        why = why_not_importable(ray_python, RIVAL) if Path(ray_python).exists() else "no such file"
        if why:
            say(f"Ray is not measured: no Ray with --ray-python {ray_python}: {why}")
            systems.remove(RIVAL)
    machine = describe_machine()
    say("  ".join(f"{key}: {value}" for key, value in machine.items()))
    found: dict[str, dict[str, list[float]]] = {case: {one: [] for one in systems} for case in args.cases.split(",")}
    failed = False
    for turn in range(args.rounds):
        for case, cells in found.items():
            for system in systems[turn % len(systems) :] + systems[: turn % len(systems)]:
                python = ray_python if system == RIVAL else sys.executable
                words = [case, str(args.mb), str(args.times)]
                module = RIVAL if system == RIVAL else system
                outcome = run_child(python, module, words, args.timeout, CHILD)
                if outcome.value is None:
                    failed = True
                    say(f"{case}, {system}: {outcome.error}\n{outcome.stderr}")
                else:
                    cells[system].append(outcome.value)
                    say(f"{case}, {system}: {outcome.value:.3f} s")
    say(f"\n{'':10}{''.join(f'{system:>34}' for system in systems)}      GB that arrived, a second")
    for case, cells in found.items():
        line = f"{case:10}"
        for system in systems:
            rates = sorted(args.mb / 1000 * CASES[case] / seconds for seconds in cells[system])
            shown = f"{rates[0]:.2f} - {statistics.median(rates):.2f} - {rates[-1]:.2f}" if rates else "-"
            line += f"{shown:>34}"
        say(line)
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "mb": args.mb, "seconds": found}, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
