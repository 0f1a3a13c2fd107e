#!/usr/bin/env python3
"""Holds every #include to the order of the folders and to the libraries' places. Prints the offending line and the rule.

    include_order_test.py REPO_ROOT      breaks each rule once in made-up trees, then checks REPO_ROOT
    include_order_test.py --self-test    the made-up trees alone
"""
import re
import sys
import tempfile
import unittest
from pathlib import Path

ALL = ("formats", "sim", "search", "cuda", "io", "analysis", "app", "tests")
MAY_INCLUDE = {  # besides its own folder
    "formats": (),
    "sim": ("formats",),
    "search": ("formats", "sim"),
    "cuda": ("formats", "sim", "search"),
    "io": ("formats",),
    "analysis": ("formats", "sim", "search", "io", "cuda/cuda.hpp"),
    "app": ALL,
    "tests": ALL,
}
SOURCES = (".hpp", ".cpp", ".cu", ".cuh", ".h", ".in")

CUDA_HEADERS = (r"cuda(/.*|\.h|_.*\.h|rt.*)|cu(blas|rand|solver|sparse|dnn|tensor|pti|sp)\w*\.h|(cub|thrust|cutlass|cute|nv)/.*|"
                r"cooperative_groups.*|(mma|nvrtc|nvml|nccl|crt/.*|device_launch_parameters|driver_types|vector_types|"
                r"device_functions|sm_\w+)(\.h)?")
# (what, pattern of the included name, where it may be, the rule)
LIBRARIES = [
    ("HDF5", r"hdf5(_hl)?\.h|H5\w*\.h|hdf5/.*|highfive/.*", r"io/.*", "hdf5.h only in io/"),
    ("GMP and MPFR", r"gmp(xx)?\.h|mpfr\.h|mpf2mpfr\.h|mpreal\.h|mpfi\w*\.h|mpc\.h|boost/multiprecision/.*",
     r"search/.*\.cpp|analysis/(exact|verify)\w*\.cpp", "gmp and mpfr only in search/*.cpp and analysis/{exact,verify}*.cpp"),
    ("CUDA", CUDA_HEADERS, r"cuda/.*", "CUDA headers only in cuda/"),
    ("Eigen", r"Eigen/.*|unsupported/Eigen/.*", r".*\.cpp", "Eigen only in .cpp files"),
    ("nlohmann-json", r"nlohmann/.*", r".*\.cpp", "nlohmann-json only in .cpp files"),
    ("toml++", r"toml\+\+/.*|toml\.(h|hpp)", r".*\.cpp", "toml++ only in .cpp files"),
    ("OpenMP", r"omp\.h", r".*\.cpp", "OpenMP only in .cpp files"),
    ("Random123", r"Random123/.*", r"sim/random\.hpp", "Random123 only in sim/random.hpp"),
    ("a SIMD library", r"(hwy|xsimd|eve|Vc|simde|highway)/.*|experimental/simd|vectorclass\.h",
     r"(search|sim)/.*\.cpp", "a SIMD library only in .cpp files of search/ and sim/"),
    ("CLI11", r"CLI/.*|CLI11\.hpp", r"app/.*", "CLI11 only in app/"),
]


def includes(text):
    """(line number, line, "<" or '"', name) of each #include, comments left out; name is None if it can't be read."""
    text = re.sub(r"^[ \t]*/\*.*?\*/", lambda comment: "\n" * comment.group().count("\n"), text, flags=re.DOTALL | re.MULTILINE)
    for number, line in enumerate(text.splitlines(), 1):
        if not re.match(r"\s*#\s*include(_next)?\b", line):
            continue
        name = re.match(r'\s*#\s*include(?:_next)?\s*([<"])([^>"]+)[>"]', line)
        yield number, line.strip(), *(name.groups() if name else ('"', None))


def broken_rule(file, bracket, name):
    """The rule that this include breaks, or None. `file` is relative to the root, with slashes."""
    folder = file.split("/")[0]
    if folder == "tests":
        return None
    if name is None:
        return "an include names its file, no macro"
    target = name.split("/")[0]
    ours = target in ALL and "/" in name and (bracket == '"' or target != "cuda")  # <cuda/...> is CUDA's own
    if bracket == '"' and not ours and not any(re.fullmatch(pattern, name) for _, pattern, _, _ in LIBRARIES):
        return 'includes are rooted at the repository: "folder/file.hpp"; others stand in <>'
    if ours:
        if not name.endswith((".hpp", ".cuh", ".h")):
            return "only headers are included"
        allowed = MAY_INCLUDE[folder]
        if target == folder or target in allowed or name in allowed:
            return None
        return f"{folder} includes {', '.join(allowed) or 'nothing'} and itself, not {name}"
    for _, pattern, place, rule in LIBRARIES:
        if re.fullmatch(pattern, name) and not re.fullmatch(place, file):
            return rule
    return None


def offences(root):
    """One text for each include that breaks a rule, and the number of files read."""
    found, count = [], 0
    for folder in ALL:
        for path in sorted((Path(root) / folder).rglob("*")):
            if not path.is_file() or not path.name.endswith(SOURCES):
                continue
            count += 1
            file = path.relative_to(root).as_posix()
            for number, line, bracket, name in includes(path.read_text(encoding="utf-8")):
                rule = broken_rule(file, bracket, name)
                if rule:
                    found.append(f"{file}:{number}: {line}\n    rule: {rule}")
    return found, count


class SelfTest(unittest.TestCase):
    """Each rule, broken once and kept once."""

    def check(self, file, line):
        """Offences of a tree with that one file of that one line."""
        with tempfile.TemporaryDirectory() as root:
            path = Path(root, file)
            path.parent.mkdir(parents=True)
            path.write_text(line + "\n", encoding="utf-8")
            return offences(root)[0]

    def refused(self, file, line, rule):
        found = self.check(file, line)
        self.assertEqual(len(found), 1, f"{file}: {line}: {found}")
        self.assertIn(line.strip(), found[0])
        self.assertIn(rule, found[0])

    def allowed(self, file, line):
        self.assertEqual(self.check(file, line), [], f"{file}: {line}")

    def test_folders_include_only_what_lies_below_them(self):
        for folder, allowed in MAY_INCLUDE.items():
            for target in ALL:
                line = f'#include "{target}/x.hpp"'
                if target == folder or target in allowed:
                    self.allowed(f"{folder}/a.hpp", line)
                else:
                    self.refused(f"{folder}/a.hpp", line, f"{folder} includes ")

    def test_formats_includes_nothing(self):
        self.refused("formats/a.hpp", '#include "sim/x.hpp"', "formats includes nothing and itself")

    def test_analysis_sees_one_header_of_cuda(self):
        self.allowed("analysis/a.cpp", '#include "cuda/cuda.hpp"')
        self.refused("analysis/a.cpp", '#include "cuda/kernels.hpp"', "analysis includes")

    def test_brackets_do_not_hide_a_folder(self):
        self.refused("io/a.cpp", "#include <analysis/x.hpp>", "io includes formats")

    def test_spaces_and_deeper_folders_do_not_hide_an_include(self):
        self.refused("io/deep/er/a.cpp", '  #  include   "search/x.hpp"  // why', "io includes formats")

    def test_only_headers_are_included(self):
        self.refused("cuda/a.cu", '#include "search/search.cpp"', "only headers")
        self.allowed("cuda/a.cu", '#include "search/search.hpp"')

    def test_includes_are_rooted_at_the_repository(self):
        for line in ('#include "codec.hpp"', '#include "../formats/codec.hpp"'):
            self.refused("sim/a.hpp", line, "rooted at the repository")

    def test_an_include_by_macro_is_refused(self):
        self.refused("sim/a.hpp", "#include HEADER", "no macro")

    def test_libraries_stay_in_their_places(self):
        for line, good, bad in [
            ("<hdf5.h>", ["io/a.cpp", "io/a.hpp"], ["analysis/a.cpp", "app/a.cpp", "formats/a.hpp"]),
            ("<gmpxx.h>", ["search/a.cpp", "analysis/exact.cpp", "analysis/verify_all.cpp"],
             ["search/a.hpp", "analysis/sweep.cpp", "analysis/exact.hpp", "app/a.cpp", "sim/a.hpp"]),
            ("<mpfr.h>", ["search/a.cpp"], ["io/a.cpp"]),
            ("<cuda_runtime.h>", ["cuda/a.cu", "cuda/a.cuh"], ["analysis/a.cpp", "formats/host_device.hpp"]),
            ("<cuda/std/bit>", ["cuda/a.cu"], ["search/a.hpp"]),
            ("<cuda_fp4.h>", ["cuda/a.cu"], ["sim/a.hpp"]),
            ("<Eigen/Dense>", ["analysis/a.cpp"], ["analysis/a.hpp", "cuda/a.cu"]),
            ("<nlohmann/json.hpp>", ["io/a.cpp"], ["io/a.hpp"]),
            ("<toml++/toml.h>", ["analysis/a.cpp"], ["analysis/a.hpp"]),
            ("<omp.h>", ["app/a.cpp"], ["search/a.hpp"]),
            ("<Random123/philox.h>", ["sim/random.hpp"], ["sim/block.hpp", "analysis/a.cpp"]),
            ("<hwy/highway.h>", ["search/a.cpp", "sim/a.cpp"], ["search/a.hpp", "analysis/a.cpp"]),
            ("<CLI/CLI.hpp>", ["app/app.hpp", "app/a.cpp"], ["analysis/a.cpp"]),
        ]:
            for file in good:
                self.allowed(file, f"#include {line}")
            for file in bad:
                self.refused(file, f"#include {line}", "only in")

    def test_quotes_do_not_hide_a_library(self):
        self.refused("analysis/a.cpp", '#include "hdf5.h"', "only in io/")

    def test_tests_may_include_everything(self):
        for line in ("<hdf5.h>", "<gmpxx.h>", '"temp_folder.hpp"', "<cuda_fp4.h>", "<CLI/CLI.hpp>"):
            self.allowed("tests/io/a.cpp", f"#include {line}")

    def test_comments_and_standard_headers_pass(self):
        self.allowed("formats/a.hpp", '// #include "sim/x.hpp"\n/*\n#include "sim/y.hpp"\n*/\n#include <cstdint>')

    def test_the_line_number_is_right_after_a_comment(self):
        self.assertIn("formats/a.hpp:4: ", self.check("formats/a.hpp", '/* a\nb */\n\n#include "sim/x.hpp"')[0])


def self_test():
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(SelfTest)
    return unittest.TextTestRunner(verbosity=0).run(suite).wasSuccessful()


def main(words):
    if len(words) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    if not self_test():
        return 1
    if words == ["--self-test"]:
        return 0
    found, count = offences(words[0])
    if count == 0:
        print(f"{words[0]}: no sources in {', '.join(ALL)}")
        return 1
    for text in found:
        print(text)
    print(f"{count} files, {len(found)} includes break a rule")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
