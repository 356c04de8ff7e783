# make demo    labels for the sample pictures, and a picture of what the pool looked at
# make test    the tests that need no torch
# The rest is for contributors: see CONTRIBUTING.md.

# PYTHON=python3.12 make ... chooses the interpreter for the environments made.

BIN := .venv/bin
TIMM := .venv-timm/bin
PYTEST := python -m pytest -q
# Files of tests are dealt to so many processes, but for those whose tests end processes.
JOBS ?= 2
MANY := -n $(JOBS) --dist loadfile --max-worker-restart=0
ALONE := tests/test_audit_processes.py
SAMPLES := $(sort $(wildcard vitpool/models/vit_digits/samples/*.png))
PY := vitpool pytest_vitpool.py tests tools setup.py $(wildcard benchmarks docs)
C := $(wildcard csrc/*/*.[ch] tests/c/*.[ch] tests/fuzz/*.[ch] benchmarks/*.[ch] tools/arm/*.c)
RUN_CTESTS = tools/run_ctests.sh

.PHONY: build demo test ctest kills test-timm test-163 test-families test-ray \
	test-targets test-wine debug asan tsan coverage test-wheel wheels bench \
	bench-kernels audit mca lint format fuzz docs wheel replay mutate clean \
	count-arm test-arm

# .venv/have-EXTRA: an environment that has the extra; what it stands for is in
# pyproject.toml. The C core itself is kept up to date by `build`.
NEEDS := pyproject.toml tools/bootstrap.sh tools/packages.sh tools/find_blis.py
.venv/have-%: $(NEEDS)
	@tools/bootstrap.sh .venv $*
	@touch $@
.venv-timm/have-timm: $(NEEDS) tests/timm/requirements.txt tests/timm/constraints.txt
	@tools/bootstrap.sh .venv-timm test -r tests/timm/requirements.txt
	@touch $@
.venv-timm/have-docs: .venv-timm/have-timm
	@tools/bootstrap.sh .venv-timm docs
	@touch $@
.venv-ray/have-ray: $(NEEDS)
	@tools/bootstrap.sh .venv-ray test,parquet,ray
	@touch $@

build: .venv/have-test
	@$(BIN)/python setup.py -q build_ext --inplace

demo: .venv/have-viz
	@$(BIN)/python setup.py -q build_ext --inplace
	@echo "== vitpool classify: ten held-out digits"
	@$(BIN)/vitpool classify $(SAMPLES)
	@echo "== vitpool attention: what the pool looked at"
	@$(BIN)/vitpool attention $(firstword $(SAMPLES)) -o attention.png
	@echo "== see attention.png"

test: build ctest
	@echo "== python tests"
	@$(BIN)/$(PYTEST) $(MANY) tests --ignore=tests/timm --ignore=tests/ray \
	    $(ALONE:%=--ignore=%)
	@$(BIN)/$(PYTEST) $(ALONE)

# vitpool finetune, killed 20 times; `make test` does it 3 times.
kills: build
	@VITPOOL_KILLS=20 $(BIN)/$(PYTEST) tests/test_cli_finetune_resume.py -k kills

ctest: .venv/have-test
	@echo "== C tests"
	@$(BIN)/python setup.py -q build_ctests
	@$(RUN_CTESTS) build/ctests

test-timm: .venv-timm/have-timm
	@$(TIMM)/python setup.py -q build_ext --inplace
	@echo "== the live comparison with timm"
	@$(TIMM)/$(PYTEST) $(MANY) tests/timm --ignore-glob='*_163.py' \
	    --ignore-glob='*/test_audit_*.py' --ignore=tests/timm/test_families.py
	@$(TIMM)/$(PYTEST) tests/timm/test_audit_*.py

# Every architecture; the largest with two blocks, unless VITPOOL_WHOLE=1, and with
# OPERATIONS=1e10 on smaller pictures.
test-163: .venv-timm/have-timm
	@$(TIMM)/python setup.py -q build_ext --inplace
	@VITPOOL_OPERATIONS=$(OPERATIONS) $(TIMM)/$(PYTEST) -n $(JOBS) tests/timm/test_all_163.py \
	    tests/timm/test_gradients_163.py

# The 117 names of timm's other files; with NAMES=some one for each concept.
test-families: .venv-timm/have-timm
	@$(TIMM)/python setup.py -q build_ext --inplace
	@VITPOOL_FAMILIES=$(NAMES) $(TIMM)/$(PYTEST) -n $(JOBS) tests/timm/test_families.py

test-ray: .venv-ray/have-ray
	@.venv-ray/bin/python setup.py -q build_ext --inplace
	@echo "== the tests on a local Ray"
	@.venv-ray/bin/$(PYTEST) tests/ray

# A variant is built beside the usual one, never over it: build/VARIANT/lib/vitpool.
# pytest is started as a program, since `python -m pytest` would find ./vitpool first.
VARIANT = rm -rf build/$(1)/lib && $(BIN)/python setup.py -q build --build-lib build/$(1)/lib
WITH = PYTHONPATH=$(CURDIR)/build/$(1)/lib $(2) $(BIN)/pytest -q -p no:cacheprovider
LIB = $$($${CC:-gcc} -print-file-name=$(1))

debug: export VITPOOL_DEBUG=1
debug: .venv/have-test
	@$(call VARIANT,debug)
	@$(BIN)/python setup.py -q build_ctests
	@$(RUN_CTESTS) build/debug/ctests
	@echo "== now run, or debug: PYTHONPATH=build/debug/lib $(BIN)/python ..."

# What reaches the C core. ASan keeps freed memory and is slow: no tests of those.
# libstdc++ is loaded with it, or a C++ exception of another library ends the process (Python
# has none of its own, and ASan looks for __cxa_throw at the start). --capture=sys: a report
# is printed, not kept by pytest until the process is gone.
CORE_TESTS := $(patsubst %,tests/test_%.py,golden semantics bad_input model_api loading \
	initialisation memory threads stateful properties checkpoint hostile_weights \
	bit_equality arrays private_doors stages snapshot chunks attention_weights pool one_state \
	references changes fresh_weights parts assignment gradients_golden gradients_door \
	gradient_properties rope relative_positions naflex distilled conv_stem \
	attention_of_classes fresh_families beit relpos eva)
ASAN := address-undefined
asan: export VITPOOL_SANITIZE=address,undefined
asan: .venv/have-test
	@echo "== C tests under AddressSanitizer, LeakSanitizer and UBSan"
	@$(BIN)/python setup.py -q build_ctests
	@$(RUN_CTESTS) build/$(ASAN)/ctests
	@echo "== python tests under AddressSanitizer and UBSan"
	@$(call VARIANT,$(ASAN))
	@$(call WITH,$(ASAN),PYTHONMALLOC=malloc \
	LD_PRELOAD="$(call LIB,libasan.so) $(call LIB,libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1) $(MANY) $(CORE_TESTS) \
	tests/test_low_precision.py -k "not grow and not quick" --capture=sys

# setarch: ThreadSanitizer of older compilers cannot map under some kernels' ASLR.
# die_after_fork: a test's child goes on with threads of its own.
tsan: export VITPOOL_SANITIZE=thread
tsan: .venv/have-test
	@echo "== C tests under ThreadSanitizer, but those that have one thread"
	@$(BIN)/python setup.py -q build_ctests
	@cd build/thread/ctests && rm -f test_kernels test_ukr_low test_amx_*
	@TSAN_OPTIONS=die_after_fork=0 setarch -R $(RUN_CTESTS) build/thread/ctests

# The tests on a Python without the GIL: PYTHON, or the first at hand of python3.14t and
# python3.13t, pyenv's included.
.PHONY: test-freethreaded
test-freethreaded:
	@tools/test_free_threaded.sh .venv-freethreaded $(MANY) tests --ignore=tests/timm \
	    --ignore=tests/ray --ignore=tests/docs

# What reaches the C core, on each target of this machine but the best, which `make test`
# runs on (there the C tests run on each of them). Targets that share the best's float32
# differ in low precision alone.
LOW_TESTS := $(patsubst %,tests/test_%.py,low_precision dtypes dtypes_state train_dtypes)
FLOAT32_OF = $(BIN)/python -c "import vitpool; print(vitpool.show_config()['micro_kernel'])"
test-targets: build
	@for target in $$($(BIN)/python -c \
	    "import vitpool; print(*vitpool.show_config()['targets'][:-1])"); do \
	    echo "== VITPOOL_TARGET=$$target"; \
	    tests="$(CORE_TESTS) $(LOW_TESTS)"; \
	    test "$$(VITPOOL_TARGET=$$target $(FLOAT32_OF))" != "$$($(FLOAT32_OF))" || \
	        tests="$(LOW_TESTS)"; \
	    VITPOOL_TARGET=$$target $(BIN)/$(PYTEST) $(MANY) $$tests || exit 1; \
	done

# What is compiled for a target that this machine lacks is not counted.
coverage: export VITPOOL_COVERAGE=1
coverage: .venv/have-test .venv/have-dev
	@$(BIN)/python setup.py -q build_ctests
	@$(RUN_CTESTS) build/coverage/ctests
	@$(call VARIANT,coverage)
	@$(call WITH,coverage) tests --ignore=tests/timm --ignore=tests/ray
	@here=$$(cd build/coverage/lib && $(CURDIR)/$(BIN)/python -c \
	    "import vitpool; print(*vitpool.show_config()['targets'])"); \
	for notes in build/coverage/obj/*/*__*.gcno; do \
	    target=$${notes##*__}; \
	    case " $$here " in \
	    *" $${target%.gcno} "*) ;; \
	    *) rm -f "$${notes%.gcno}".gc*; echo "not counted: $$notes" ;; \
	    esac; \
	done
	@$(BIN)/gcovr --txt-summary --html-details build/coverage/report.html \
	    --gcov-suspicious-hits-threshold=0 --fail-under-line 95 --fail-under-branch 85 \
	    --filter csrc/ build/coverage/obj

# Faults in a copy of the tree, one at a time, which the tests must notice.
mutate: .venv/have-test
	@$(BIN)/python tools/mutate.py $(FAULTS) $(if $(SAMPLE),--sample $(SAMPLE))

# Hashes of all golden outputs; with BASE=COMMIT beside that commit's.
replay: build
	@$(BIN)/python tools/replay.py $(if $(BASE),--base $(BASE))

bench: .venv-timm/have-timm
	@$(TIMM)/python setup.py -q build_ext --inplace
	@$(TIMM)/python -m benchmarks

# Refreshes this CPU's section of csrc/kernels/README.md. On a machine with nothing else to do.
bench-kernels: .venv/have-test
	@$(BIN)/python setup.py -q build_ctests --source-dir=benchmarks --program-dir=bench
	@$(BIN)/python -m benchmarks.kernel_table build/bench/kernels csrc/kernels/README.md

# What LLVM's scheduler models say of the kernels for ARM: their section of that file. Needs llvm-mca.
mca: .venv/have-dev
	@$(BIN)/python -m benchmarks.mca -o csrc/kernels/README.md

# What builds for arm64 and runs that here: tools/arm/root.sh.
ARM := build/arm64
$(ARM)/have-root: pyproject.toml tools/packages.sh tools/arm/root.sh | .venv/have-test .venv/have-dev
	@tools/arm/root.sh $(ARM) $(BIN)/python
	@touch $@

# The tests of an arm64 build under qemu-user, on each of CPUS. CTESTS: names of C tests, TESTS: files of
# Python tests, or none of them; else all but those that want torch or Ray. CUT=1, for CI: the choice of a
# target, kernels and products with fewer shapes, and of Python what reaches them, on the last CPU alone.
CPUS ?= cortex-a72 neoverse-n1 max
ifdef CUT
test-arm: export VITPOOL_TEST_SMALL := 1
CTESTS ?= test_cpu test_kernels test_ukr test_ukr_low test_gemm test_gemm_int test_group \
	test_attention_half test_forward
TESTS ?= $(patsubst %,tests/test_%.py,targets integers golden bit_equality low_precision)
PYTHON_CPUS ?= $(lastword $(CPUS))
endif
ARM_TESTS = $(if $(TESTS),$(TESTS:%=$(CURDIR)/%),$(CURDIR)/tests \
	$(patsubst %,--ignore=$(CURDIR)/%,tests/timm tests/ray tests/docs $(ALONE)))
test-arm: $(ARM)/have-root
	@CPUS="$(CPUS)" PYTHON_CPUS="$(PYTHON_CPUS)" CTESTS="$(CTESTS)" \
	    ALONE="$(if $(TESTS),,$(ALONE:%=$(CURDIR)/%))" \
	    tools/arm/test.sh $(ARM) $(BIN)/python \
	    $(if $(filter none,$(TESTS)),,$(MANY) $(ARM_TESTS))

# Instructions of a forward pass on arm64, under a qemu that has plugins: tools/arm/count.py.
count-arm: $(ARM)/have-root
	@tools/arm/setup.sh $(ARM) $(BIN)/python build_ctests --source-dir=benchmarks \
	    --program-dir=bench --only=forward
	@QEMU_LD_PREFIX=$(CURDIR)/$(ARM)/root $(BIN)/python tools/arm/count.py $(ARM)/bench/forward

# timm's own classes audited, the programs run, and docs/audited.md: under half an hour.
audit: .venv-timm/have-timm
	@$(TIMM)/python setup.py -q build_ext --inplace
	@mkdir -p build
	@$(TIMM)/python tools/audit_timm.py --json > build/audit.json || test $$? = 1
	@$(TIMM)/python tools/audited.py build/audit.json --markdown docs/audited.md

lint: .venv/have-dev build
	$(BIN)/ruff check $(PY)
	$(BIN)/ruff format --check $(PY)
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml vitpool._core
	@echo clang-format --dry-run -Werror csrc tests benchmarks
	@$(BIN)/clang-format --dry-run -Werror $(C)
	VITPOOL_WERROR=1 $(BIN)/python setup.py -q build_ctests
	VITPOOL_WERROR=1 $(BIN)/python setup.py -q build_ctests \
	    --source-dir=benchmarks --program-dir=bench
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@command -v clang >/dev/null || { echo "make lint needs clang"; exit 1; }
	CC=clang VITPOOL_WERROR=1 $(BIN)/python setup.py -q build_ctests
	@for other in aarch64-macos x86_64-windows-gnu; do \
	    echo "== the C core compiled for $$other"; \
	    $(call FOR,$$other) CFLAGS=-O0 VITPOOL_WERROR=1 \
	        $(BIN)/python setup.py -q build_ctests --compile-only --only=test_parallel || exit 1; \
	done

# Another system's compiler, in the wheel that `dev` has; BLIS is at hand for this one alone.
FOR = CC="$(BIN)/python -m ziglang cc -target $(1)" VITPOOL_BLIS=0 VITPOOL_BUILD=build/$(1)

# Experimental: the C tests as Windows' programs.
test-wine: .venv/have-dev
	@command -v wine >/dev/null || { echo "make test-wine needs wine (apt install wine64)"; exit 1; }
	@$(call FOR,x86_64-windows-gnu) LDFLAGS=-s $(BIN)/python setup.py -q build_ctests
	@WINEDEBUG=-all $(RUN_CTESTS) build/x86_64-windows-gnu/without-blis/ctests wine

format: .venv/have-dev
	$(BIN)/ruff check --fix-only -q $(PY)
	$(BIN)/ruff format $(PY)
	$(BIN)/clang-format -i $(C)

# What a run finds goes to build/; a finding worth keeping is copied to tests/fuzz/seeds/.
FUZZ := build/fuzzer-address-undefined
FUZZ_SECONDS ?= 60
FUZZ_OPTIONS = -verbosity=0 -print_final_stats=1 -max_total_time=$(FUZZ_SECONDS)
fuzz: .venv/have-fuzz build
	@command -v clang >/dev/null || { echo "make fuzz needs clang"; exit 1; }
	@CC=clang VITPOOL_SANITIZE=fuzzer,address,undefined \
	    $(BIN)/python setup.py -q build_ctests --source-dir=tests/fuzz --program-dir=fuzz
	@for name in $(notdir $(wildcard tests/fuzz/seeds/*)); do \
	    echo "== fuzz $$name for $(FUZZ_SECONDS) s"; \
	    mkdir -p $(FUZZ)/corpus/$$name; \
	    program=$(FUZZ)/fuzz/$$name; \
	    test -x $$program || program="$(BIN)/python tests/fuzz/fuzz_files.py $$name"; \
	    $$program $(FUZZ_OPTIONS) -artifact_prefix=$(FUZZ)/$$name- \
	        $(FUZZ)/corpus/$$name tests/fuzz/seeds/$$name >$(FUZZ)/$$name.log 2>&1 \
	        || { tail -40 $(FUZZ)/$$name.log; exit 1; }; \
	    grep -h executed_units $(FUZZ)/$$name.log; \
	done

# In .venv-timm, since a notebook takes a model from timm.
docs: .venv-timm/have-docs
	@$(TIMM)/python setup.py -q build_ext --inplace
	@echo "== the documentation, with its notebooks executed"
	@rm -rf build/docs
	@$(TIMM)/sphinx-build -W --keep-going -q docs build/docs
	@$(TIMM)/python docs/check_links.py build/docs

# The wheel is built from the sdist: so that has all that a build needs.
wheel: .venv/have-dev
	@rm -rf build/wheel dist *.egg-info
	@$(BIN)/python setup.py -q sdist
	@rm -rf *.egg-info
	@$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w build/wheel \
	    dist/*.tar.gz
	@PATH=$(CURDIR)/$(BIN):$$PATH auditwheel repair --strip -w dist build/wheel/*.whl
	@$(BIN)/abi3audit --strict --summary dist/*.whl
	@ls -l dist
	@test -z "$$(find dist -name '*.whl' -size +12M)" || { echo "over 12 MB"; exit 1; }

# The tests on the wheel, in new environments, outside of the sources, for each Python at
# hand, pyenv's included: all of them on the oldest, and what reaches the core on the others.
# With CORE=1 that alone on the oldest, too.
PYTHONS := python3.10 python3.11 python3.12 python3.13
test-wheel: wheel
	@PYENV_VERSION=$$(pyenv versions --bare 2>/dev/null | paste -sd: -); \
	test -z "$$PYENV_VERSION" || export PYENV_VERSION; \
	for python in $(PYTHONS); do \
	    $$python -c '' 2>/dev/null || { echo "== no $$python here"; continue; }; \
	    echo "== the wheel with $$python"; \
	    env=build/wheel/$$python; \
	    $$python -m venv $$env && \
	    $$env/bin/pip install -q --disable-pip-version-check --find-links dist \
	        --only-binary vitpool 'vitpool[test]' && \
	    case $$python$(CORE) in \
	    $(firstword $(PYTHONS))) tests=../../tests ;; \
	    *) tests="$(CORE_TESTS:%=../../%)" ;; \
	    esac && \
	    (cd build/wheel && $$python/bin/pytest -q -p no:cacheprovider $(MANY) $$tests \
	        $(ALONE:%=--ignore=../../%) \
	        --ignore=../../tests/timm --ignore=../../tests/ray) || exit 1; \
	done

# Linux' wheels for glibc and musl, x86-64 and aarch64, cross-compiled; ONLY=PLATFORM: one.
wheels: .venv/have-dev
	@$(BIN)/python tools/wheels.py $(ONLY)

clean:
	rm -rf build dist *.egg-info vitpool/*.so .venv .venv-timm .venv-ray .venv-freethreaded
