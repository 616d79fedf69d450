# Everything needs only Python 3.11 or 3.13, make and PyPI; all of it stays in this folder.
PYTHON ?= $(shell command -v python3.11 || command -v python3.13 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin

# pip would keep its cache and the time of its last look for a new pip in the home folder. As variables these
# reach the second pip too, the one that builds this package apart and does not see the first one's options.
export PIP_NO_CACHE_DIR := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo dashboard night test run-tests collect test-site search check style types setup clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 13)) else "contimg needs Python 3.11 or 3.13, and this is %d.%d: CASA has no usable wheel for others. Say make PYTHON=/path/to/python3.11" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/contimg demo --force demo

# The dashboard on what make demo has left; Ctrl-C ends it.
dashboard: setup
	@test -d demo/state || { echo "There is no demo yet: make demo"; exit 1; }
	$(BIN)/contimg --folder demo dashboard

# A telescope's night, 30 times faster, with kills on the way: docs/night.md
night: setup
	$(BIN)/contimg night --force night

check: style types

style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy

# A file's tests run in one process, as they share what is costly; the longest files begin first (tests/conftest.py).
# Two processes a core keep both busy all the time; each more collects all tests and starts a server of its own.
PROCESSES := 4
PYTEST = $(BIN)/pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder --durations 15

# Whole sites, which take minutes: hosts in network namespaces, upgrades from earlier releases of Absurd,
# services, the commands of the guide, emergencies, all commands beside outages, killed, at once, in odd
# environments and with hostile arguments, kills and freezes at random moments, the dashboard in a browser.
SITE_TESTS := tests/hosts tests/upgrades tests/daemon_kills tests/freezes \
	tests/operations/test_operations_guide.py tests/operations/test_emergency_outage.py \
	tests/operations/test_troubleshooting.py tests/operations/test_emergency.py \
	tests/operations/test_service_manager.py tests/operations/test_outages.py \
	tests/operations/test_commands_at_once.py \
	tests/operations/test_environments.py tests/operations/test_hostile_arguments.py \
	tests/operations/test_lost_postgres_registry.py tests/end_to_end/test_random_kills.py \
	tests/operations/dashboard/test_browser.py

# Types are checked beside the tests, on one core.
test: style
	@$(MAKE) --no-print-directory --jobs 2 types run-tests

# Else each of the processes would compile every file of a fresh clone.
collect: setup
	@$(BIN)/pytest --collect-only --quiet >/dev/null || $(BIN)/pytest --collect-only --quiet

run-tests: collect
	$(PYTEST) $(SITE_TESTS:%=--ignore=%)

# They wait more: for leases, servers, processes that end.
test-site: PROCESSES := 6
test-site: check
	$(PYTEST) $(SITE_TESTS)

# The same tests with new random examples each time, in some tests with more, and with every mutant.
search: check
	HYPOTHESIS_PROFILE=search $(PYTEST) $(SITE_TESTS:%=--ignore=%)

clean:
	rm -rf $(VENV) demo night build dist
