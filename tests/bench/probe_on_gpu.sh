#!/bin/sh
# All that can be learnt of the probe on a machine with a GPU, in one call of at most ten minutes, without a network:
#
#   PYTHON=/opt/uv/venv/bin/python tests/bench/probe_on_gpu.sh [DIRECTORY]
#
# Runs quick (twice, for the noise and the time with a warm disk), standard, the self-test, and a plain best-of sweep of
# matrix products that shares no code with the probe. Everything lands in DIRECTORY ($OUT, else reports/probe-<time>);
# summary.txt holds the probe's numbers against the sweep's. Changes nothing on the GPU. Exit code 0 when every part came
# to an end within its time, whatever the verdicts are: they are what is asked for.
set -u

root=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:-${OUT:-$root/reports/probe-$(date -u +%Y%m%dT%H%M%SZ)}}
python=${PYTHON:-}
if [ -z "$python" ]; then
    for candidate in /opt/uv/venv/bin/python "$root/.venv/bin/python" python3; do
        if "$candidate" -c 'import torch' >/dev/null 2>&1; then
            python=$candidate
            break
        fi
    done
fi
[ -n "$python" ] || {
    echo "probe_on_gpu.sh: no Python with torch here; name one: PYTHON=/path/to/python $0" >&2
    exit 2
}
mkdir -p "$out" || exit 2
bad=0

# part NAME SECONDS COMMAND...: output, errors, exit code and duration of each part, in files of its name.
part() {
    name=$1 limit=$2
    shift 2
    printf '==> %s (at most %s s)\n' "$name" "$limit" >&2
    begin=$(date +%s)
    timeout -k 10 "$limit" "$@" >"$out/$name.txt" 2>"$out/$name.err"
    code=$?
    printf '%s exit %s seconds %s\n' "$name" "$code" "$(($(date +%s) - begin))" | tee -a "$out/parts.txt" >&2
    # 1 is a verdict; 2 and above is a part that could not run, or ran out of its time.
    [ "$code" -le 1 ] || bad=1
}

: >"$out/parts.txt"
probe="$root/files/torch_probe.py"
if command -v nvidia-smi >/dev/null 2>&1; then
    part nvidia-smi 20 nvidia-smi -q
fi
part quick 60 "$python" "$probe" --profile quick --verbose --json "$out/quick.json" --html "$out/quick.html"
part quick-again 60 "$python" "$probe" --profile quick --verbose --json "$out/quick-again.json"
part standard 200 "$python" "$probe" --profile standard --verbose --json "$out/standard.json" --html "$out/standard.html" \
    --junit "$out/standard.xml" --prometheus "$out/standard.prom"
part self-test 120 "$python" "$probe" --self-test --verbose
part sweep 100 "$python" "$root/tests/bench/cublas_sweep.py" --seconds 60
part summary 20 "$python" "$root/tests/bench/probe_summary.py" "$out"
cat "$out/summary.txt"
printf 'Everything is in %s\n' "$out"
exit "$bad"
