"""Wall time of a sweep on Ray with two workers against the sum of its trials' own seconds over two."""

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from provenance import provenance

from sweeper.storage.tables import read, read_trials


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=60, help="configurations (default: %(default)s)")
    parser.add_argument("--samplers", nargs="+", default=["random", "noise"], help="default: random noise")
    args = parser.parse_args()
    print(f"digits_label_noise, {args.trials} trials, 2 workers; {provenance()}")
    print(f"{'sampler':<8} {'wall':>7} {'start-up':>8} {'trials/2':>8} {'ratio':>6} {'sampler':>8}   seconds")
    for sampler in args.samplers:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            command = [sys.executable, "-m", "sweeper", "run", "digits_label_noise", "--trials", str(args.trials)]
            start = time.time()
            subprocess.run(
                [*command, "--sampler", sampler, "--workers", "2", "--out", str(run)], check=True, capture_output=True
            )
            rows = read_trials(run).to_pylist()
            began = min(datetime.fromisoformat(r["started"]).timestamp() for r in rows)
            ended = max(p.stat().st_mtime for p in (run / "trials").iterdir())
            ideal = sum(r["device_seconds"] for r in rows) / 2
            asked = sum(read(run, "search")["seconds_ask"].to_pylist())
            wall = ended - began
            print(
                f"{sampler:<8} {wall:>7.1f} {began - start:>8.1f} {ideal:>8.1f} {wall / ideal:>6.2f} "
                f"{asked / wall:>8.1%}   of the wall time is spent in the sampler",
                flush=True,
            )


if __name__ == "__main__":
    main()
