#!/usr/bin/env bash
# Everything to do on a machine that has a CUDA device: build, tests, compute-sanitizer, benchmark.
#
#   bench/gpu_run.sh [--dry-run] [--python PYTHON] [--out FOLDER] [--skip-build] [--quick]
#
# PYTHON has a CUDA build of torch (default: python3). With --dry-run the commands are printed and not run. A step
# that fails does not stop the others; the exit code is the number of steps that failed.
set -uo pipefail

dry_run=0 build=1 quick=0 python=python3 out=build/gpu
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry_run=1 ;;
    --skip-build) build=0 ;;
    --quick) quick=1 ;;
    --python) python=${2:?--python needs a path}; shift ;;
    --out) out=${2:?--out needs a folder}; shift ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "gpu_run.sh: unknown argument $1 (see --help)" >&2; exit 64 ;;
  esac
  shift
done
cd "$(dirname "$0")/.." || exit 64

failed=()
# step NAME COMMAND...: prints the command, runs it, and goes on whatever it says.
step() {
  local name=$1 code
  shift
  printf '== %s\n+' "$name"
  printf ' %q' "$@"
  printf '\n'
  [ "$dry_run" = 1 ] && return 0
  "$@" 2>&1 | tee "$out/${name// /_}.log"
  code=${PIPESTATUS[0]}
  if [ "$code" -ne 0 ]; then
    failed+=("$name")
    echo "== $name failed (exit code $code)"
  fi
  return "$code"
}
have_modules() { "$python" -c "import $1" >/dev/null 2>&1; }

[ "$dry_run" = 1 ] || mkdir -p "$out"

# Without a device torch can use, nothing below means anything.
step "device" "$python" -c "import torch; print(torch.__version__, torch.version.cuda); print(torch.cuda.get_device_properties(0))" ||
  { echo "gpu_run.sh: $python has no torch that finds a CUDA device" >&2; exit 1; }

if [ "$build" = 1 ]; then
  # An environment that brings the build tools is used as it is, also without a network.
  isolation=()
  if [ "$dry_run" = 1 ] || have_modules "pybind11, cmake, ninja, setuptools"; then isolation=(--no-build-isolation); fi
  step "build" "$python" -m pip install ${isolation[@]+"${isolation[@]}"} -e '.[test,bench]' || exit 1
fi
step "info" "$python" -m fastgrad.cli info
step "uses CUDA" "$python" -c "from fastgrad import library; kernel = library.cuda_kernel(0); print(kernel); raise SystemExit(kernel != 'CUDA')"
step "contract" "$python" -m pytest tests -k cuda_device

# A small list through every op and format, each result compared with the CPU's; no cache of torch between us and the
# ends of allocations.
subset=("$python" -m bench.gpu --check --kinds ours --sizes tiny --out "$out/sanitizer.md")
if [ "$dry_run" = 1 ] || command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck synccheck initcheck; do
    step "$tool" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 1 "${subset[@]}"
  done
else
  echo "== compute-sanitizer is absent (a part of the CUDA toolkit): memcheck, racecheck, synccheck, initcheck not run"
fi

options=()
[ "$quick" = 1 ] && options=(--sizes resnet56 --no-compile --repeats 11)
step "benchmark" "$python" -m bench.gpu --json "$out/gpu.json" --out "$out/gpu.md" ${options[@]+"${options[@]}"}

if [ ${#failed[@]} -gt 0 ]; then
  printf '== failed: %s\n' "${failed[*]}"
else
  echo "== all steps passed; tables in $out/gpu.md"
fi
exit ${#failed[@]}
