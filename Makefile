# `make train` and `make test`: each does all of its set-up. `make help` says what else there is.
# The package is built once, into a wheel; .venv/has-EXTRA says that it is installed with what that extra brings.
PYTHON ?= python3
in_venv := .venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1
sources := CMakeLists.txt pyproject.toml $(shell find src cmake -type f -not -name '*.pyc' -not -name '*.so')

help:
	@echo 'make train   train a character model on the source of the standard library'
	@echo 'make test    run the tests'
	@echo 'make bench   the pytest-benchmark suite: the core, and the pure-Python reference beside it'
	@echo 'make docs    build the documentation site'
	@echo 'make clean   remove .venv'
	@echo 'All of them work in .venv, which they make. PYTHON=python3.13 is another interpreter; PYTEST="..." are options of pytest.'

train: .venv/has-cli
	$(in_venv) -m pybptt train

test: .venv/has-test
	$(in_venv) -m pytest -n auto --maxprocesses 8 --dist loadfile $(PYTEST)

bench: .venv/has-bench
	$(in_venv) -m pytest benchmarks $(PYTEST)

docs: .venv/has-docs
	$(in_venv) -m sphinx -W --keep-going -c docs . build/site

clean:
	rm -rf .venv

.venv/built: $(sources)
	@cmake/build_wheel $(PYTHON)

.venv/has-%: .venv/built
	@echo 'Installing pybptt with what [$*] brings ...'
	@$(in_venv) -m pip install -q --no-deps --force-reinstall .venv/wheel/*.whl
	@$(in_venv) -m pip install -q "$$(echo .venv/wheel/*.whl)[$*]"
	@touch $@

.PHONY: help train test bench docs clean
