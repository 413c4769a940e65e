# Only Python 3.11, git and make are assumed: every target makes .venv from settings.ini, once, and uses it again.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
export TF_CPP_MIN_LOG_LEVEL ?= 3
# pip compiles nothing (a minute saved): what is imported is compiled then, once, and must be kept
unexport PYTHONDONTWRITEBYTECODE
# workers of the tests: as many as CI has cores; elsewhere: make test WORKERS=8
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help run lab docs book readme test lint format notebooks chapters unit browser site-test wheel-test clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

$(READY): settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "seqbook needs Python 3.11 or later; run make PYTHON=/path/to/python3.11")'
	@if command -v uv >/dev/null; then \
	  test -x $(BIN)/python || uv venv --quiet --seed --python $(PYTHON) .venv; \
	  uv pip install --python $(BIN)/python -e '.[dev]'; \
	else \
	  test -x $(BIN)/python || $(PYTHON) -m venv .venv; \
	  echo 'Installing what settings.ini names into .venv (some minutes the first time)'; \
	  $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -e '.[dev]'; \
	fi
	@touch $@

run: $(READY)  ## the main job on the simulated shop: report/report.html
	$(BIN)/seqbook run --out report --overwrite
	@echo "Open $(CURDIR)/report/report.html in a browser"

lab: $(READY)  ## read and run the chapters in JupyterLab; its options: LAB='--port 8890'
	$(BIN)/jupyter lab --notebook-dir=nbs $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

docs: $(READY)  ## build the site: docs/_build/html/index.html
	$(BIN)/python scripts/vendor.py
	$(BIN)/python scripts/stage.py
	$(BIN)/sphinx-build --quiet --jobs auto --fail-on-warning --keep-going -c docs -d docs/_build/doctrees docs/_build/source docs/_build/html
	@echo "Open $(CURDIR)/docs/_build/html/index.html in a browser"

book: $(READY)  ## run the chapters whose sources changed, save their outputs, write README.md
	$(BIN)/python scripts/book.py
	$(BIN)/python scripts/readme.py

test: $(READY)  ## every check that has to pass before a change is merged
	@$(BIN)/python scripts/steps.py lint notebooks chapters unit site-test+wheel-test

lint: $(READY)  ## ruff: mistakes and format, in notebooks too
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## bring notebooks and scripts into the common format, and export
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix nbs tests scripts docs benchmarks
	$(BIN)/nbdev_export

notebooks: $(READY)  ## notebooks, modules and README.md in step, and notebooks clean
	$(BIN)/python scripts/in_step.py

chapters: $(READY)  ## run every chapter and its tests (nbdev_test)
	$(BIN)/nbdev_test --n_workers $(WORKERS) --do_print --timing

unit: $(READY)  ## pytest with the doctests
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --durations 20 --ignore tests/site --ignore tests/package

browser:  # Debian's Chromium and its driver, for site-test
	bash scripts/browser.sh

site-test: browser docs  ## every page of the site in Chromium
	$(BIN)/pytest -n $(WORKERS) --dist worksteal tests/site

wheel-test: $(READY)  ## the wheel, in a clean environment, outside the repository
	$(BIN)/pytest tests/package

clean:  ## remove what the targets made, but the environment
	rm -rf build dist docs/_build report *.egg-info .pytest_cache .ruff_cache .hypothesis
	find nbs seqbook tests scripts docs -name __pycache__ -prune -exec rm -rf {} +
