# The targets are short names for the scripts and for the steps of ./test; CONTRIBUTING.md says what each is for.

.PHONY: build test demo lint format reformat types stubs warnings tests guest-tests sanitizers free-threaded check clean

python := .venv/bin/python -m

# Compile the engine (and install what that takes).
build:
	@tools/bootstrap build

# Everything below but the sanitizers and free-threaded.
test:
	@./test

demo:
	@./demo

lint: build
	$(python) ruff check .

format: build
	$(python) ruff format --check .

reformat: build
	$(python) ruff format .

types: build
	$(python) mypy

stubs: build
	tools/stubtest

warnings: build
	tools/warnings

tests: build
	$(python) pytest -m "not guest and not alone" -n $$(($$(nproc) + 1)) --dist loadfile --max-worker-restart 0
	$(python) pytest -m "alone and not guest"

guest-tests:
	@./test -m guest

sanitizers: build
	tools/sanitize

free-threaded: build
	tools/free-threaded

# What takes seconds, to be run before each commit.
check: lint format stubs
	$(python) pytest -q tests/test_layers.py tests/test_docs.py tests/test_public_names.py

# Remove what was built; .venv and the guest's kernel stay.
clean:
	rm -rf build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src/vhost_user/engine -name '*.c' -delete -o -name '*.so' -delete
	rm -f .venv/engine-stamp
