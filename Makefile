# The targets are short names for the scripts; each script says what it does.

.PHONY: build test demo clean

# Compile the engine (and install what that takes).
build:
	@tools/bootstrap build

test:
	@./test

demo:
	@./demo

# Remove what was built; .venv and the guest's kernel stay.
clean:
	rm -rf build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f src/vhost_user/engine/*.c src/vhost_user/engine/*.so .venv/engine-stamp
