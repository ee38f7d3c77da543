# make demo    sets everything up and runs the main job: a ResNet-20, plain against treated gradients
# make test    sets everything up, checks style and types, and passes the tests (the slow ones: make test-slow)
# make bench   the benchmark of this machine, in ten minutes, as build/benchmarks.md; PEERS=1 installs other libraries first
# make gpu-check  reads the machine code of the GPU kernels, without a device (needs nvcc); build/gpu_code.md
# make bench-docs, gpu-docs  the same two, written to docs/ and the README
# make docs    the documentation as a site, in build/site; no warning is let through
# make wheel   a source distribution and a wheel in dist/, tried where no compiler is
# make lint    ruff and mypy
# Wants Python 3.11 or later, as versions in constraints.txt do; the package itself runs on 3.10, too.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# Also constrains the isolated environment in which the module is built.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
RECENT := import sys; sys.version_info >= (3, 11) or sys.exit("make wants Python 3.11 or later (make PYTHON=python3.11)")
SOURCES := $(shell find csrc -type f) CMakeLists.txt setup.py pyproject.toml constraints.txt

.PHONY: demo test test-slow bench bench-docs gpu-check gpu-docs docs figures wheel lint clean

$(VENV)/installed: $(SOURCES)
	test -x $(BIN)/python || { $(PYTHON) -c '$(RECENT)' && $(PYTHON) -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --editable '.[test,bench]'
	touch $@

demo: $(VENV)/installed
	rm -rf demo
	$(BIN)/fastgrad info
	$(BIN)/fastgrad cifar train --data digits --model resnet20 --epochs 12 --out demo/plain
	$(BIN)/fastgrad cifar train --data digits --model resnet20 --epochs 12 \
	    --normalize autoscale --grad-format fp8_e4m3 --out demo/autoscale_fp8
	$(BIN)/fastgrad cifar report demo/plain demo/autoscale_fp8 --out demo/report

test: lint
	$(BIN)/python -m pytest -m "not slow" --durations=25 -n 2 --dist loadfile

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

# The benchmark runs on the CPU, so the installation with the other libraries leaves the CUDA kernels out.
define measure
	$(if $(PEERS),FASTGRAD_CUDA=0 $(BIN)/python -m pip install --quiet --editable '.[peers]')
	mkdir -p build
	$(BIN)/python -m bench.run --json build/bench.json
endef

bench: $(VENV)/installed
	$(measure)
	$(BIN)/python -m bench.report build/bench.json --out build/benchmarks.md --plot build/benchmarks.png

bench-docs: $(VENV)/installed
	$(measure)
	$(BIN)/python -m bench.report build/bench.json --out docs/benchmarks.md --plot docs/benchmarks.png --summary README.md

gpu-check: $(VENV)/installed
	$(BIN)/python -m bench.gpu_code --json build/gpu_code.json

gpu-docs: $(VENV)/installed
	$(BIN)/python -m bench.gpu_code --json build/gpu_code.json --out docs/gpu_code.md

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir build/site  # else the theme advertises

figures: $(VENV)/installed
	$(BIN)/python docs/figures.py

wheel:
	$(PYTHON) -c '$(RECENT)'
	PYTHON=$(PYTHON) packaging/check_wheel.sh dist

lint: $(VENV)/installed
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

clean:
	rm -rf $(VENV) build dist demo fastgrad.egg-info fastgrad/_native*.so
