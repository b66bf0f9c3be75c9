# make serve: install, obtain a model, serve.   make test: install, prove it.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# torch's own index has CPU-only builds, a tenth of the size of what the default index has for Linux.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
DEBIAN_PACKAGES := chromium curl redis-server postgresql haproxy faketime libimage-exiftool-perl \
	debootstrap buildah podman runc podman-compose netavark aardvark-dns iptables iproute2

.PHONY: serve test install lint format manual test-all clean

serve: install
	@case "$$EYESPOT_MANIFEST$$EYESPOT_MODEL" in ""|auto|resnet18) wanted=yes;; *) wanted=;; esac; \
	if [ "$$wanted" ] && [ ! -e weights/resnet18-f37072fd.pth ] && [ ! -e $(VENV)/.fetch-tried ]; then \
		echo "Fetching the official weights of ResNet-18, once:"; \
		$(BIN)/eyespot weights fetch resnet18 || echo "Going on without them; 'make serve' will not try again."; \
		touch $(VENV)/.fetch-tried; \
	fi
	@exec $(BIN)/eyespot serve

test: install
	$(BIN)/pytest

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "eyespot needs Python 3.11 or newer, and none was found."; exit 2; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || { echo "On Debian: apt-get install python3-venv"; exit 2; }
	@if $(BIN)/python -c 'import torch, torchvision' 2>/dev/null; then true; \
	elif $(BIN)/python -c 'import signal, urllib.request; signal.alarm(3); \
		urllib.request.urlopen("$(TORCH_CPU_INDEX)/torch/", timeout=3)' 2>/dev/null; then \
		$(BIN)/pip install --index-url $(TORCH_CPU_INDEX) torch torchvision \
			|| echo "Taking torch from the default index instead."; \
	fi
	$(BIN)/pip install -e '.[models,test]'
	@touch $@

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: install
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# Write the reference parts of openapi.md anew from the code.
manual: install
	$(BIN)/python tools/manual.py

# Everything, with what this machine lacks installed first; a test that is skipped for want of a tool then fails.
# ONLY='-m "needs and not photographs"' leaves out what cannot have been skipped by a `make test` just before.
test-all: install
	@missing=$$(dpkg-query -W -f '$${Status} $${Package}\n' $(DEBIAN_PACKAGES) 2>&1 | grep -v '^install ok' || true); \
	if [ -n "$$missing" ]; then \
		apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(DEBIAN_PACKAGES); \
	fi
	REQUIRE_TOOLS=1 $(BIN)/pytest $(ONLY)

clean:
	rm -rf $(VENV) data weights/exports
