# The two commands of the README, and what they are made of.

# Docker's client looks here for `docker compose` when the machine has none: see scripts/setup.sh.
COMPOSE := $(CURDIR)/.cache/docker-config
WITH_COMPOSE := if [ -e "$(COMPOSE)" ]; then export DOCKER_CONFIG="$(COMPOSE)"; fi;

.PHONY: demo test e2e vm bench deb lint format docs clean

demo:
	scripts/setup.sh demo
	@$(WITH_COMPOSE) .venv/bin/usb-update demo

test:
	scripts/setup.sh test
	.venv/bin/pytest

# Every scenario on the whole device, in a container and on QEMU: an hour or more.
e2e:
	scripts/setup.sh test
	E2E=all .venv/bin/pytest tests/e2e

# The virtual device on this terminal, with a stick to plug in.
vm:
	scripts/setup.sh test
	@.venv/bin/python -m tests.e2e

bench:
	scripts/setup.sh test
	@$(WITH_COMPOSE) .venv/bin/python -m benchmarks

deb:
	scripts/deb.sh

lint:
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

format:
	.venv/bin/ruff check --fix-only --quiet
	.venv/bin/ruff format

docs:
	.venv/bin/python scripts/document.py

clean:
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
