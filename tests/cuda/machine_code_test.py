#!/usr/bin/env python3
"""Holds what nvcc makes of every cuda/*.cu to the promises about bits, by its PTX.

    machine_code_test.py BUILD_FOLDER     breaks each rule once in made-up kernels, then checks the build's sources
    machine_code_test.py --self-test NVCC the made-up kernels alone

1. No approximate division, reciprocal, root or transcendental function, and no flush of subnormals to zero.
2. No contraction. With -fmad=false every sum and product says how it rounds (add.rn.f32), and ptxas leaves it alone;
   without, it is a bare add.f32 that ptxas may fuse. There is no fused multiply-add but those written by hand.
3. Vendor conversions are used where the target has them: those of INSTRUCTIONS.
EXCUSED names the exceptions to the first two.

The build's own commands are used, with -ptx for one architecture instead of machine code; an IEEE division of machine
code holds a reciprocal estimate (MUFU.RCP), its PTX does not. Without nvcc the exit code is 77, skipped.
"""
import concurrent.futures
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ARCHITECTURE = "90a"

# (file, instruction, pattern of the demangled function, why it may). A row that excuses nothing is an offence too.
EXCUSED = [
    ("probes.cu", "rcp.approx.ftz.f32", r"probe_kernel", "what the probe records"),
    ("probes.cu", "lg2.approx.ftz.f32", r"probe_kernel", "what the probe records"),
    ("probes.cu", "div.full.f32", r"probe_kernel", "what the probe records"),
    ("probes.cu", "div.approx.f32", r"probe_kernel", "what the probe records"),
    ("hessian_filter.cu", "sqrt.approx.f32", r"filter_kernel", "the filter's bounds count its error"),
    ("hessian_filter.cu", "fma.rn.f32", r"filter_kernel", "the filter's bounds count its own roundings"),
    ("hessian_decide.cu", "fma.rn.f64", r"all_kernel", "the exact error of a product of doubles"),
    ("quantize_sse.cu", "fma.rn.f32", r"", "the filter's bounds count its own roundings"),
    ("quantize_sse.cu", "fma.rn.f16x2", r"", "the filter's bounds count its own roundings"),
    ("quantize_sse.cu", "fma.rn.f64", r"exact_code", "a level times a float is exact: fused or not, one rounding"),
    ("quantize_four_over_six.cu", "fma.rn.f32", r"choice_kernel", "the filter's bounds count its own roundings"),
    ("quantize_recipe.cu", "fma.rn.f32", r"", "exact sums of E2M1's grid, a filter's bounds, and TransformerEngine's own sum"),
    ("quantize_recipe_plain.cu", "fma.rn.f32", r"recipe_block", "TransformerEngine's error is a chain of them"),
]

NARROW = ["cvt.rn.satfinite.e2m1x2.f32", "cvt.rn.satfinite.e2m3x2.f32", "cvt.rn.satfinite.e3m2x2.f32",
          "cvt.rp.satfinite.ue8m0x2.f32", "cvt.rz.satfinite.ue8m0x2.f32"]
FP8 = ["cvt.rn.satfinite.e4m3x2.f32", "cvt.rn.satfinite.e5m2x2.f32"]
INSTRUCTIONS = [("90a", "encode_values.cu", FP8), ("100a", "encode_values.cu", FP8 + NARROW),
                ("120a", "encode_values.cu", FP8 + NARROW)]

APPROXIMATE = re.compile(r"\b(?:div\.(?:full|approx)|(?:rcp|r?sqrt)\.approx|ex2|lg2|sin|cos|tanh)\.[\w.]+|\b\w[\w.]*\.ftz\b[\w.]*")
BARE = re.compile(r"\b(?:add|sub|mul)(?:\.sat)?\.(?:f32|f64|f16|bf16)(?:x2)?\b|\bmad\.(?:f32|f64)\b")
FUSED = re.compile(r"\b(?:fma|mad\.r[nzmp])\.[\w.]+")


def kernels(ptx):
    """(name, body) of each function of a PTX text, demangled."""
    found = [(m.group(1), m.start()) for m in re.finditer(r"^\s*(?:\.\w+ )*\.(?:entry|func)\s+(?:\([^)]*\)\s*)?([\w$]+)", ptx, re.M)]
    names = subprocess.run(["c++filt"], input="\n".join(n for n, _ in found), capture_output=True, text=True, check=True)
    ends = [start for _, start in found[1:]] + [len(ptx)]
    return [(name, ptx[start:end]) for name, (_, start), end in zip(names.stdout.splitlines(), found, ends)]


def code_of(body):
    """A body's lines without comments."""
    return re.sub(r"//[^\n]*", "", body)


def offences(file, ptx, excused=()):
    """One line for each broken rule of a file's PTX that no row excuses, and for each row that excuses nothing."""
    found, unused = [], {row for row in excused if row[0] == file}
    for name, body in kernels(ptx):
        code = code_of(body)
        for rule, pattern in (("approximate", APPROXIMATE), ("may be contracted", BARE), ("fused", FUSED)):
            for instruction in sorted(set(pattern.findall(code))):
                rows = {row for row in excused if row[:2] == (file, instruction) and re.search(row[2], name)}
                unused -= rows
                if not rows:
                    found.append(f"{file}: {name}: {instruction}: {rule}")
    return found + [f"{file}: {instruction} in {kernel or 'any function'}: excused, and not there"
                    for _, instruction, kernel, _ in sorted(unused)]


def missing(file, ptx, instructions):
    """A line for each instruction that no kernel has, and one unless as many kernels as there are instructions convert."""
    code = code_of(ptx)
    found = [f"{file}: no {i}" for i in instructions if not re.search(rf"\b{re.escape(i)}\b", code)]
    converting = [name for name, body in kernels(ptx) if ".satfinite." in code_of(body)]
    if not found and len(converting) != len(instructions):
        found.append(f"{file}: {len(converting)} kernels convert by an instruction, not {len(instructions)}")
    return found


def compile_ptx(command, folder, architecture, flags=()):
    """The PTX of a compiler command for one architecture."""
    words = [w for w in command if w != "-c" and not w.startswith(("--generate-code", "-arch"))]
    if "-o" in words:
        del words[words.index("-o"):words.index("-o") + 2]
    with tempfile.TemporaryDirectory() as made:
        out = Path(made, "out.ptx")
        subprocess.run([*words, *flags, f"-arch=sm_{architecture}", "-ptx", "-o", str(out)], cwd=folder, check=True)
        return out.read_text(encoding="utf-8")


def compile_text(nvcc, text, flags):
    with tempfile.TemporaryDirectory() as made:
        source = Path(made, "made_up.cu")
        source.write_text(text, encoding="utf-8")
        return compile_ptx([nvcc, "-std=c++20", "-O3", str(source)], made, ARCHITECTURE, flags)


KERNEL = "__global__ void kernel(float* x, double* y) {{ {} }}"
MADE_UP = [  # (body, flags, what the offence says; none: clean)
    ("x[0] = x[1] * x[2] + x[3] / x[4]; y[0] = y[1] * y[2] - sqrt(y[3]);", ["-fmad=false"], ""),
    ("x[0] = x[1] / x[2];", ["-fmad=false", "-use_fast_math"], "div.approx"),
    ("x[0] = __fdividef(x[1], x[2]);", ["-fmad=false"], "div.approx"),
    ("x[0] = x[1] / x[2];", ["-fmad=false", "-prec-div=false"], "div.full"),
    ("x[0] = rsqrtf(x[1]) + __expf(x[2]);", ["-fmad=false"], "ex2.approx"),
    ("x[0] = x[1] + x[2];", ["-fmad=false", "-ftz=true"], ".ftz"),
    ("x[0] = x[1] * x[2] + x[3];", [], "fma.rn.f32"),
    ("x[0] = x[1] + x[2]; x[3] = x[4] * x[5];", [], "may be contracted"),
    ("y[0] = fma(y[1], y[2], y[3]);", ["-fmad=false"], "fma.rn.f64"),
]


def self_test(nvcc):
    """Each rule, broken once and kept once."""
    failed = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = pool.map(lambda case: compile_text(nvcc, KERNEL.format(case[0]), case[1]), MADE_UP)
        for (body, flags, says), ptx in zip(MADE_UP, texts):
            found = offences("made_up.cu", ptx)
            if any(says in line for line in found) if says else not found:
                continue
            failed.append(f"{body} with {flags}: {found}, expected {says or 'nothing'}")
    converting = ".visible .entry a() { cvt.rn.satfinite.e4m3x2.f32 }\n.visible .entry b() { cvt.rn.satfinite.e5m2x2.f32 }"
    if missing("made_up.cu", converting, FP8) or not missing("made_up.cu", converting.replace("e5m2", "e4m3"), FP8):
        failed.append("a missing instruction is not seen")
    fused, row = ".visible .entry a() { fma.rn.f32 }", ("made_up.cu", "fma.rn.f32", "a", "")
    if offences("made_up.cu", fused, [row]) or len(offences("made_up.cu", fused, [(*row[:2], "b", "")])) != 2:
        failed.append("a row excuses what it does not name, or is not seen to excuse nothing")
    print("\n".join(failed) or f"{len(MADE_UP)} made-up kernels judged rightly")
    return not failed


def commands(build):
    """file name -> (words, folder) of the build's cuda/*.cu."""
    database = Path(build, "compile_commands.json")
    entries = json.loads(database.read_text(encoding="utf-8")) if database.exists() else []
    return {Path(e["file"]).name: (shlex.split(e["command"]), e["directory"]) for e in entries
            if e["file"].endswith(".cu") and Path(e["file"]).parent.name == "cuda"
            and Path(e["file"]).parent.parent.name != "tests"}


def check_build(build):
    found = commands(build)
    if not found:
        print(f"{build}: no nvcc commands: skipped")
        return 77
    nvcc = next(w for words, _ in found.values() for w in words if Path(w).name == "nvcc")
    if not self_test(nvcc):
        return 1
    wanted = {(file, ARCHITECTURE): [] for file in found}
    wanted.update({(file, architecture): instructions for architecture, file, instructions in INSTRUCTIONS})
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = {at: pool.submit(compile_ptx, *found[at[0]], at[1]) for at in wanted}
    bad = []
    for (file, architecture), instructions in wanted.items():
        ptx = texts[file, architecture].result()
        lines = offences(file, ptx, EXCUSED) + (missing(file, ptx, instructions) if instructions else [])
        print(f"{file} for sm_{architecture}: {len(kernels(ptx))} functions, {len(lines)} rules broken")
        bad += [f"sm_{architecture}: {line}" for line in lines]
    print("\n".join(bad) or "no approximation, no contraction, and every conversion by its instruction")
    return 1 if bad else 0


def main(words):
    if len(words) == 2 and words[0] == "--self-test":
        return 0 if self_test(words[1]) else 1
    if len(words) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    return check_build(words[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
