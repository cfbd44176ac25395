"""`python -m tests.accountant listing.json`: print the account; exit 1 if there is a race or an unwritten read."""

from __future__ import annotations

import argparse
import json
import sys

from tests.accountant.account import account
from tests.accountant.clock import AccountError


def main() -> int:
    """Account for the listing named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.accountant", description=__doc__)
    parser.add_argument("listing", help="what `dsac disasm --json` prints")
    parser.add_argument("--time-only", action="store_true", help="look for no races")
    parser.add_argument("--show", type=int, default=10, help="how many races and unwritten reads to print")
    args = parser.parse_args()
    with open(args.listing, encoding="utf-8") as stream:
        top = json.load(stream)
    try:
        result = account(top, hazards=not args.time_only)
    except AccountError as error:
        print(error)
        return 1
    print(f"cycles {result.cycles:.3f}")
    print(f"entries {result.entries}, host {result.host_cycles:.1f}, conflicts {result.conflict_cycles:.1f}")
    print("busy " + ", ".join(f"{k} {v:.0f}" for k, v in result.busy.items()))
    print("bytes " + ", ".join(f"{s} {d} {v:.0f}" for (s, d), v in result.bytes.items()))
    print(f"races {len(result.races)}, unwritten reads {len(result.unwritten)}")
    for hazard in result.hazards[: args.show]:
        print(f"  {hazard}")
    return 1 if result.hazards else 0


if __name__ == "__main__":
    sys.exit(main())
