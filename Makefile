# A thin face over CMake. `make demo` and `make test` do all the set-up on Debian 12 and Ubuntu 24.04.
.PHONY: demo program test test-sanitize test-clang static install reports setup setup-clang clean

PROGRAM := build/release/fp4scope

demo: program
	$(PROGRAM) sweep -o demo.h5
	$(PROGRAM) report demo.h5 -o reports/demo
	@echo "results: demo.h5    report: reports/demo/index.html"

program: setup
	@cmake/build.sh release fp4scope_program

# Every test but those that need a GPU.
test: setup
	@cmake/build.sh release
	ctest --test-dir build/release --output-on-failure -j $$(nproc) -LE gpu

# The unit tests again: under sanitizers, and compiled by clang.
test-sanitize: setup
	@cmake/build.sh sanitize unit_tests
	ctest --test-dir build/sanitize --output-on-failure -j $$(nproc) -L unit
test-clang: setup-clang
	@cmake/build.sh clang unit_tests
	ctest --test-dir build/clang --output-on-failure -j $$(nproc) -L unit

static: setup
	@cmake/build.sh static

# To /usr/local, or DESTDIR and PREFIX.
install: program
	@cmake/build.sh release fp4scope_c
	cmake --install build/release $(if $(PREFIX),--prefix $(PREFIX))

# The committed reports, from their sweep files. FP4SCOPE_SHARED names the folder with data/silero_vad_16k.safetensors.
reports: program
	@cmake/build.sh release joint_table
	reports/regenerate.sh $(PROGRAM)

setup:
	@cmake/packages.sh build test
setup-clang:
	@cmake/packages.sh build test clang

clean:
	rm -rf build demo.h5 demo.log.json demo.h5.partial reports/demo
