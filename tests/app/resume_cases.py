"""A sweep that is killed, interrupted, resumed and finished ends with the bytes of one that ran through."""
import os
import random
import signal
import subprocess
import sys
import time

import harness
from harness import write_safetensors
from sweep_cases import H5_PYTHON, SweepCase, has_h5py, sample

LONG = """
per_block = true

[[input]]
distribution = "normal"
rows = 64
cols = 512

[[input]]
distribution = "student_t"
rows = 60
cols = 500

[activations]
tokens = 64

[[quantize]]
formats = ["nvfp4", "mxfp4"]
blocks = [16, 32]
methods = ["naive", "sse", "exhaustive", "hessian"]
"""
COUNT = 32  # results of LONG

FROM_FILE = """
[[input]]
file = "m.safetensors"
[activations]
file = "x.safetensors"
[[quantize]]
formats = ["nvfp4"]
blocks = [16, 32]
methods = ["naive", "exhaustive", "hessian"]
"""


class ResumeCase(SweepCase):
    """Sweeps started, watched and stopped."""

    references = {}  # bytes and seconds of a run without a stop, by configuration

    def start(self, *words, name="out.h5", config="c.toml"):
        return subprocess.Popen(harness.command("sweep", config, "-o", name, *words), cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def records(self, name="out.h5"):
        try:
            return sorted(file for file in os.listdir(self.path(name + ".partial")) if file.endswith(".record"))
        except FileNotFoundError:
            return []

    def stop_at(self, count, number, *words, name="out.h5"):
        """Sends the signal once there are `count` results; (exit code, stdout, stderr)."""
        child = self.start(*words, name=name)
        while child.poll() is None and len(self.records(name)) < count:
            time.sleep(0.001)
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
        return child.returncode, out, err

    def reference(self):
        """The bytes of a run without a stop, and its seconds."""
        text = self.path("c.toml").read_text(encoding="utf-8")
        if text not in self.references:
            start = time.monotonic()
            self.succeeds("sweep", "c.toml", "-o", "whole.h5")
            self.references[text] = self.h5("whole.h5"), time.monotonic() - start
        return self.references[text]

    def resumed(self, expected, name="out.h5"):
        self.succeeds("sweep", "c.toml", "-o", name, "--resume")
        self.assertTrue(self.h5(name) == expected, "not the bytes of a run without a stop")
        self.assertFalse(self.path(name + ".partial").exists())

    def complete(self, name="out.h5"):
        """The attribute `complete` and the number of rows, read by h5py; None without it."""
        if not has_h5py():
            return None
        script = "import h5py, sys; f = h5py.File(sys.argv[1]); print(int(f.attrs['complete']), len(f['table/run']))"
        text = subprocess.run([H5_PYTHON, "-c", script, str(self.path(name))], capture_output=True, text=True, check=True).stdout
        return tuple(int(word) for word in text.split())


class Kill(ResumeCase):
    """kill -9."""

    def test_kills_at_random_moments_then_resume(self):
        seed = int(os.environ.get("FP4SCOPE_SEED", random.SystemRandom().randrange(10**9)))
        print(f"kills at random moments: FP4SCOPE_SEED={seed}", file=sys.stderr)
        rng = random.Random(seed)
        self.write(LONG)
        expected, seconds = self.reference()
        kills = 0
        for number in range(5):
            name = f"{number}.h5"
            for attempt in range(4):
                child = self.start(*(["--resume"] if attempt else []), name=name)
                try:
                    child.communicate(timeout=rng.uniform(0, seconds / 2))
                    self.assertEqual(child.returncode, 0)
                    break
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.communicate()
                    kills += child.returncode == -signal.SIGKILL
                self.assertTrue(not self.path(name).exists() or self.h5(name) == expected, "OUT.h5 is neither whole nor absent")
            self.resumed(expected, name)
        self.assertGreater(kills, 2)

    def test_a_kill_while_the_file_is_assembled(self):
        self.write(LONG)
        expected, _ = self.reference()
        for pause in (0, 0.002, 0.005, 0.01):
            child = self.start()
            while child.poll() is None and len(self.records()) < COUNT:
                time.sleep(0.0005)
            time.sleep(pause)
            child.kill()
            child.communicate()
            self.assertTrue(not self.path("out.h5").exists() or self.h5() == expected, "OUT.h5 is neither whole nor absent")
            self.resumed(expected)
            self.path("out.h5").unlink()

    def test_finish_assembles_what_is_there_and_resume_goes_on(self):
        self.write(LONG)
        expected, _ = self.reference()
        self.stop_at(3, signal.SIGKILL)
        self.assertFalse(self.path("out.h5").exists())
        count = len(self.records())
        outcome = self.succeeds("sweep", "-o", "out.h5", "--finish")
        self.assertIn(f"{count} of {COUNT} results", outcome.stderr)
        self.assertEqual(len(outcome.stdout.splitlines()), 1 + count)
        self.assertIn(self.complete(), (None, (0, count)))
        self.assertEqual(len(self.records()), count)
        self.resumed(expected)
        self.assertIn(self.complete(), (None, (1, COUNT)))

    def test_a_torn_record_is_computed_again(self):
        self.write(LONG)
        expected, _ = self.reference()
        self.stop_at(4, signal.SIGKILL)
        first, second = (self.path("out.h5.partial") / name for name in self.records()[:2])
        first.write_bytes(first.read_bytes()[:100])
        second.write_bytes(b"")
        self.resumed(expected)

    def test_finish_leaves_a_torn_record_out(self):
        self.write(LONG)
        self.stop_at(4, signal.SIGKILL)
        names = self.records()
        path = self.path("out.h5.partial") / names[0]
        path.write_bytes(path.read_bytes()[:100])
        self.succeeds("sweep", "-o", "out.h5", "--finish")
        self.assertIn(self.complete(), (None, (0, len(names) - 1)))

    def test_finish_without_anything_says_so(self):
        self.fails(1, ["out.h5.partial", "no unfinished sweep"], "sweep", "-o", "out.h5", "--finish")
        self.leaves()


class Interrupt(ResumeCase):
    """Ctrl-C and SIGTERM."""

    def test_ctrl_c_leaves_a_file_of_what_is_done_and_resume_completes_it(self):
        self.write(LONG)
        expected, _ = self.reference()
        for count, number in ((2, signal.SIGINT), (7, signal.SIGTERM)):
            code, out, err = self.stop_at(count, number)
            self.assertEqual(code, 130, err)
            done = len(self.records())
            self.assertTrue(count <= done < COUNT)
            self.check_line(err.splitlines()[-1] + "\n", [f"interrupted: {done} of {COUNT} results in out.h5", "--resume"])
            self.assertEqual(len(out.splitlines()), 1 + done)
            self.assertIn(self.complete(), (None, (0, done)))
            self.resumed(expected)
            self.assertIn(self.complete(), (None, (1, COUNT)))

    def test_ctrl_c_several_times(self):
        self.write(LONG)
        expected, _ = self.reference()
        for count in (2, 5, 9):
            code, _, err = self.stop_at(count, signal.SIGINT, *(["--resume"] if count > 2 else []))
            self.assertEqual(code, 130, err)
        self.resumed(expected)

    def test_ctrl_c_is_answered_soon(self):
        self.write('[[input]]\ndistribution = "normal"\nrows = 4096\ncols = 4096\n[[quantize]]\nmethods = ["exhaustive"]\n')
        child = self.start()
        time.sleep(1.5)
        child.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, err = child.communicate(timeout=60)
        self.assertEqual(child.returncode, 130, err)
        self.assertLess(time.monotonic() - start, 4)


class Refused(ResumeCase):
    """Two different pieces of work are never mixed."""

    def from_file(self):
        write_safetensors(self.path("m.safetensors"), {"v": sample([128, 512], 1), "w": sample([128, 512], 2)})
        write_safetensors(self.path("x.safetensors"), {"x": sample([64, 512], 3)})
        self.write(FROM_FILE)

    def test_a_partial_folder_is_not_run_over_without_resume(self):
        self.write(LONG)
        expected, _ = self.reference()
        self.stop_at(2, signal.SIGKILL)
        before = self.records()
        self.fails(1, ["out.h5.partial", "--resume", "--finish"], "sweep", "c.toml", "-o", "out.h5")
        self.assertEqual(self.records(), before)
        self.resumed(expected)

    def test_resume_with_another_configuration(self):
        self.write(LONG)
        expected, _ = self.reference()
        self.stop_at(2, signal.SIGKILL)
        self.write(LONG.replace("rows = 60", "rows = 61"))
        self.fails(1, ["out.h5.partial", "configuration"], "sweep", "c.toml", "-o", "out.h5", "--resume")
        self.write("# the same in other words\n" + LONG)
        self.resumed(expected)

    def test_resume_after_an_input_file_has_changed(self):
        self.from_file()
        expected, _ = self.reference()
        self.stop_at(1, signal.SIGKILL)
        kept = self.path("m.safetensors").rename(self.path("kept"))
        write_safetensors(self.path("m.safetensors"), {"v": sample([128, 512], 1), "w": sample([128, 512], 9)})
        self.fails(1, ["out.h5.partial", "changed"], "sweep", "c.toml", "-o", "out.h5", "--resume")
        kept.rename(self.path("m.safetensors"))
        self.resumed(expected)

    def test_resume_after_the_activations_have_changed(self):
        self.from_file()
        self.stop_at(1, signal.SIGKILL)
        write_safetensors(self.path("x.safetensors"), {"x": sample([64, 512], 9)})
        self.fails(1, ["out.h5.partial", "changed"], "sweep", "c.toml", "-o", "out.h5", "--resume")

    def test_resume_by_another_path_to_the_same_files(self):
        self.from_file()
        expected, _ = self.reference()
        for config in ("./c.toml", str(self.path("c.toml"))):
            self.stop_at(1, signal.SIGKILL)
            self.succeeds("sweep", config, "-o", "out.h5", "--resume")
            self.assertTrue(self.h5() == expected)

    def test_resume_without_anything_to_resume_just_runs(self):
        self.write('[[input]]\ndistribution = "normal"\nrows = 8\ncols = 32\n[[quantize]]\n')
        expected, _ = self.reference()
        self.resumed(expected)

    def test_somebody_else_s_file_in_the_partial_folder_stays(self):
        self.write(LONG)
        expected, _ = self.reference()
        self.stop_at(2, signal.SIGKILL)
        (self.path("out.h5.partial") / "notes of mine").write_text("keep", encoding="utf-8")
        self.succeeds("sweep", "c.toml", "-o", "out.h5", "--resume")
        self.assertTrue(self.h5() == expected)
        self.assertEqual(os.listdir(self.path("out.h5.partial")), ["notes of mine"])
