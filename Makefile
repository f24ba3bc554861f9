# make demo                  a report on a made-up chest, in demo/report
# make demo CT=path OUT=dir  a report on your own scan
# make methods               train, judge and store the networks of the published methods: days on a CPU
# make test                  lint, types and every quick test: minutes
# make check                 all tests, what CI runs: training, whole scans, a real browser, a wheel
#
# PYTHON chooses the interpreter (3.11 or newer): make demo PYTHON=python3.12

PYTHON = python3
VENV = .venv
CT = demo/ct
OUT = demo/report
DATA = ../shared/data
OHIF = 3.13.2
# The phantom's patient is made up: what is stated of them is too, and of a scan of yours nothing is.
STATED = $(if $(filter demo/ct,$(CT)),--context screening --prior none)

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip -qq --disable-pip-version-check
CHECKED = src tests scripts benchmarks experiments
# A test process a core, each with one thread: two that share the cores wait for each other.
WORKERS = auto
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
QUICK = not training and not real and not browser and not archive and not packaging and not fuzz

.PHONY: demo methods test check lint chromium dicomtools orthanc ohif clean

demo: $(VENV)/core
	@if [ "$(CT)" = demo/ct ] && [ ! -d demo/ct ]; then \
	    echo "Making up a chest CT in demo/ct …" && rm -rf demo/part && mkdir -p demo \
	    && $(BIN)/nodulens phantom -o demo/part >/dev/null && mv demo/part demo/ct; \
	fi
	@echo "Looking for nodules in $(CT) …"
	@report=$$($(BIN)/nodulens analyze "$(CT)" -o "$(OUT)" $(STATED)) && printf '\nThe report: %s\n' "$$report" \
	    && if [ -d "$(OUT)/dicom" ]; then printf 'DICOM objects: %s\n' "$$(cd "$(OUT)" && echo dicom/*.dcm)"; fi

methods: $(VENV)/dev
	$(BIN)/python -m experiments.methods --data $(DATA)

test: $(VENV)/dev lint
	$(PYTEST) -m "$(QUICK)"

check: $(VENV)/dev chromium dicomtools orthanc ohif lint
	$(PYTEST) -rs --durations=15

lint: $(VENV)/dev
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy

# An editable install follows the sources; it comes again where the dependencies change.
$(VENV)/core: pyproject.toml constraints.txt $(BIN)/python
	@echo "Installing into $(VENV): about 1 GB, a minute or two …"
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/dev: pyproject.toml constraints.txt $(BIN)/python
	@echo "Installing what the tests need into $(VENV): about 2 GB, a few minutes …"
	@$(PIP) install -c constraints.txt -e '.[train,sam,evaluate,lidc,video,send,dev]'
	@touch $@ $(VENV)/core

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nodulens needs Python 3.11 or newer, this is " + sys.version.split()[0] + ". Name one: make PYTHON=python3.12 demo")'
	@$(PYTHON) -m venv $(VENV)

# The tests open reports in a real browser; where there is none and we may not install one, they say so.
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	|| if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    scripts/debian.sh chromium; \
	else echo "No Chromium on the path: the tests that open a report in a browser cannot run."; fi

# The tests hold DICOM objects to the standard by these checkers; without them they are skipped, and say so.
dicomtools:
	@command -v dciodvfy >/dev/null && command -v dcmftest >/dev/null \
	|| if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    scripts/debian.sh dicom3tools dcmtk; \
	else echo "No dciodvfy and dcmftest on the path: the tests that hold DICOM objects to the standard are skipped."; fi

# The tests send objects to this archive; without it they are skipped, and say so.
orthanc:
	@test -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so \
	|| if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    scripts/debian.sh orthanc orthanc-dicomweb; \
	else echo "No Orthanc with DICOMweb: the tests that send to an archive are skipped."; fi

# The tests open objects in this viewer, which is fetched as its makers built it and is no part of the project.
ohif: $(VENV)/dev
	@test -e $(VENV)/ohif/$(OHIF) || if command -v npm >/dev/null; then \
	    rm -rf $(VENV)/ohif && mkdir -p $(VENV)/ohif && cd $(VENV)/ohif && npm pack --silent @ohif/app@$(OHIF) >/dev/null \
	    && tar -xzf *.tgz && rm *.tgz && touch $(OHIF); \
	else echo "No npm on the path: the tests that open a study in OHIF are skipped."; fi

clean:
	rm -rf $(VENV) build dist demo src/*.egg-info distributions/*/build distributions/*/dist distributions/*/*.egg-info
