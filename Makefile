# make serve: install, obtain a model, serve.   make test: install, prove it.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# torch's own index has CPU-only builds, a tenth of the size of what the default index has for Linux.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
DEBIAN_PACKAGES := chromium firefox-esr curl openssl redis-server postgresql haproxy nginx caddy prometheus faketime \
	libimage-exiftool-perl wordnet-base \
	debootstrap buildah podman runc podman-compose netavark aardvark-dns iptables iproute2
DEBIAN_PACKAGES += $(if $(shell command -v npm 2>/dev/null),,npm)  # NodeSource's nodejs contains npm and conflicts with Debian's package
DEBIAN_PACKAGES += $(if $(shell command -v kubectl 2>/dev/null),,kubernetes-client)  # Debian 12's is too old; 13 has 1.32
# Generates types from /openapi.json, and compiles a program that uses them; and finds what a screen reader cannot read;
# and has the types and the schema of the Prometheus Operator.
NPM_PACKAGES := openapi-typescript@7.13.0 typescript@5.9.3 axe-core@4.14.1 @kubernetes-models/prometheus-operator@6.0.0

# What the tests of `make lowest` cover of every library that has a lower bound.
QUICK := $(addprefix tests/,client web/api web/gate test_settings.py test_telemetry.py vision/test_classifier.py \
	vision/test_fetch.py vision/test_ncnn.py vision/test_preprocess.py vision/test_resize.py vision/test_weights.py \
	memory/test_audit_table.py memory/test_cache.py memory/test_breaker.py memory/test_rate_limiter.py \
	memory/test_uploads.py cli/test_classify.py cli/test_main.py cli/test_parquet.py cli/test_xmp.py \
	cli/test_bench.py::test_a_real_measurement_its_json_and_its_chart \
	cli/test_evaluate.py::test_figures_are_printed_and_a_report_is_written whole/test_curl.py whole/test_start.py)

.PHONY: serve test install lint format manual test-all lowest lock licences audit clean

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

$(VENV)/.installed: pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "eyespot needs Python 3.11 or newer, and none was found."; exit 2; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || { echo "On Debian: apt-get install python3-venv"; exit 2; }
	@if $(BIN)/python -c 'import torch, torchvision' 2>/dev/null; then true; \
	elif $(BIN)/python -c 'import signal, urllib.request; signal.alarm(3); \
		urllib.request.urlopen("$(TORCH_CPU_INDEX)/torch/", timeout=3)' 2>/dev/null; then \
		$(BIN)/pip install --index-url $(TORCH_CPU_INDEX) torch torchvision \
			|| echo "Taking torch from the default index instead."; \
	fi
	$(BIN)/pip install --constraint constraints.txt -e '.[models,test]'
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
	$(MAKE) $(VENV)/openapi/.installed $(VENV)/ray/.installed
	REQUIRE_TOOLS=1 $(BIN)/pytest $(ONLY)
	$(MAKE) lowest

# The quick tests with the lowest versions that pyproject.toml allows; torch alone is borrowed, as it is gigabytes.
lowest: install $(VENV)/lowest/.installed
	$(VENV)/lowest/bin/pytest -o cache_dir=$(VENV)/lowest/cache $(QUICK)

$(VENV)/lowest/.installed: pyproject.toml constraints-lowest.txt
	rm -rf $(@D)
	$(BIN)/python -m venv $(@D)
	$(@D)/bin/pip install --no-deps --no-compile --requirement constraints-lowest.txt
	$(@D)/bin/pip install --no-deps -e .
	@# Read last, so that nothing but torch and what torch alone needs comes from there.
	@cd $(@D)/lib/python3*/site-packages && echo $(abspath $(VENV))/lib/python3*/site-packages > torch.pth
	@touch $@

# What is installed (constraints.txt), and the lowest that pyproject.toml allows (constraints-lowest.txt), resolved anew.
# torch is left out, with what only torch brings: its builds differ by machine and index.
lock: $(VENV)/lock/.installed
	@for kind in "constraints.txt" "constraints-lowest.txt --resolution lowest-direct"; do \
		printf 'torch\ntorchvision\n' | $(VENV)/lock/bin/uv pip compile pyproject.toml --quiet --upgrade --output-file $$kind \
			--extra models --extra test --excludes /dev/stdin --universal --python-version 3.11 --only-binary :all: \
			--no-annotate --custom-compile-command 'make lock' || exit; \
	done

# Licences of what is installed; tests/whole/test_dependencies.py says which are allowed.
licences: install
	$(BIN)/pip-licenses --order=license

# Known vulnerabilities in what constraints.txt names, from a service that a closed network does not have.
audit: $(VENV)/lock/.installed
	@$(VENV)/lock/bin/python tools/audit.py $(VENV)/lock/bin/pip-audit constraints.txt

# What Ray needs beside what is installed already, which is borrowed: found by pip too, so of one version.
$(VENV)/ray/.installed: pyproject.toml constraints.txt
	rm -rf $(@D)
	$(BIN)/python -m venv $(@D)
	@cd $(@D)/lib/python3*/site-packages && echo $(abspath $(VENV))/lib/python3*/site-packages > borrowed.pth
	$(@D)/bin/pip install --constraint constraints.txt -e '.[ray]'
	@touch $@

$(VENV)/openapi/.installed: $(VENV)/openapi/.python
	npm install --prefix $(@D) --no-audit --no-fund $(NPM_PACKAGES)
	@touch $@

$(VENV)/lock/.installed $(VENV)/openapi/.python: pyproject.toml
	@[ -x $(@D)/bin/python ] || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["$(notdir $(@D))"], sep="\n")' \
		| $(@D)/bin/pip install --quiet --requirement /dev/stdin
	@touch $@

clean:
	rm -rf $(VENV) data weights/exports
