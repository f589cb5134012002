# The two commands of a fresh checkout: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Which torch to install. The plain build for CUDA machines: make demo TORCH=torch
TORCH ?= torch==2.13.0

LOCKED := requirements/locked.txt
OLDEST := requirements/oldest.txt
OLDEST_TORCH := $(shell sed -n 's/.*"torch>=\([0-9.]*\)".*/torch==\1/p' pyproject.toml)

# One process a core, each with one thread; a file of tests stays in one process.
PYTEST := python -m pytest -n logical --maxprocesses 4 --dist loadfile

.PHONY: setup demo test test-shuffled test-newest test-oldest bench bench-full lint lock docs package clean

setup: $(VENV)/.installed

# $(call fresh_venv,FOLDER): an empty virtual environment, whatever was there before.
define fresh_venv
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear $(1)
endef

# $(call install_locked,FOLDER,LOCK,TORCH): what a lock lists and nothing else, torch, the package.
# The lock goes without dependencies, or they would bring another torch. What torch needs of the
# lock is there when its turn comes. Nothing is downloaded to build the package with.
define install_locked
	$(1)/bin/python -m pip install --quiet --no-deps --require-hashes -r $(2)
	$(1)/bin/python -m pip install --quiet "$(3)"
	$(1)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
endef

# A set-up that was interrupted left no mark, and is made anew; a complete one is brought up to date.
$(VENV)/.installed: $(LOCKED) pyproject.toml
	$(if $(wildcard $@),rm $@,$(call fresh_venv,$(VENV)))
	$(call install_locked,$(VENV),$(LOCKED),$(TORCH))
	touch $@

demo: setup
	$(BIN)/adjointdpm demo --output_dir adjointdpm-demo --overwrite_output_dir

test: setup
	$(BIN)/$(PYTEST)

# In random order, with as many threads as OMP_NUM_THREADS says: no test depends on either.
test-shuffled: setup
	$(BIN)/$(PYTEST) -p randomly

# Every claim in small, in minutes.
bench: setup
	$(BIN)/python benchmarks/gradients.py --toy --output_dir build/bench
	$(BIN)/python benchmarks/exponential.py --calls 5 10 --output_dir build/bench
	$(BIN)/python benchmarks/stability.py --output_dir build/bench
	$(BIN)/python benchmarks/quality.py --own_reference 20 --calls 5 --num_images 500 \
		--work_dir build/bench/quality --output_dir build/bench
	$(BIN)/python -m benchmarks.embed --concepts cactus --methods exact truncated --budget 60 \
		--pictures 4 --output build/bench/embed.json
	$(BIN)/python benchmarks/audit.py methods --method_items 4 --output build/bench/audit.json \
		--folder build/bench/audit

# All that the documents show, in many hours. Left out is what needs pictures, weights or packages
# of others: quality.py beside training pictures, stylize.py, terrain.py, audit_imagenet.py,
# fid_agreement.py. Scripts that can go on from what is there keep it.
bench-full: setup
	$(BIN)/python benchmarks/core.py --output_dir docs/benchmarks
	$(BIN)/python benchmarks/cost.py --output_dir docs/benchmarks
	$(BIN)/python benchmarks/cost.py --weights --output_dir docs/benchmarks
	$(BIN)/python benchmarks/reruns.py --model toy --output_dir docs/benchmarks
	$(BIN)/python benchmarks/rounding.py --output_dir docs/benchmarks
	$(BIN)/python benchmarks/low_memory.py --output_dir docs/benchmarks
	$(BIN)/python benchmarks/gradients.py
	$(BIN)/python -m benchmarks.continuous
	$(BIN)/python benchmarks/coarse.py
	$(BIN)/python benchmarks/coarse_steps.py
	$(BIN)/python benchmarks/coarse_steps.py --rules
	$(BIN)/python benchmarks/solvers.py
	$(BIN)/python benchmarks/stability.py
	$(BIN)/python benchmarks/semilinear.py
	$(BIN)/python benchmarks/exponential.py
	$(BIN)/python benchmarks/exponential.py --networks embedded
	$(BIN)/python benchmarks/quality.py --own_reference 50 --work_dir build/quality
	$(BIN)/python benchmarks/architectures.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python -m benchmarks.inversion
	$(BIN)/python benchmarks/reversible.py
	$(BIN)/python benchmarks/non_smooth.py --seed 0
	$(BIN)/python benchmarks/non_smooth.py --seed 1
	$(BIN)/python benchmarks/overview.py
	$(BIN)/python -m benchmarks.embed --output docs/benchmarks/embed.json
	$(BIN)/python benchmarks/guide.py
	$(BIN)/python benchmarks/guide_gradients.py
	$(BIN)/python benchmarks/audit.py audit batching methods training --folder build/audit
	$(BIN)/python -m benchmarks.audit_pixels
	$(BIN)/python -m benchmarks.documented

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation, as build/site/index.html; a warning is an error. The tutorial is run for it,
# some minutes, unless RUN_NOTEBOOKS=false is in the environment. (With --quiet, no warning is seen.)
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# What is published: the archives, and the wheel alone in an environment of its own, without extras.
package: setup
	rm -rf build/dist build/wheel
	$(BIN)/python -c 'from setuptools import build_meta as b; b.build_sdist("build/dist")'
	mkdir build/wheel && tar -xzf build/dist/*.tar.gz -C build/wheel --strip-components 1
	cd build/wheel && $(CURDIR)/$(BIN)/python -c \
		'from setuptools import build_meta as b; b.build_wheel("../dist")'
	$(call fresh_venv,build/installed)
	build/installed/bin/python -m pip install --quiet build/dist/*.whl "$(TORCH)"
	cd build/installed && bin/adjointdpm demo --output_dir demo --max_train_steps 2

# The locks name every package but torch, whose build is the machine's choice.
COMPILE = build/uv/bin/uv pip compile pyproject.toml --extra dev --upgrade --universal \
	--python-version 3.11 --no-emit-package torch --generate-hashes \
	--custom-compile-command "make lock" --quiet

lock:
	$(call fresh_venv,build/uv)
	build/uv/bin/python -m pip install --quiet uv
	$(COMPILE) --output-file $(LOCKED)
	$(COMPILE) --output-file $(OLDEST) --resolution lowest-direct

# The newest of everything that pyproject.toml admits, torch too.
test-newest:
	$(call fresh_venv,build/newest)
	build/newest/bin/python -m pip install --quiet --upgrade -e ".[dev]"
	build/newest/bin/python -m pip list
	build/newest/bin/$(PYTEST)

# The oldest that pyproject.toml admits.
test-oldest:
	$(call fresh_venv,build/oldest)
	$(call install_locked,build/oldest,$(OLDEST),$(OLDEST_TORCH))
	build/oldest/bin/python -m pip list
	build/oldest/bin/$(PYTEST)

clean:
	rm -rf $(VENV) build dist src/*.egg-info
