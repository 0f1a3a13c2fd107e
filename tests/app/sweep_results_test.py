"""sweep_results_test.py PROGRAM REPOSITORY: what the repository's sweeps give. 77: no h5py.

the_published_tables_are_reproduced: reports/published.toml, every number within its tolerance (reports/page.py).
the_divergence_of_recipes_is_reproduced: crosscheck --recipes on its own inputs, about a minute.
the_literature_is_reproduced: the reports' other sweeps of distributions, every number within its tolerance.
the_results_follow_the_schema: that file, a sweep of every format and method with per-block datasets and one that decomposes,
    held against notebooks-data/schema.md, and damaged copies refused (tests/analysis/schema_test.py).
"""
import os
import subprocess
import sys
import tempfile
import unittest

PROGRAM, REPOSITORY = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])

LITERATURE = ("octave", "decomposition", "paradox", "distributions", "scale_formats", "soar", "hadamard", "stochastic",
              "equal_bits", "corrections")

EVERYTHING = """
per_block = true
[[input]]
distribution = "llm"
rows = 24
cols = 100
[[input]]
distribution = "uniform"
rows = 8
cols = 64
sigma = 0
[activations]
tokens = 16
[[quantize]]
formats = ["nvfp4", "mxfp4", "nvint4"]
blocks = [16, 32]
methods = ["naive", "static6", "static4", "4over6", "sse", "exhaustive", "hessian", "floor", "ceil", "even", "rceil"]
select = ["mse", "mae", "absmax"]
tensor_scale = ["amax", "none", 0.01]
"""

# Everything that is written on request or varies besides: terms, causes, places, seeds, rotations, roundings, recipes.
DECOMPOSED = """
decompose = true
per_block = true
[[input]]
distribution = "normal"
rows = 32
cols = 80
sigma = [0.01, 1]
seed = [1, 2]
[[input]]
distribution = "uniform"
rows = 2
cols = 16
sigma = 0
[activations]
tokens = 16
[[quantize]]
formats = ["nvfp4", "mxfp4", "nvint4", "if4", "mxfp6_e2m3", "mxfp8_e4m3", "mxint8"]
methods = ["naive", "4over6", "sse", "rceil", "prevent_zero", "macro", "residual", "hessian", "ms_eden"]
tensor_scale = ["amax", "none"]
[[quantize]]
rounding = ["rne", "stochastic", "stochastic_unbiased"]
hadamard = [0, 16]
block_2d = [false, true]
recipe = ["exact", "te", "qwantize"]
"""


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stderr}"
    return done.stdout


class SweepResults(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def sweep(self, config):
        out = os.path.join(self.folder.name, "out.h5")
        run(PROGRAM, "sweep", config, "-o", out)
        return out

    def check_schema(self, path):
        schema = os.path.join(REPOSITORY, "notebooks-data", "schema.md")
        checker = os.path.join(REPOSITORY, "tests", "analysis", "schema_test.py")
        run(sys.executable, checker, path, "--schema", schema)
        run(sys.executable, checker, path, "--schema", schema, "--self-test")

    def test_the_published_tables_are_reproduced(self):
        out = self.sweep(os.path.join(REPOSITORY, "reports", "published.toml"))
        run(sys.executable, os.path.join(REPOSITORY, "reports", "page.py"), "published", out, "--check")
        self.check_schema(out)

    def test_the_literature_is_reproduced(self):
        import numpy
        os.environ["FP4SCOPE_IDENTITY"] = os.path.join(self.folder.name, "identity.npy")
        numpy.save(os.environ["FP4SCOPE_IDENTITY"], numpy.eye(256, dtype=numpy.float32))
        for name in LITERATURE:
            with self.subTest(name):
                out = os.path.join(self.folder.name, name + ".h5")
                run(PROGRAM, "sweep", os.path.join(REPOSITORY, "reports", name + ".toml"), "-o", out)
                more = [os.path.join(self.folder.name, "octave.h5")] if name == "decomposition" else []
                run(sys.executable, os.path.join(REPOSITORY, "reports", "page.py"), name, out, *more, "--check")

    def test_the_divergence_of_recipes_is_reproduced(self):
        out = os.path.join(self.folder.name, "recipes.h5")
        run(PROGRAM, "crosscheck", "--recipes", "--brief", "-o", out)
        run(sys.executable, os.path.join(REPOSITORY, "reports", "page.py"), "recipes", out, "--check")

    def test_the_results_follow_the_schema(self):
        config = os.path.join(self.folder.name, "everything.toml")
        for text in (EVERYTHING, DECOMPOSED):
            with open(config, "w") as f:
                f.write(text)
            self.check_schema(self.sweep(config))


if __name__ == "__main__":
    try:
        import h5py  # noqa: F401
    except ImportError:
        print("skipped: no h5py (apt-get install python3-h5py)")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
