#!/usr/bin/env python3
"""The installed package serves a project of ten lines: find_package(fp4scope), two headers, a static_assert on encode.

    install_test.py PROGRAM      the program in its build folder, which is what gets installed (the folder will do too)
"""
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

BUILD = Path()  # set by main

CMAKE = """cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES CXX)
find_package(fp4scope 0.1 REQUIRED)
add_executable(consumer main.cpp)
target_link_libraries(consumer PRIVATE fp4scope::fp4scope)
"""
MAIN = """#include <cstdio>
#include "formats/codec.hpp"
#include "search/sse.hpp"
using namespace fp4scope::formats;
static_assert(encode(e2m1, 2.5).code == 4 && encode(e4m3, 448.0).code == 0x7E && decode_double(e2m1, 0xF) == -6);
int main() {
  std::printf("%u %.1f\\n", encode(e2m1, -0.75).code, decode_double(e4m3, 0x7E));
  return fp4scope::search::sum_error(16) > 0 ? 0 : 1;
}
"""


def run(*words, **options):
    """Fails with what the command said."""
    outcome = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **options)
    if outcome.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, words))}\n{outcome.stdout}{outcome.stderr}")
    return outcome.stdout


class InstalledPackage(unittest.TestCase):
    """cmake --install, then a project that knows nothing of the build folder."""

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="fp4scope-install-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.prefix = cls.folder / "first"
        run("cmake", "--install", BUILD, "--prefix", cls.prefix)
        cls.prefix = cls.prefix.rename(cls.folder / "pre fix")  # it can be moved

    def test_a_consumer_configures_builds_and_runs(self):
        project = self.folder / "project"
        project.mkdir()
        (project / "CMakeLists.txt").write_text(CMAKE, encoding="utf-8")
        (project / "main.cpp").write_text(MAIN, encoding="utf-8")
        run("cmake", "-S", project, "-B", project / "build", f"-DCMAKE_PREFIX_PATH={self.prefix}", "-DCMAKE_BUILD_TYPE=Release",
            "-DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF")
        run("cmake", "--build", project / "build")
        self.assertEqual(run(project / "build" / "consumer"), "10 448.0\n")
        commands = (project / "build" / "CMakeCache.txt").read_text(encoding="utf-8")
        self.assertIn(str(self.prefix), commands)

    def test_the_installed_program_runs(self):
        version = run(self.prefix / "bin" / "fp4scope", "--version")
        self.assertEqual(version, run(BUILD / "fp4scope", "--version"))
        self.assertIn("nvfp4", run(self.prefix / "bin" / "fp4scope", "formats"))

    def test_headers_are_installed_and_sources_are_not(self):
        headers = {path.relative_to(self.prefix / "include" / "fp4scope").as_posix() for path in (self.prefix / "include").rglob("*") if path.is_file()}
        self.assertLessEqual({"formats/codec.hpp", "formats/block_format.hpp", "sim/block.hpp", "search/sse.hpp"}, headers)
        self.assertEqual({name.split("/")[0] for name in headers}, {"formats", "sim", "search", "c_api.h"})
        self.assertTrue(all(name.endswith((".hpp", ".h")) for name in headers))

    def test_no_path_of_the_build_is_left_in_the_package(self):
        source = str(Path(__file__).resolve().parents[2])
        for path in (self.prefix / "lib").rglob("*.cmake"):
            text = path.read_text(encoding="utf-8")
            self.assertFalse(str(BUILD) in text or source in text, path.name)


def main():
    global BUILD
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    given = Path(sys.argv[1]).resolve()
    BUILD = given if given.is_dir() else given.parent
    if not shutil.which("cmake") or not (BUILD / "cmake_install.cmake").is_file():
        print(f"skipped: no cmake, or {BUILD} is no build folder")
        return 77
    return 0 if unittest.main(argv=sys.argv[:1], exit=False).result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
