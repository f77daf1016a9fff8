# Each target installs what it needs. Environments that cannot live together are separate:
#   .venv/          the gateway, the tests and, after install-semantic, sentence-transformers
#   .venv-serving/  vLLM, llama.cpp's server and the conversion of models
#   .venv-train/    torch, transformers, trl, peft
#   .venv-quantize/ llm-compressor
#   .venv-audit/    pip-audit, the SBOM generator, the API fuzzer
SHELL := /bin/bash
# Containers often forbid byte code: every process of a test would compile all that it imports.
export PYTHONDONTWRITEBYTECODE :=
PYTHON ?=
ENV := PYTHON=$(PYTHON) bash deploy/install/env.sh
BIN := .venv/bin
# Tests wait for sockets and processes half of their time: more of them than cores, so that no core waits with them.
PYTEST := $(BIN)/pytest -n $(shell echo $$(( ($$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) * 3 + 1) / 2 ))) --dist loadfile
KEEP ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
SOAK_ARGS ?=
FAULTS_ARGS ?=
LOG_PROOF_ARGS ?=
AUDIT_ARGS ?=
FUZZ_S ?= 120
SBOM_ARGS ?=
DATA ?=
COMPARE ?=
SEEDS ?= 1
RECORDS ?= 1000000
CLAIM_ARGS ?=
WINDOW_ARGS ?=
GUIDE_ARGS ?=
ROUTING_ARGS ?=

.PHONY: help install install-semantic install-serving install-train install-quantize install-audit audit fuzz sbom \
	demo check lint types fast-tests system-tests test slow-tests train-tests docs bench replay-bench soak faults log-proof scrub-table claim routing-results guide window clean

help:            ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 20

install:         ## .venv with the locum command and the tools of the fast tests (no torch)
	@$(ENV) dev

install-semantic: ## .venv with sentence-transformers and CPU torch as well
	@$(ENV) semantic

install-serving: ## .venv-serving with vLLM (its CPU build without a GPU) and llama.cpp's server
	@$(ENV) serving

install-train:   ## .venv-train with torch, transformers, trl and peft
	@$(ENV) train

install-quantize: ## .venv-quantize with llm-compressor
	@$(ENV) quantize

demo:            ## the main job on real models; KEEP=1 leaves everything running
	@echo "[1/2] installing what is missing (once; minutes), both environments side by side"
	@$(MAKE) --no-print-directory -j 2 install-semantic install-serving
	@echo "[2/2] the demo"
	@$(BIN)/locum demo $(if $(KEEP),--keep) $(DEMO_ARGS)

check: install   ## lint, types and the tests without models, side by side: a few minutes on two cores
	@$(MAKE) --no-print-directory -j 3 lint types fast-tests

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

fast-tests:
	@command -v redis-server >/dev/null || apt-get install -y -qq redis-server >/dev/null \
		|| echo "redis-server is missing: the tests of shared state in Redis are skipped"
	$(PYTEST)

system-tests: install ## the tests that start, kill or flood whole processes: workers, faults, crashes, soak
	@command -v chromium >/dev/null || apt-get install -y -qq chromium >/dev/null \
		|| echo "chromium is missing: the tests of the console are skipped"
	$(PYTEST) -m system

slow-tests: install-semantic install-serving install-train install-quantize ## the tests with real models
	$(BIN)/pytest -n 2 --dist loadfile -m "(slow or semantic) and not train" --deselect tests/slow/test_claim_small.py
	$(BIN)/pytest -m slow tests/slow/test_claim_small.py  # alone, since it measures speed

train-tests: install-train ## the tests of losses and training jobs, in the environment that has torch
	.venv-train/bin/python -m pytest -m train tests/trainer

test: install-semantic install-serving check system-tests train-tests slow-tests ## everything, each test once

docs: install    ## the tests of README and docs
	$(BIN)/pytest tests/docs

bench: install   ## Locum, nginx, the bare backend and other gateways side by side on pinned cores; about 10 minutes
	@command -v nginx >/dev/null && command -v wrk >/dev/null || apt-get install -y -qq nginx wrk
	$(BIN)/python -m loadtests.bench --json bench.json $(BENCH_ARGS)

soak: install    ## 200 streams at once for 5 minutes: memory, descriptors and requests in flight must not grow
	$(BIN)/python -m loadtests.soak --minutes 5 --streams 200 --json soak.json $(SOAK_ARGS)

install-audit:   ## .venv-audit with pip-audit, the SBOM generator and the API fuzzer
	@$(ENV) audit

audit: install-audit ## look every locked package up in the advisory database; 2 = not checked. AUDIT_ARGS="--service osv core"
	@.venv-audit/bin/python deploy/audit/audit.py $(AUDIT_ARGS)

fuzz: install install-audit ## schemathesis against a running gateway, for FUZZ_S seconds
	@bash deploy/audit/fuzz.sh $(FUZZ_S)

sbom: install-audit ## bills of materials (CycloneDX) of what is deployed, from the locks, in sbom/
	@bash deploy/audit/sbom.sh $(SBOM_ARGS)

replay-bench: install ## replay on a generated log of RECORDS (a million): seconds and records a second
	$(BIN)/python -m loadtests.replay_bench --records $(RECORDS)

faults: install  ## faults played against Locum and the gateways that can be installed; writes docs/faults.md
	$(BIN)/python -m loadtests.faults --json faults.json --page docs/faults.md $(FAULTS_ARGS)

log-proof: install ## gateways killed 50 times under load, a full disk, damaged segments: is the traffic log complete?
	$(BIN)/python -m loadtests.log_proof --json log_proof.json $(LOG_PROOF_ARGS)

scrub-table: install ## what scrubbing finds and what it takes for personal by mistake; DATA=folder of public data sets
	$(BIN)/python -m tests.scrub.table $(if $(DATA),--data "$(DATA)")

claim: install install-serving ## the claim on real models: DATA=folder of BANKING77, COMPARE=1, SEEDS=3; resumable
	@test -n "$(DATA)" || { echo "DATA must name a folder with BANKING77's train.csv and test.csv" >&2; exit 2; }
	@$(BIN)/python -m trainer.claim "$(DATA)" $(if $(COMPARE),--compare) --seeds $(SEEDS) --page docs/claim.md $(CLAIM_ARGS)

routing-results: install ## what routing is worth on public data: DATA=folder of the data sets; writes docs/routing-results.md; resumable
	@test -n "$(DATA)$$LOCUM_DATA" || { echo "DATA (or LOCUM_DATA) must name the folder of the data sets" >&2; exit 2; }
	@$(BIN)/python -m trainer.routing.results $(if $(DATA),--data "$(DATA)") $(ROUTING_ARGS)

window: install install-serving ## what a commit window sees and costs, on a real student: docs/commit-window.md; resumable
	@$(BIN)/python -m trainer.window --page docs/commit-window.md $(WINDOW_ARGS)

guide: install install-serving ## an operator's first change of a threshold, on the models of `make claim`; KEEP=1 leaves it running
	@$(BIN)/python -m trainer.claim.operate $(if $(KEEP),--keep) $(GUIDE_ARGS)

clean:           ## remove the environments and what runs leave behind; the model cache stays
	rm -rf .venv .venv-* .cache sbom traffic claim window demo.json bench.json soak.json faults.json log_proof.json build dist
	find . -name __pycache__ -prune -exec rm -rf {} +
