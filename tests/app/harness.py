"""What the tests of the program share: running it, safetensors files written and read here, its words checked."""
import json
import os
import shutil
import struct
import subprocess
import tempfile
import unittest
from pathlib import Path

PROGRAM = ""  # set by cli_test.py
ITEM_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4,
             "U16": 16, "I32": 32, "I64": 64, "BOOL": 8}


class Tensor:
    """A dtype, a shape and the raw bytes."""

    def __init__(self, dtype, shape, data):
        self.dtype, self.shape, self.data = dtype, list(shape), bytes(data)

    def __eq__(self, other):
        return (self.dtype, self.shape, self.data) == (other.dtype, other.shape, other.data)

    def __repr__(self):
        return f"{self.dtype} {self.shape} {self.data[:32].hex()}"

    def numbers(self):
        """The values: numbers for F32, F64, F16, U8 and U16, for BF16 the binary32 of the same value."""
        if self.dtype == "BF16":
            return [struct.unpack("<f", b"\0\0" + self.data[i:i + 2])[0] for i in range(0, len(self.data), 2)]
        letter = {"F32": "f", "F64": "d", "F16": "e", "U8": "B", "U16": "H"}[self.dtype]
        return list(struct.unpack(f"<{len(self.data) // struct.calcsize(letter)}{letter}", self.data))


def floats(shape, values, dtype="F32"):
    """A tensor of numbers; BF16 takes those that it holds exactly."""
    if dtype == "BF16":
        words = [struct.pack("<f", v) for v in values]
        assert all(word[:2] == b"\0\0" for word in words), "not a BF16 value"
        return Tensor(dtype, shape, b"".join(word[2:] for word in words))
    return Tensor(dtype, shape, struct.pack(f"<{len(values)}{ {'F32': 'f', 'F64': 'd', 'F16': 'e'}[dtype]}", *values))


def safetensors_bytes(tensors, metadata=None):
    header, offset = {}, 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, tensor in tensors.items():
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, offset + len(tensor.data)]}
        offset += len(tensor.data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(tensor.data for tensor in tensors.values())


def write_safetensors(path, tensors, metadata=None):
    Path(path).write_bytes(safetensors_bytes(tensors, metadata))


def read_safetensors(path):
    """({name: Tensor}, metadata); demands that tensors tile the data, which begins at a multiple of 8."""
    data = Path(path).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    metadata = header.pop("__metadata__", {})
    tensors, expected = {}, 0
    assert length % 8 == 0, "the data is not aligned"
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        count = 1
        for axis in entry["shape"]:
            count *= axis
        assert begin == expected and (end - begin) * 8 == count * ITEM_BITS[entry["dtype"]], f"{name}: {entry}"
        tensors[name] = Tensor(entry["dtype"], entry["shape"], data[8 + length + begin:8 + length + end])
        expected = end
    assert 8 + length + expected == len(data), "bytes that belong to no tensor"
    return tensors, metadata


def command(*words):
    return [PROGRAM, *map(str, words)]


def run(*words, **options):
    """The program's outcome: returncode, stdout, stderr (text)."""
    options.setdefault("timeout", 120)
    return subprocess.run(command(*words), capture_output=True, text=True, **options)


class Case(unittest.TestCase):
    """A test with a folder of its own, the working folder of the programs that it runs."""

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="fp4scope-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def path(self, name):
        return self.folder / name

    def run_here(self, *words, **options):
        options.setdefault("cwd", self.folder)
        return run(*words, **options)

    def succeeds(self, *words, **options):
        outcome = self.run_here(*words, **options)
        self.assertEqual(outcome.returncode, 0, f"{' '.join(map(str, words))}\n{outcome.stderr}")
        return outcome

    def fails(self, code, needles, *words, notices=0, **options):
        """Exit `code`, nothing on stdout, one line on stderr that holds every needle; before it `notices` other lines."""
        outcome = self.run_here(*words, **options)
        told = f"\n  {' '.join(map(str, words))}\n  stderr: {outcome.stderr!r}"
        self.assertEqual(outcome.returncode, code, told)
        self.assertEqual(outcome.stdout, "", told)
        self.check_line(outcome.stderr, needles, notices, told)
        return outcome

    def check_line(self, stderr, needles, notices=0, told=""):
        lines = stderr.splitlines()
        self.assertEqual(len(lines), 1 + notices, f"not one line: {told}")
        self.assertTrue(stderr.endswith("\n"), told)
        self.assertRegex(lines[-1], r"^fp4scope: \S", told)
        self.assertNotRegex(lines[-1], r"  |terminate|std::|basic_string|what\(\)", f"clumsy: {told}")
        for needle in [needles] if isinstance(needles, str) else needles:
            self.assertIn(needle, lines[-1], told)

    def leaves(self, *names):
        """The folder holds these files and no others: no temporary file, nothing under a final name."""
        self.assertEqual(sorted(os.listdir(self.folder)), sorted(names))
