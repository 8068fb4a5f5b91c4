# The environment: .venv, or the one that STYLENAT_ENV names (see scripts/setup.sh).
ENV := $(or $(STYLENAT_ENV),.venv)

.PHONY: check test bench format setup constraints

check: ## lint, format, types and tests: what CI runs
	.ci/run

test:
	scripts/test.sh

bench: setup ## the tables of speed and of scores
	$(ENV)/bin/stylenat bench op --outdir results/benchmarks
	$(ENV)/bin/stylenat bench tokens --outdir results/benchmarks
	set -e; for name in ffhq256 styleswin256 ffhq1024 faces64; do \
		$(ENV)/bin/stylenat bench generator --config $$name --batch 1 --outdir results/benchmarks; \
	done
	set -e; for dtype in float32 bfloat16; do \
		$(ENV)/bin/stylenat bench training --resolution 32 --batch 2 --dtype $$dtype \
			--outdir results/benchmarks; \
	done
	$(ENV)/bin/stylenat bench backbones --outdir results/benchmarks
	$(ENV)/bin/stylenat bench data --outdir results/benchmarks
	$(ENV)/bin/python -m tools.score_table results/faces64/model.safetensors --data faces:20000 \
		--out results/faces64/all-scores.json

format: setup
	$(ENV)/bin/python -m ruff check --fix .
	$(ENV)/bin/python -m ruff format .

setup:
	scripts/setup.sh

constraints: ## the versions of today for all; begin without .venv, and run the tests afterwards
	STYLENAT_CONSTRAINTS=none scripts/setup.sh
	$(ENV)/bin/python scripts/constraints.py
