"""--device: the CPU by name gives the same bytes, a GPU that isn't there and words that are none are told clearly."""
import json
import random
import unittest

from harness import Case, floats, write_safetensors

SWEEP = """
[[input]]
name = "bell"
distribution = "normal"
rows = 8
cols = 32

[[quantize]]
formats = ["nvfp4"]
methods = ["naive", "sse"]
"""
VERBS = {
    "quantize": ["quantize", "in.safetensors", "-o", "out.safetensors", "--format", "nvfp4"],
    "sweep": ["sweep", "config.toml", "-o", "out.h5"],
    "bench": ["bench", "search", "--rows", "8", "--cols", "64", "--repeats", "1"],
}


class Device(Case):
    def setUp(self):
        super().setUp()
        draw = random.Random(3)
        write_safetensors(self.path("in.safetensors"), {"w": floats([8, 32], [draw.gauss(0, 1) for _ in range(256)])})
        self.path("config.toml").write_text(SWEEP)

    def test_cpu_is_what_there_is_without_the_word(self):
        for verb, out in (("quantize", "out.safetensors"), ("sweep", "out.h5")):
            plain = self.succeeds(*VERBS[verb])
            expected = self.path(out).read_bytes()
            named = self.succeeds(*VERBS[verb], "--device", "cpu")
            self.assertEqual(self.path(out).read_bytes(), expected, verb)
            self.assertEqual((named.stdout, named.stderr), (plain.stdout, plain.stderr), verb)

    def test_the_log_of_a_sweep_names_the_device(self):
        self.succeeds(*VERBS["sweep"])
        self.assertEqual(json.loads(self.path("out.log.json").read_text())["device"], "cpu")

    def test_an_unknown_word_names_the_nearest(self):
        for words in VERBS.values():
            self.fails(2, ["--device", "'cudo'", "'cuda'"], *words, "--device", "cudo")
            for word in ("cuda:", "cuda:x", "cuda:1,", "cuda:-1", "cuda:0;1", "gpu", ""):
                self.fails(2, ["--device", f"'{word}'", "cuda:0,1"], *words, "--device", word)
        self.leaves("config.toml", "in.safetensors")

    def test_no_gpu_is_one_clear_line(self):
        self.path("config.toml").write_text(SWEEP)
        outcome = self.run_here(*VERBS["quantize"], "--device", "cuda")
        if outcome.returncode == 0:
            self.skipTest("there is a GPU")
        for words in VERBS.values():
            for word in ("cuda", "cuda:0", "cuda:0,1"):
                self.fails(1, [f"--device {word}", "--device cpu"], *words, "--device", word)
        self.leaves("config.toml", "in.safetensors")


if __name__ == "__main__":
    unittest.main()
