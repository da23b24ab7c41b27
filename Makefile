# Datastream. `make` or `make help` tells what there is.

# How many rides `make demo` sends, and how it and `make produce` send them (`make produce-help` tells all options).
RIDES ?= 20000
COUNT ?=
RATE ?= 100
# How many rides `make bench` measures with, and further options (`.venv/bin/python -m benchmarks --help`).
BENCH_RIDES ?= 1000000
BENCH_OPTIONS ?=
# How many batches of bad input each test of `make test-input` makes, and of which seed (default: another one each time).
EXAMPLES ?= 200
SEED ?=
# Options of `make sizing`.
SIZING ?=
# How many rounds `make test-faults` and `make test-rounds` play; the targets of the former (none: all of them), whose
# first round has SEED; how many whole demos the latter.
ROUNDS ?= 1
DEMOS ?= 1
TARGETS ?=

# The first of these that is there and that Airflow runs on.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$python && break; done)
PY := .venv/bin/python
# So that a mirror that pip is told of serves uv too.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
export PYTHONPATH := $(CURDIR)

.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

##@ Start here
.PHONY: help demo
help:  ## Show this
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n\033[1m%s\033[0m\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  \033[36mmake %-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: local-up  ## Install, start everything without Docker, send RIDES=20000 rides through it, prove that all arrived
	@$(PY) -m jobs unpause
	@$(PY) -m jobs produce --rate 0 --count $(RIDES) --faulty 0.01 --duplicates 0.005 --spread 2h
	@$(PY) -m jobs wait
	@$(PY) -m jobs ledger
	@$(PY) -m jobs report
	@$(PY) -m jobs where

##@ The stack in Docker
.PHONY: up down ps logs smoke doctor clean dashboard-import dashboard-export
up: install-tools  ## Make an .env with generated secrets if there is none, check, start all and wait until it is healthy
	@$(PY) -m infra.docker up

down:  ## Stop and remove the containers; the data stays
	@docker compose --profile '*' down

ps:  ## Show the containers and their health
	@docker compose --profile '*' ps --all

logs:  ## Follow the logs: SERVICE=kafka (default: all)
	@docker compose --profile '*' logs --follow --tail 100 $(SERVICE)

smoke: install-tools  ## Send RIDES=20000 rides through the running stack, and prove that all arrived
	@$(PY) -m infra.docker check
	@$(PY) -m jobs unpause
	@$(PY) -m jobs produce --rate 0 --count $(RIDES) --faulty 0.01 --duplicates 0.005 --spread 2h
	@$(PY) -m jobs wait
	@$(PY) -m jobs ledger

doctor: install-tools  ## Check versions, memory, disk, kernel settings and ports without starting anything
	@$(PY) -m infra.docker doctor

clean: install-tools  ## Delete all data, of the stack in Docker and of the one without, after asking for each
	@! command -v docker >/dev/null || $(PY) -m infra.docker clean
	@test ! -f .venv/.local.stamp || $(PY) -m infra.local clean

dashboard-import: install-tools  ## Put the dashboard of infra/kibana back into Kibana, whatever was changed there
	@$(PY) -m infra.kibana import --overwrite

dashboard-export: install-tools  ## Write the dashboard as it is in Kibana to infra/kibana
	@$(PY) -m infra.kibana export

##@ The services without Docker
.PHONY: local-up local-status local-down local-doctor
local-up: install  ## Start Kafka, Elasticsearch, the Cloud Storage emulator and Airflow; harmless to repeat
	@$(PY) -m infra.local up
	@$(PY) -m jobs topics
	@$(PY) -m jobs template

local-status: install  ## Show what runs, where, and whether it is healthy
	@$(PY) -m infra.local status

local-down: install  ## Stop them all; the data stays
	@$(PY) -m infra.local down

local-doctor: install  ## Check memory, disk and ports without starting anything
	@$(PY) -m infra.local doctor

# JSON=1 prints one JSON document instead of text: for ledger, lag, dlq, trace and bqml.
AS_JSON = $(if $(JSON),--json)

##@ Rides
.PHONY: topics template bucket produce produce-help lag export ledger report bqml trace dlq dlq-replay
topics: install-tools  ## Create the topics of infra/kafka/topics; report what differs; APPLY=1 alters it
	@$(PY) -m jobs topics $(if $(APPLY),--apply)

template: install-tools  ## Apply the Elasticsearch index templates
	@$(PY) -m jobs template

bucket: install-tools  ## Create the bucket in the emulator; at Google, see that it is there
	@$(PY) -m jobs bucket

produce: install-tools  ## Send rides: COUNT=1000 (default: until Ctrl-C) RATE=100 a second (0: as fast as it goes)
	@$(PY) -m jobs produce --rate $(RATE) $(if $(COUNT),--count $(COUNT))

produce-help: install-tools
	@$(PY) -m jobs produce --help

lag: install-tools  ## Watch what each group has still to do
	@$(PY) -m jobs lag $(AS_JSON)

export: install-tools  ## Export at once what waits for EXPORT_TARGET_RECORDS or EXPORT_MAX_AGE_S
	@$(PY) -m jobs export

ledger: install-tools  ## Count every message at every system and compare the figures: VERTICAL=rides
	@$(PY) -m jobs ledger $(VERTICAL) $(AS_JSON)

report: install-tools  ## Write .local/report.html
	@$(PY) -m jobs report

bqml: install-tools  ## Zones by k-means, revenue by zone and comfort: on BigQuery if BIGQUERY_PROJECT is set, else here
	@$(PY) -m jobs bqml $(AS_JSON)

trace: install-tools  ## Follow one ride: RIDE=<ride_id>
	@$(PY) -m jobs trace $(or $(RIDE),$(error which one? make trace RIDE=<ride_id>)) $(AS_JSON)

dlq: install-tools  ## Show the latest dead letters and why they are there: COUNT=20
	@$(PY) -m jobs dlq $(if $(COUNT),--count $(COUNT)) $(AS_JSON)

dlq-replay: install-tools  ## Send dead letters back to their source topic, each once
	@$(PY) -m jobs dlq-replay

##@ Operations that repair (docs/runbook_kafka.md)
.PHONY: offsets reindex reprocess cleanup
offsets: install-tools  ## Set a group's offsets: GROUP=dag_compute_cost TO=kept|end|beginning|2026-01-05T08:00:00Z
	@$(AT_TASKS) -m jobs offsets $(or $(GROUP),$(error of which group? make offsets GROUP=dag_compute_cost TO=kept)) \
		$(or $(TO),$(error to where? make offsets GROUP=$(GROUP) TO=kept)) $(if $(YES),--yes)

# What tasks stage, and the ids of their topics, are in a volume of the stack in Docker: a DAG's group is set there.
AT_TASKS = $(if $(filter dag_%,$(GROUP)),$(or $(shell test -z "$$(docker compose ps --quiet --status running \
	airflow-scheduler 2>/dev/null)" || echo docker compose exec airflow-scheduler python),$(PY)),$(PY))

reindex: install-tools  ## Rebuild the Elasticsearch index from Parquet; the DAGs may run meanwhile
	@$(PY) -m jobs reindex

reprocess: install-tools  ## Price a window of ride time anew: FROM=2026-01-05 TO=2026-01-06T08:00:00Z (TO is not part of it)
	@$(PY) -m jobs reprocess $(or $(FROM),$(error from when? make reprocess FROM=2026-01-05 TO=2026-01-06)) \
		$(or $(TO),$(error until when? make reprocess FROM=2026-01-05 TO=2026-01-06)) $(if $(YES),--yes)

cleanup: install-tools  ## Delete what is older than .env keeps (the stack does so daily); DRY_RUN=1 only tells
	@if test -n "$$(docker compose ps --quiet --status running airflow-cleanup 2>/dev/null)"; \
		then docker compose exec airflow-cleanup python -m infra.cleanup $(if $(DRY_RUN),--dry-run); \
		else $(PY) -m infra.local cleanup $(if $(DRY_RUN),--dry-run); fi

##@ Development
.PHONY: install install-tools install-dev lint format test test-faults test-input test-rounds test-stack test-unit bench sizing generate requirements
install-tools: .venv/.tools.stamp
install: .venv/.local.stamp
install-dev: .venv/.dev.stamp

lint: install-dev  ## Check style, format, types and the layers of imports
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@PYTHONPATH=$(CURDIR) .venv/bin/lint-imports

format: install-dev  ## Format the code
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

test: install-dev  ## Run all tests, against real services that they start and stop themselves
	@.venv/bin/pytest

test-input: install-dev  ## Fuzz topics, sinks and replay on real services: EXAMPLES=200 batches for each test, SEED=7
	@EXAMPLES=$(EXAMPLES) .venv/bin/pytest tests/fuzz --durations 8 --hypothesis-seed $(or $(SEED),$(shell date +%s))

test-stack: install-dev  ## Bring the stack in Docker up beside others, use it, kill parts of it, and remove it
	@.venv/bin/pytest -x tests/stack

test-unit: install-dev  ## Run the tests that need no service
	@.venv/bin/pytest tests/unit tests/contract

test-faults: install-dev  ## Kill, freeze and starve each part while rides flow, and compare every id: ROUNDS=10 SEED=1
	@PYTHONPATH=$(CURDIR):$(CURDIR)/producer $(PY) -m tests.faults --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED)) \
		$(if $(TARGETS),--targets $(TARGETS))

test-rounds: install-dev  ## Produce, wait, ledger on fresh topics, half of it under load, then demos: ROUNDS=100 DEMOS=10
	@PYTHONPATH=$(CURDIR) $(PY) -m tests.rounds --rounds $(ROUNDS) --demos $(DEMOS)

bench: install-dev  ## Measure speed beside peers, freshness and scale (half an hour): BENCH_RIDES=1000000 BENCH_OPTIONS=--help
	@$(MAKE) .venv-bench/.stamp || echo "warning: Quix Streams and Spark will be left out" >&2
	@$(PY) -m benchmarks --rides $(BENCH_RIDES) $(BENCH_OPTIONS)

sizing: install-tools  ## Print the tables of docs/sizing.md: SIZING="--rates 20000,40000 --replication 2", SIZING=--help
	@$(PY) -m benchmarks.sizing $(SIZING)

generate: install-tools  ## Write the files that follow from what the code declares (infra/generate.py)
	@$(PY) -m infra.generate

requirements: .venv/bin/uv  ## Pin all dependencies anew
	@for set in dev local image tools; do \
		test $$set = dev && also="" || also="--constraints requirements/dev.txt"; \
		test $$set = tools && extra="" || extra="--extra $$set"; \
		.venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
			--python-version 3.11 $$extra $$also pyproject.toml --output-file requirements/$$set.txt; done
	@for file in requirements/bench.txt requirements/tasks/*.txt; do test ! -f $$file || \
		.venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
			--python-version 3.11 --group pyproject.toml:$$(basename $$file .txt) --output-file $$file; done

.venv/bin/uv: requirements/bootstrap.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 on the PATH. Install one (Debian: apt install \
	python3 python3-venv; macOS: brew install python@3.13), or name it: make PYTHON=/path/to/python3.13" >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "error: $(PYTHON) cannot make a virtual \
	environment. Debian and Ubuntu keep that apart: apt install python3-venv" >&2; exit 1; }
	@$(PY) -m pip install --quiet --disable-pip-version-check --retries 2 --require-hashes -r $< || { echo "$(UNREACHABLE)" >&2; exit 1; }
	@touch $@

.venv/.%.stamp: requirements/%.txt .venv/bin/uv
	@echo "Installing $< (the first time this takes a while)" >&2
	@.venv/bin/uv pip install --quiet --python $(PY) --require-hashes -r $< || { echo "$(UNREACHABLE)" >&2; exit 1; }
	@touch $@

# The peers of `make bench` want other versions than we do.
.venv-bench/.stamp: requirements/bench.txt .venv/bin/uv
	@$(INSTALL_SET)

# The packages of a vertical's tasks (jobs/environments.py).
.venv-%/.stamp: requirements/tasks/%.txt .venv/bin/uv
	@$(INSTALL_SET)

INSTALL_SET = echo "Installing $< (the first time this takes a while)"; \
	.venv/bin/uv venv --quiet --clear --python $(PY) $(@D) && \
	.venv/bin/uv pip install --quiet --python $(@D)/bin/python --require-hashes -r $< && \
	touch $@ || { echo "$(UNREACHABLE)" >&2; exit 1; }

UNREACHABLE = error: packages could not be installed (the reason stands above). If the package index cannot be \
reached: check the network, set HTTPS_PROXY, or name a mirror with PIP_INDEX_URL.
