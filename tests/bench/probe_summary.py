"""What probe_on_gpu.sh found, on one page: the probe against a plain sweep, and the open points of its calibration."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def read(path: Path) -> Any:
    """A JSON file, None where there is none or it is not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def ratio(part: float | None, whole: float | None) -> str:
    """`0.98`, or a dash."""
    return f"{part / whole:.3f}" if part and whole else "-"


def rows(report: Any, sweep: Any) -> list[str]:
    """One line a product of the standard profile."""
    lines = ["GPU dtype mode  sustained burst cv noise | of sweep's cube, of its best | eff  clock spin/NVML | error"]
    plain = (sweep or {}).get("tflops") or {}
    for gpu in (report or {}).get("gpus") or []:
        for row in gpu["matmul"]:
            speed, window, best = row["tflops"], row["window"] or {}, plain.get(row["dtype"], {})
            clock = (window.get("sm_clock_mhz") or {}).get("mean")
            lines.append(
                f"{gpu['index']} {row['dtype']} {row['mode']}  {speed['sustained']}  {speed['burst']}  {speed['cv']}  "
                f"{row['noise']} | {ratio(speed['sustained'], best.get('cube_median'))}  "
                f"{ratio((row['peak_shape'] or {}).get('tflops'), best.get('best'))} | {row['efficiency_at_clock']}  "
                f"{ratio(window.get('sm_clock_spin_mhz'), clock)} | {row['rel_error']} {row['max_element_error']}"
            )
    return lines


def between_runs(first: Any, second: Any) -> list[str]:
    """The canonical measurement twice: the noise from run to run, and whether the bits are the same."""
    lines = []
    for one, other in zip((first or {}).get("gpus") or [], (second or {}).get("gpus") or []):
        for a, b in zip(one["matmul"], other["matmul"]):
            x, y = a["tflops"]["sustained"], b["tflops"]["sustained"]
            if x and y:
                lines.append(f"GPU {one['index']} {a['dtype']}: second quick run / first {y / x:.4f}")
        same = (one["integrity"] or {}).get("digest") == (other["integrity"] or {}).get("digest")
        lines.append(f"GPU {one['index']}: digest {'equal' if same else 'DIFFERENT'} in both runs")
    return lines


def main() -> int:
    """Print the page."""
    out = Path(sys.argv[1])
    quick, again, standard = (read(out / f"{name}.json") for name in ("quick", "quick-again", "standard"))
    sweep = read(out / "sweep.txt")
    print((out / "parts.txt").read_text(encoding="utf-8"))
    for name, report in (("quick", quick), ("quick again", again), ("standard", standard)):
        if report:
            print(f"{name}: {report['status']} in {report['duration_s']} s: {report['summary']}")
    print("\n".join(["", *rows(standard, sweep), "", *between_runs(quick, again)]))
    for step in (standard or {}).get("steps") or []:
        if step["outcome"] != "done":
            print(f"step {step['step']} {step['outcome']}: {step['message']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
