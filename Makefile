# `make bench` and `make test` do everything on a clean machine with Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := uv==0.13.9
READY := $(VENV)/.ready

FIGURES := costs eval-throughput int8-digits int8-scenes kills presets-int8 refine transfer walkthrough

.PHONY: bench demo picture test scenes lint format lock gpu bench-self coverage detectors clean $(FIGURES)

bench: $(READY)  ## the main job: every preset, quick profile (docs/bench.md says on which runtimes)
	$(BIN)/bbx bench --all --profile quick --resume --out reports/all

demo: $(READY)  ## three models, under five minutes
	$(BIN)/bbx bench resnet18 mobilenet_v3_small efficientnet_lite1 --profile quick --resume --out reports/demo

picture: $(READY)  ## the README's pictures: the table of the committed demo, and (needs Chromium) the page of reports/demo
	$(BIN)/python docs/picture.py docs/results/demo/report.json docs/table.svg
	BBX_PICTURE_OF=reports/demo $(BIN)/python -m pytest tests/benchmarks/test_report_looks.py -k picture

# Most tests wait for one thread of an exporter, so they run side by side; what measures time runs alone.
# A worker that dies ends the run: with `loadscope`, the rest of its work would never be given out.
test: $(READY)  ## everything that can be tested without a GPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --ignore tests/benchmarks -n auto --maxprocesses 4 --dist loadscope --max-worker-restart 0
	$(BIN)/python -m pytest tests/benchmarks

scenes: $(READY)  ## train the detectors and the segmenter that tests use, anew (minutes on two idle cores)
	$(BIN)/python -m tests.scenes

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy docs/generate.py docs/int8_tables.py docs/measured.py docs/picture.py docs/walkthrough_table.py
	$(BIN)/lint-imports
	$(BIN)/python -m cogapp --check -I docs README.md docs/*.md

format: $(READY)  ## rewrite sources and the generated parts of the docs
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/python -m cogapp -r -I docs README.md docs/*.md

gpu:  ## on a machine with an NVIDIA GPU: its tests, then its measurements (see docs/gpu.md)
	$(PYTHON) -m pytest tests/gpu -m gpu -p no:cacheprovider
	$(PYTHON) -m bbx bench resnet50 mobilenet_v3_large fasterrcnn_r50_fpn --out docs/results/gpu
	$(PYTHON) -m bbx bench resnet50 mobilenet_v3_large fasterrcnn_r50_fpn --runtime eager --cuda-graph --out docs/results/gpu-graph

bench-self: $(READY)  ## what bbx itself costs: start-up, export, reuse, harness
	$(BIN)/python -m tests.performance.bench_self

coverage: $(READY)  ## every torchvision classifier, detector and segmenter: export, parity, engines (two hours)
	$(BIN)/python -m tests.performance.torchvision_coverage
	$(BIN)/python -m tests.performance.dense_coverage

detectors: $(READY)  ## Faster R-CNN side by side: bbx's two lowerings, the older exporter's graph, eager torch
	$(BIN)/python -m tests.performance.detectors

$(FIGURES): $(READY)  ## the measurements behind the pages of docs/ that name them
	$(BIN)/python -m tests.performance.$(subst -,_,$@)

lock: $(READY)  ## resolve requirements.lock again
	$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 --extra dev \
	  --no-emit-index-url --no-annotate --no-header -q -U pyproject.toml -o requirements.lock

$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-build-isolation --no-deps -e .
	touch $@

clean:
	rm -rf $(VENV) artifacts reports build ./*.egg-info .mypy_cache .ruff_cache .pytest_cache
