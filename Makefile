# A thin face over CMake. `make demo` and `make test` do all the set-up on Debian 12 and Ubuntu 24.04.
.PHONY: demo test build test-sanitize test-clang static install reports setup setup-test setup-clang clean

JOBS := $(shell nproc)
PRESET := release
PROGRAM := build/release/fp4scope

demo: build
	$(PROGRAM) sweep -o demo.h5
	$(PROGRAM) report demo.h5 -o reports/demo
	@echo "results in demo.h5, report in reports/demo/index.html"

build: setup
	@cmake/build.sh $(PRESET) $(JOBS)

# Every test but those that need a GPU. The same build as the demo's, so that either leaves nothing to do for the other.
test: setup build
	ctest --test-dir build/release --output-on-failure -j $(JOBS) -LE gpu

# The unit tests again: under sanitizers, and compiled by clang.
test-sanitize: setup
	@cmake/build.sh sanitize $(JOBS)
	ctest --test-dir build/sanitize --output-on-failure -j $(JOBS) -L unit
test-clang: setup-clang
	@cmake/build.sh clang $(JOBS)
	ctest --test-dir build/clang --output-on-failure -j $(JOBS) -L unit

static: setup
	@cmake/build.sh static $(JOBS)

# To /usr/local, or DESTDIR and PREFIX.
install: build
	cmake --install build/release $(if $(PREFIX),--prefix $(PREFIX))

# The committed reports, from their sweep files. FP4SCOPE_SHARED names the folder with data/silero_vad_16k.safetensors.
reports: build
	reports/regenerate.sh $(PROGRAM)

setup:
	@cmake/packages.sh build test
setup-clang:
	@cmake/packages.sh build test clang

clean:
	rm -rf build demo.h5 demo.log.json demo.h5.partial reports/demo
