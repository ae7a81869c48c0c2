# make demo   the main job on clips it makes itself: shards, pre-training, export, evaluation
# make test   the tests
#
# Both make the environment first. PYTHON= chooses the interpreter (3.11 or newer);
# STACK=current takes the newer TensorFlow on Python 3.11 as well; TEST_PROCESSES= says in how many
# processes test files run side by side (each takes some 6 GB).

PYTHON ?= python3
STACK ?= default
DEMO ?= build/demo
TEST_PROCESSES ?= 2

ifeq ($(STACK),current)
VENV := .venv-current
REQUIREMENTS := pyproject.toml
else
VENV := .venv
REQUIREMENTS := requirements.txt
endif
READY := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: demo test test-all lint format clean

$(READY): $(REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
ifeq ($(STACK),current)
	@# The extra alone: the project's own dependencies name the other stack on Python 3.11.
	$(BIN)/python -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["current"]))' > $(VENV)/requirements.txt
	$(BIN)/python -m pip install --quiet --requirement $(VENV)/requirements.txt
else
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
endif
	@touch $@

# Apache Beam is optional, so it is installed for its tests alone, beside the requirements: by itself
# it would move protobuf to a version that TensorFlow 2.15 refuses.
ifeq ($(STACK),current)
TEST_READY := $(READY)
else
TEST_READY := $(VENV)/.installed-beam
$(TEST_READY): $(READY)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt apache-beam \
		|| echo "apache-beam does not install here: the tests of --runner=beam are skipped"
	@touch $@
endif

# Everything a real project does, through the commands a user types.
demo: $(READY)
	$(BIN)/python -m tce_tf.make_synthetic --output=$(DEMO)/clips --num_videos=384
	$(BIN)/python -m tce_tf.make_tfrecords --input=$(DEMO)/clips --layout=ucf101 \
		--split_dir=$(DEMO)/clips/splits --subset=train --short_side=96 --output=$(DEMO)/train
	$(BIN)/python -m tce_tf.make_tfrecords --input=$(DEMO)/clips --layout=ucf101 \
		--split_dir=$(DEMO)/clips/splits --subset=test --short_side=96 --output=$(DEMO)/test
	$(BIN)/python -m tce_tf.train --flagfile=experiments/demo.flags \
		--data=$(DEMO)/train --workdir=$(DEMO)/run
	$(BIN)/python -m tce_tf.export --workdir=$(DEMO)/run --output=exported/demo
	$(BIN)/python -m tce_tf.evaluate --encoder=none --image_size=64 --train=$(DEMO)/train \
		--test=$(DEMO)/test --output=$(DEMO)/random.json
	$(BIN)/python -m tce_tf.evaluate --encoder=exported/demo --train=$(DEMO)/train \
		--test=$(DEMO)/test --output=$(DEMO)/trained.json
	@$(BIN)/python -c 'import json; \
		random, trained = (100 * json.load(open(f"$(DEMO)/{name}.json"))["knn.top1"] for name in ("random", "trained")); \
		print(f"\nkNN top-1 on held-out groups: random encoder {random:.1f} %, trained encoder {trained:.1f} %"); \
		print("the encoder is in exported/demo; embed a video with it:")'
	@echo "  $(BIN)/python -m tce_tf.embed --encoder=exported/demo --output=$(DEMO)/video.npz \\"
	@echo "      --input=`ls $(DEMO)/clips/*/*.mp4 | head -n 1`"

test: $(TEST_READY)
	$(BIN)/ruff check .
	@# In the order of their names: by the number of tests, the files of few and long ones come last, and
	@# one process waits for the other.
	$(BIN)/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=loadfile --no-loadscope-reorder

test-all: $(TEST_READY)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest --runslow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build .pytest_cache .ruff_cache .hypothesis
