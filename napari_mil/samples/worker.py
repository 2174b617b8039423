"""A process that draws sample slides: jobs in as JSON lines, answers out as JSON lines; see `cohort`."""

from __future__ import annotations

import json
import sys

from napari_mil.samples.cohort import draw_job


def main() -> int:
    """Draw until the jobs end; a failure is reported as a line and ends the process."""
    for line in sys.stdin:
        try:
            answer = {"done": draw_job(json.loads(line))}
        except Exception as error:  # noqa: BLE001 – the parent tells it to the user
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)  # noqa: T201 – this is how answers travel
        if "error" in answer:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
