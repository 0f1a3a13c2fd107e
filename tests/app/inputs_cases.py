"""Files that are damaged, foreign, unreadable or unwritable: exit 1, one clear line, nothing left behind."""
import math
import os
import resource
import shutil
import signal
import stat
import struct
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import harness
from harness import Case, Tensor, floats, safetensors_bytes, write_safetensors

GOOD = floats([2, 32], [0.5] * 64)
QUANTIZE = ["quantize", "in.safetensors", "-o", "out.safetensors", "--format", "nvfp4"]
ENCODE = ["encode", "in.safetensors", "-o", "out.safetensors", "--element", "e2m1"]
SWEEP = '[[input]]\nfile = "in.safetensors"\n[[quantize]]\nformats = ["nvfp4"]\n'


def file_of(header, data=b""):
    """A safetensors file with that text as its header."""
    return struct.pack("<Q", len(header)) + header.encode() + data


class DamagedFiles(Case):
    """Every reader verb says the same of the same file."""

    def refused(self, needles, data):
        self.path("in.safetensors").write_bytes(data)
        self.path("c.toml").write_text(SWEEP, encoding="utf-8")
        needles = [needles] if isinstance(needles, str) else needles
        for words in (QUANTIZE, ENCODE, ["dequantize", "in.safetensors", "-o", "out.safetensors"], ["sweep", "c.toml", "-o", "out.h5"]):
            start = time.monotonic()
            self.fails(1, ["in.safetensors", *needles], *words)
            self.assertLess(time.monotonic() - start, 5, words)
            self.leaves("c.toml", "in.safetensors")

    def test_a_file_cut_off_anywhere(self):
        whole = safetensors_bytes({"w": GOOD})
        for length in (0, 1, 7, 8, 9, 40, len(whole) - 257, len(whole) - 256, len(whole) - 1):
            self.path("in.safetensors").write_bytes(whole[:length])
            self.fails(1, "in.safetensors", *QUANTIZE)
        self.refused("damaged", whole[:-1])

    def test_bytes_too_many(self):
        self.refused("belong to no tensor", safetensors_bytes({"w": GOOD}) + b"\0")

    def test_a_header_longer_than_the_file(self):
        self.refused(["header", "1000000"], struct.pack("<Q", 1000000) + b'{"w":')

    def test_a_header_of_two_gigabytes_is_refused_at_once(self):
        start = time.monotonic()
        self.refused(["header", str(2**31)], struct.pack("<Q", 2**31) + b"{" + b" " * 100)
        with open(self.path("in.safetensors"), "wb") as file:  # and where the file is long enough, if sparse
            file.write(struct.pack("<Q", 2**31) + b"{")
            file.truncate(2**31 + 100)
        self.fails(1, ["header", str(2**31)], *QUANTIZE)
        self.assertLess(time.monotonic() - start, 5)

    def test_the_largest_header_length(self):
        self.refused("header", struct.pack("<Q", 2**64 - 1) + b"{}")

    def test_overlapping_tensors(self):
        header = '{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[2,2],"data_offsets":[8,24]}}'
        self.refused(["'b'", "overlaps"], file_of(header, bytes(24)))

    def test_a_hole_between_tensors(self):
        header = '{"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1,2],"data_offsets":[16,24]}}'
        self.refused(["'b'", "hole"], file_of(header, bytes(24)))

    def test_offsets_beyond_the_file_and_of_another_size_than_the_shape(self):
        self.refused("'a'", file_of('{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', bytes(8)))
        self.refused("'a'", file_of('{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,8]}}', bytes(8)))
        self.refused("'a'", file_of('{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,0]}}'))

    def test_a_header_that_is_no_json(self):
        self.refused([], file_of('{"a":{"dtype":"F32",'))
        self.refused([], file_of("{" * 5000))
        self.refused([], b"PK\3\4" + bytes(100))

    def test_an_unknown_dtype_and_a_twin(self):
        self.refused("'F3'", file_of('{"a":{"dtype":"F3","shape":[2],"data_offsets":[0,8]}}', bytes(8)))
        self.refused([], file_of('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}', bytes(4)))


class UnfitData(Case):
    """Whole files with nothing in them to quantize."""

    def setUp(self):
        super().setUp()
        self.path("c.toml").write_text(SWEEP, encoding="utf-8")

    def left_alone(self):
        self.leaves("c.toml", "in.safetensors")

    def test_only_integers(self):
        write_safetensors(self.path("in.safetensors"), {"ids": Tensor("I64", [2, 16], bytes(256))})
        self.fails(1, "in.safetensors", *QUANTIZE, notices=1)
        self.assertIn("ids skipped, its dtype I64", self.run_here(*QUANTIZE).stderr)
        self.fails(1, "in.safetensors", *ENCODE, notices=1)
        self.fails(1, "in.safetensors", "sweep", "c.toml", "-o", "out.h5")
        self.left_alone()

    def test_no_tensor_matched_names_the_pattern(self):
        write_safetensors(self.path("in.safetensors"), {"w": GOOD})
        self.fails(1, "v*", *QUANTIZE, "--tensor", "v*")
        self.left_alone()

    def test_nan_and_inf_are_refused_with_row_and_column(self):
        for bad in (math.nan, math.inf, -math.inf):
            values = [1.0] * 96
            values[2 * 32 + 5] = bad
            write_safetensors(self.path("in.safetensors"), {"w/x": floats([3, 32], values)})
            self.fails(1, ["w/x", "row 2, column 5", "propagate"], *QUANTIZE)
            self.fails(1, ["w/x", "row 2, column 5", "propagate"], "sweep", "c.toml", "-o", "out.h5")
            self.assertFalse(self.path("out.h5").exists())
            self.assertFalse(self.path("out.safetensors").exists())

    def test_columns_that_do_not_fit_are_refused_under_pad_error(self):
        write_safetensors(self.path("in.safetensors"), {"w": floats([2, 387], [1.0] * 774)})
        self.fails(1, ["w", "387", "16"], *QUANTIZE, "--pad", "error")
        self.left_alone()

    def test_activations_that_do_not_fit_are_refused(self):
        write_safetensors(self.path("in.safetensors"), {"w": GOOD, "x": floats([4, 48], [1.0] * 192)})
        hessian = [*QUANTIZE, "--scale", "hessian", "--tensor", "w", "--activations"]
        self.fails(1, ["w", "32", "48"], *hessian, "in.safetensors:x")
        self.fails(1, ["'xx'", "'x'"], *hessian, "in.safetensors:xx")
        self.fails(1, ["nosuch.safetensors"], *hessian, "nosuch.safetensors:x")
        write_safetensors(self.path("nan.safetensors"), {"x": floats([1, 32], [1.0] * 31 + [math.nan])})
        self.fails(1, ["row 0, column 31"], *hessian, "nan.safetensors")
        self.leaves("c.toml", "in.safetensors", "nan.safetensors")

    def test_a_strange_name_stays_on_one_line(self):
        write_safetensors(self.path("in.safetensors"), {"two\nlines\x1b[31m": floats([1, 16], [math.nan] * 16)})
        for words in (QUANTIZE, ["sweep", "c.toml", "-o", "out.h5"]):
            self.assertNotIn("\x1b", self.fails(1, "lines", *words).stderr)
        write_safetensors(self.path("in.safetensors"), {"two\nlines": Tensor("I64", [1], bytes(8)), "w": GOOD})
        self.assertEqual(self.succeeds(*QUANTIZE).stderr.count("\n"), 1)
        self.assertEqual(self.succeeds(*QUANTIZE, "--keep").stderr.count("\n"), 1)

    def test_an_output_that_would_hold_a_name_twice_is_refused(self):
        write_safetensors(self.path("in.safetensors"), {"w": GOOD, "w.codes": Tensor("U8", [1], b"\0")})
        self.fails(1, "w.codes", *QUANTIZE, "--keep", notices=1)
        self.left_alone()

    def test_dequantize_wants_what_quantize_wrote(self):
        write_safetensors(self.path("in.safetensors"), {"w": GOOD})
        self.fails(1, ["in.safetensors", "fp4scope quantize"], "dequantize", "in.safetensors", "-o", "out.safetensors")
        self.left_alone()


class MissingFiles(Case):
    """What is not there is named."""

    def test_a_missing_input(self):
        self.fails(1, ["in.safetensors", "No such file"], *QUANTIZE)
        self.fails(1, ["in.safetensors", "No such file"], *ENCODE)
        self.fails(1, ["nosuch.toml", "No such file"], "sweep", "nosuch.toml", "-o", "out.h5")
        self.fails(1, ["nosuch.h5"], "report", "nosuch.h5", "-o", "out")
        self.leaves()

    def test_a_missing_input_of_a_sweep(self):
        self.path("c.toml").write_text(SWEEP, encoding="utf-8")
        self.fails(1, ["in.safetensors", "No such file"], "sweep", "c.toml", "-o", "out.h5")
        self.leaves("c.toml")

    def test_an_unset_variable_of_a_sweep(self):
        self.path("c.toml").write_text('[[input]]\nfile = "${FP4SCOPE_NOWHERE}/x.safetensors"\n[[quantize]]\n', encoding="utf-8")
        self.fails(1, "FP4SCOPE_NOWHERE", "sweep", "c.toml", "-o", "out.h5")
        self.leaves("c.toml")

    def test_a_folder_without_safetensors(self):
        self.path("model").mkdir()
        self.fails(1, ["model", ".safetensors"], "quantize", "model", "-o", "out.safetensors", "--format", "nvfp4")
        self.leaves("model")

    def test_a_folder_with_several_safetensors_and_no_index(self):
        self.path("model").mkdir()
        for name in "ab":
            write_safetensors(self.path(f"model/{name}.safetensors"), {"w": GOOD})
        self.fails(1, ["model", "2 "], "quantize", "model", "-o", "out.safetensors", "--format", "nvfp4")

    def test_an_index_with_a_missing_shard(self):
        self.path("model").mkdir()
        self.path("model/model.safetensors.index.json").write_text('{"weight_map": {"v": "one.safetensors", "w": "two.safetensors"}}', encoding="utf-8")
        write_safetensors(self.path("model/one.safetensors"), {"v": GOOD})
        for name in ("model", "model/model.safetensors.index.json"):
            self.fails(1, ["two.safetensors", "No such file"], "quantize", name, "-o", "out.safetensors", "--format", "nvfp4")
        self.leaves("model")

    def test_an_index_whose_shard_lacks_the_tensor_or_lies_elsewhere(self):
        self.path("model").mkdir()
        index = self.path("model/model.safetensors.index.json")
        write_safetensors(self.path("model/one.safetensors"), {"v": GOOD})
        write_safetensors(self.path("away.safetensors"), {"w": GOOD})
        for shard, needle in (("one.safetensors", "'w'"), ("../away.safetensors", "away.safetensors")):
            index.write_text(f'{{"weight_map": {{"w": "{shard}"}}}}', encoding="utf-8")
            self.fails(1, needle, "quantize", "model", "-o", "out.safetensors", "--format", "nvfp4")
        self.leaves("model", "away.safetensors")


def as_nobody():
    """Options of subprocess that drop root's rights."""
    return {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}


class Output(Case):
    """A file that can't be written, or not to its end."""

    def setUp(self):
        super().setUp()
        write_safetensors(self.path("in.safetensors"), {"w": floats([512, 1024], [0.5, -2.0] * 2**18)})
        self.path("c.toml").write_text('per_block = true\n[[input]]\ndistribution = "normal"\nrows = 2048\ncols = 2048\n[[quantize]]\n', encoding="utf-8")

    def writers(self, folder=""):
        return [["quantize", "in.safetensors", "-o", f"{folder}out.safetensors", "--format", "nvfp4", "--dequantize"],
                ["encode", "in.safetensors", "-o", f"{folder}out.safetensors", "--element", "bf16"],
                ["sweep", "c.toml", "-o", f"{folder}out.h5"]]

    def test_a_missing_folder(self):
        for words in self.writers("nowhere/"):
            self.fails(1, ["nowhere/out", "No such file or directory"], *words)
        self.leaves("c.toml", "in.safetensors")

    def test_a_folder_in_the_output_s_place_is_noticed_before_the_work(self):
        for name in ("out.safetensors", "out.h5"):
            self.path(name).mkdir()
        for words in self.writers():
            self.fails(1, ["out.", "folder"], *words)
        self.leaves("c.toml", "in.safetensors", "out.h5", "out.safetensors")

    def test_a_folder_without_the_right_to_write(self):
        self.folder.chmod(0o755)
        self.path("locked").mkdir(mode=0o555)
        try:
            if subprocess.run(harness.command("--version"), capture_output=True, check=False, **as_nobody()).returncode != 0:
                raise unittest.SkipTest("a user without rights can't run the program where it lies")
        except PermissionError:
            raise unittest.SkipTest("a user without rights can't run the program where it lies") from None
        for words in self.writers("locked/"):
            self.fails(1, ["locked/out", "Permission denied"], *words, **as_nobody())
        self.assertEqual(os.listdir(self.path("locked")), [])

    def test_a_file_without_the_right_to_write_is_kept(self):
        self.folder.chmod(0o777)
        self.path("out.safetensors").write_bytes(b"precious")
        self.path("out.safetensors").chmod(0o444)
        try:
            for words in self.writers()[:2]:
                self.fails(1, ["out.safetensors", "Permission denied"], *words, **as_nobody())
        except PermissionError:
            raise unittest.SkipTest("a user without rights can't run the program where it lies") from None
        self.assertEqual(self.path("out.safetensors").read_bytes(), b"precious")
        self.leaves("c.toml", "in.safetensors", "out.safetensors")

    def test_a_device_is_no_output(self):
        self.fails(1, ["/dev/null", "regular file"], "quantize", "in.safetensors", "-o", "/dev/null", "--format", "nvfp4")
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/null").st_mode))

    def test_a_failure_keeps_the_file_that_was_there(self):
        self.path("out.safetensors").write_bytes(b"precious")
        write_safetensors(self.path("in.safetensors"), {"w": floats([1, 16], [math.nan] * 16)})
        self.fails(1, "row 0, column 0", *QUANTIZE)
        self.assertEqual(self.path("out.safetensors").read_bytes(), b"precious")
        self.leaves("c.toml", "in.safetensors", "out.safetensors")

    def limited(self, ignore):
        """Files of at most 256 KiB, as `ulimit -f` does."""
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18))
            if ignore:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for words in self.writers():
            self.fails(1, ["out.", "File too large"], *words, preexec_fn=limit)
            shutil.rmtree(self.path("out.h5.partial"), ignore_errors=True)
        self.leaves("c.toml", "in.safetensors")

    def test_a_limit_on_file_sizes(self):
        self.limited(ignore=False)

    def test_a_limit_on_file_sizes_with_the_signal_ignored(self):
        self.limited(ignore=True)

    def test_a_full_disk(self):
        with tempfile.TemporaryDirectory(prefix="fp4scope-full-") as mount:
            script = 'mount -t tmpfs -o size=512k tmpfs "$1" && touch "$1/mounted" || exit 99; shift; cd "$1"; shift; "$@"; code=$?; ls -A "$0" >&3; exit $code'
            for words in self.writers(f"{mount}/"):
                reading, writing = os.pipe()
                shell = ["unshare", *([] if os.getuid() == 0 else ["-r"]), "-m", "sh", "-c", script.replace(">&3", f">&{writing}"), mount, mount, self.folder]
                try:
                    outcome = subprocess.run([*shell, *harness.command(*words)], capture_output=True, text=True, timeout=60, check=False, pass_fds=[writing])
                except FileNotFoundError:
                    raise unittest.SkipTest("there is no unshare") from None
                finally:
                    os.close(writing)
                with os.fdopen(reading) as listing:
                    left = listing.read().split()
                if "mounted" not in left:
                    raise unittest.SkipTest(f"no file system can be mounted: {outcome.stderr.strip()}")
                self.assertEqual(outcome.returncode, 1, outcome.stderr)
                self.check_line(outcome.stderr, [f"{mount}/out", "No space left on device"], told=outcome.stderr)
                allowed = {"mounted", "out.h5.partial"} if words[0] == "sweep" else {"mounted"}
                self.assertLessEqual(set(left), allowed)


class Interrupted(Case):
    """Ctrl-C: exit 130 and nothing left, for every verb that writes."""

    def test_quantize_encode_and_dequantize_leave_nothing(self):
        values = floats([4096, 4096], [0.5, -2.0] * 2**23)
        write_safetensors(self.path("in.safetensors"), {"w": values})
        self.succeeds(*QUANTIZE[:3], "q.safetensors", *QUANTIZE[4:])
        before = sorted(os.listdir(self.folder))
        for words in ([*QUANTIZE, "--scale", "exhaustive"], ENCODE, ["dequantize", "q.safetensors", "-o", "out.safetensors"]):
            child = subprocess.Popen(harness.command(*words), cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            while child.poll() is None and sorted(os.listdir(self.folder)) == before:
                time.sleep(0.002)  # until the temporary file is there
            child.send_signal(signal.SIGINT)
            stderr = child.communicate(timeout=60)[1]
            self.assertEqual(sorted(os.listdir(self.folder)), before, words[0])
            self.assertIn(child.returncode, (130, -signal.SIGINT), f"{words[0]}: {stderr}")  # a shell says 130 of both
