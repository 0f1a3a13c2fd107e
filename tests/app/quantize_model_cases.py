"""quantize --as: a model's folder to a checkpoint, against fractions; its configuration; what survives a kill."""
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import harness
import reference
from harness import Case, Tensor, floats, read_safetensors, write_safetensors

HIDDEN, INNER, LAYERS = 32, 64, 2
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
CONFIG = '{\n  "architectures": ["LlamaForCausalLM"],\n  "rms_norm_eps": 1e-05,\n  "zebra": 1,\n  "alpha": {"b": 1.0, "a": null},\n  "torch_dtype": "bfloat16"\n}\n'


def float32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def reciprocal(x):
    """RNE32(1 / x) in fractions."""
    return reference.to_float32(1 / Fraction(x))


def neighbours(s, reach):
    bits = struct.unpack("<I", struct.pack("<f", s))[0]
    return [struct.unpack("<f", struct.pack("<I", bits + step))[0] for step in range(-reach, reach + 1)]


def best_encode_scale(d):
    """S near 1 / d whose RNE32(1 / S) is closest to d; of several the one nearest to RNE32(1 / d)."""
    nearest = float(reciprocal(d))
    return min(neighbours(nearest, 64), key=lambda s: (abs(reciprocal(s) - d), abs(s - nearest)))


def bfloat(rng, spread):
    """A BF16 number."""
    bits = struct.unpack("<I", struct.pack("<f", rng.gauss(0, spread)))[0] & 0xFFFF0000
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def matrix(rng, rows, cols, spread=0.02):
    return floats([rows, cols], [bfloat(rng, spread) for _ in range(rows * cols)], "BF16")


def rows_of(tensor):
    values, cols = tensor.numbers(), tensor.shape[-1]
    return [values[i:i + cols] for i in range(0, len(values), cols)]


def model(seed=1):
    """{shard: {name: Tensor}} of a small transformer: fused weights have unlike amax, and one group lies in two shards."""
    rng = random.Random(seed)
    first, second = {}, {}
    first["model.embed_tokens.weight"] = matrix(rng, 40, HIDDEN)
    for layer in range(LAYERS):
        shard = first if layer == 0 else second
        prefix = f"model.layers.{layer}."
        for i, name in enumerate(ATTENTION):
            (second if layer == 0 and name == "v_proj" else shard)[f"{prefix}self_attn.{name}.weight"] = matrix(rng, HIDDEN, HIDDEN, 0.02 * (i + 1))
        shard[prefix + "self_attn.o_proj.weight"] = matrix(rng, HIDDEN, HIDDEN)
        shard[prefix + "self_attn.q_proj.bias"] = matrix(rng, 1, HIDDEN)
        shard[prefix + "self_attn.q_proj.bias"].shape = [HIDDEN]
        for name in MLP:
            shard[f"{prefix}mlp.{name}.weight"] = matrix(rng, INNER, HIDDEN)
        shard[prefix + "mlp.down_proj.weight"] = matrix(rng, HIDDEN, INNER)
        shard[prefix + "mlp.gate.weight"] = matrix(rng, 4, HIDDEN)
        shard[prefix + "input_layernorm.weight"] = floats([HIDDEN], [1.0] * HIDDEN)
    second["lm_head.weight"] = matrix(rng, 40, HIDDEN)
    return {"model-00001-of-00002.safetensors": first, "model-00002-of-00002.safetensors": second}


class ModelCase(Case):
    """A folder `m` with a model."""

    def setUp(self):
        super().setUp()
        self.shards = model()
        self.write_model("m", self.shards)

    def write_model(self, folder, shards, config=CONFIG):
        path = self.path(folder)
        path.mkdir()
        weight_map = {}
        for file, tensors in shards.items():
            write_safetensors(path / file, tensors, {"format": "pt"})
            weight_map.update({name: file for name in tensors})
        if len(shards) > 1:
            (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
        if config is not None:
            (path / "config.json").write_text(config)
        (path / "tokenizer.json").write_bytes(b"\x00\xfftok" * 1000)
        (path / "generation_config.json").write_text("{}")
        (path / "pytorch_model.bin").write_bytes(b"old")
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling" / "config.json").write_text('{"x": 1}')
        (path / ".cache").mkdir()
        (path / ".cache" / "junk").write_text("junk")

    def everything(self):
        return {name: tensor for tensors in self.shards.values() for name, tensor in tensors.items()}

    def shard_of(self, name):
        return next(file for file, tensors in self.shards.items() if name in tensors)

    def weights(self):
        return [name for name in self.everything() if name.endswith("proj.weight")]

    def quantize(self, *words, out="out", layout="compressed-tensors"):
        return self.succeeds("quantize", "m", "-o", out, "--as", layout, *words)

    def read(self, folder):
        """({name: Tensor}, {name: shard}) after checking the index against the shards."""
        index = json.loads((self.path(folder) / "model.safetensors.index.json").read_text())
        tensors, shard_of = {}, {}
        for file in sorted(p.name for p in self.path(folder).iterdir() if p.name.endswith(".safetensors")):
            content, metadata = read_safetensors(self.path(folder) / file)
            self.assertEqual(metadata["format"], "pt")
            tensors.update(content)
            shard_of.update({name: file for name in content})
        self.assertEqual(index["weight_map"], shard_of)
        self.assertEqual(index["metadata"]["total_size"], sum(len(t.data) for t in tensors.values()))
        return tensors, shard_of

    def bytes_of(self, folder):
        root = self.path(folder)
        return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}

    def group(self, name):
        """The weights that a loader fuses with this one."""
        prefix, leaf = name.removesuffix(".weight").rsplit(".", 1)
        for names in (ATTENTION, MLP):
            if leaf in names:
                return [f"{prefix}.{other}.weight" for other in names]
        return [name]

    def joint_scale(self, names, scale_max=448):
        amax = max(abs(Fraction(x)) for name in names for x in self.everything()[name].numbers())
        return reference.tensor_scale("nvfp4", amax, scale_max)

    def check_weight(self, name, codes, scales, scaling, form="nvfp4"):
        """Codes and scales are naive's at that tensor scale, in fractions."""
        rows = rows_of(self.everything()[name])
        block = reference.BLOCK[form]
        expected_codes, expected_scales, _ = reference.quantize(form, rows, block, scaling)
        self.assertEqual(codes.dtype, "U8")
        self.assertEqual(codes.shape, [len(rows), len(rows[0]) // 2])
        self.assertEqual(scales.shape, [len(rows), len(rows[0]) // block])
        got = list(scales.data)
        for at, expected in enumerate(byte for row in expected_scales for byte in row):
            self.assertEqual(got[at], expected, f"{name}: block {at}: scale {got[at]:#04x} against {expected:#04x}")
        unpacked = reference.unpack(codes.data, len(rows[0]))
        for r, row in enumerate(expected_codes):
            for c, expected in enumerate(row):
                self.assertEqual(unpacked[r][c], expected, f"{name}[{r}, {c}] = {rows[r][c]}: code {unpacked[r][c]:#x} against {expected:#x}")

    def check_left(self, tensors, quantized):
        for name, tensor in self.everything().items():
            if name not in quantized:
                self.assertEqual(tensors[name], tensor, name)

    def check_other_files(self, folder, *more):
        names = {str(p.relative_to(self.path(folder))) for p in self.path(folder).rglob("*") if p.is_file()}
        self.assertEqual(names, {*self.shards, "model.safetensors.index.json", "config.json", "tokenizer.json", "generation_config.json", "1_Pooling/config.json", *more})
        for name in ("tokenizer.json", "generation_config.json", "1_Pooling/config.json"):
            self.assertEqual((self.path(folder) / name).read_bytes(), (self.path("m") / name).read_bytes(), name)
            self.assertEqual((self.path(folder) / name).stat().st_nlink, 1)


class CompressedTensors(ModelCase):
    def test_nvfp4_tensors_are_those_of_the_layout_and_their_scale_decodes_as_optimised(self):
        self.quantize("--format", "nvfp4")
        tensors, shard_of = self.read("out")
        for name in self.weights():
            self.assertEqual(shard_of[name + "_packed"], self.shard_of(name))
            stored = tensors[name + "_global_scale"]
            self.assertEqual((stored.dtype, stored.shape), ("F32", [1]))
            self.assertEqual(tensors[name + "_scale"].dtype, "F8_E4M3")
            s = stored.numbers()[0]
            self.assertEqual(s, best_encode_scale(self.joint_scale(self.group(name))), name)
            self.check_weight(name, tensors[name + "_packed"], tensors[name + "_scale"], reciprocal(s))
            self.assertNotIn(name, tensors)
        self.check_left(tensors, self.weights())
        self.assertEqual(len(tensors), 3 * len(self.weights()) + len(self.everything()) - len(self.weights()))
        self.check_other_files("out")

    def test_config_has_the_scheme_the_left_modules_and_every_old_key_in_order(self):
        self.quantize()
        text = (self.path("out") / "config.json").read_text()
        config = json.loads(text)
        self.assertEqual(list(config), [*json.loads(CONFIG), "quantization_config"])
        self.assertEqual({k: v for k, v in config.items() if k != "quantization_config"}, json.loads(CONFIG))
        self.assertEqual(list(config["alpha"]), ["b", "a"])
        said = config["quantization_config"]
        self.assertEqual(said["quant_method"], "compressed-tensors")
        self.assertEqual(said["format"], "nvfp4-pack-quantized")
        self.assertEqual(said["quantization_status"], "compressed")
        self.assertEqual(said["ignore"], ["lm_head", "model.layers.0.mlp.gate", "model.layers.1.mlp.gate"])
        self.assertEqual(list(said["config_groups"]), ["group_0"])
        group = said["config_groups"]["group_0"]
        self.assertEqual(group["targets"], ["Linear"])
        self.assertIsNone(group["input_activations"])
        self.assertEqual(group["format"], "nvfp4-pack-quantized")
        expected = {"num_bits": 4, "type": "float", "symmetric": True, "group_size": 16, "strategy": "tensor_group", "dynamic": False, "scale_dtype": "torch.float8_e4m3fn", "actorder": None, "block_structure": None, "zp_dtype": None}
        self.assertEqual(group["weights"], expected)

    def test_mxfp4_has_bytes_of_exponents_and_no_tensor_scale(self):
        self.quantize("--format", "mxfp4")
        tensors, _ = self.read("out")
        for name in self.weights():
            self.assertEqual(tensors[name + "_scale"].dtype, "U8")
            self.check_weight(name, tensors[name + "_packed"], tensors[name + "_scale"], Fraction(1), "mxfp4")
            self.assertNotIn(name + "_global_scale", tensors)
        said = json.loads((self.path("out") / "config.json").read_text())["quantization_config"]
        weights = said["config_groups"]["group_0"]["weights"]
        self.assertEqual((said["format"], weights["strategy"], weights["group_size"], weights["scale_dtype"]), ("mxfp4-pack-quantized", "group", 32, "torch.uint8"))

    def test_low_rank_attention_is_fused_and_the_gate_of_a_shared_expert_is_left(self):
        rng = random.Random(9)
        low, gate = "model.layers.0.self_attn.{}.weight", "model.layers.0.mlp.shared_expert_gate.weight"
        names = [low.format("q_a_proj"), low.format("kv_a_proj_with_mqa")]
        self.shards = {"model.safetensors": {names[0]: matrix(rng, 8, 32), names[1]: matrix(rng, 8, 32, 0.08), gate: matrix(rng, 1, 32)}}
        self.write_model("moe", self.shards)
        self.succeeds("quantize", "moe", "-o", "out", "--as", "modelopt")
        tensors, _ = self.read("out")
        for name in names:
            self.assertEqual(Fraction(tensors[name + "_scale_2"].numbers()[0]), self.joint_scale(names), name)
        self.assertEqual(tensors[gate], self.everything()[gate])

    def test_no_fuse_gives_each_weight_the_scale_of_its_own_amax(self):
        self.quantize("--no-fuse")
        tensors, _ = self.read("out")
        for name in self.weights():
            self.assertEqual(tensors[name + "_global_scale"].numbers()[0], best_encode_scale(self.joint_scale([name])), name)

    def test_the_table_of_a_weight_of_zeros_has_no_nan(self):
        zeros = floats([2, 32], [0.0] * 64, "BF16")
        self.write_model("z", {"model.safetensors": {"a.weight": zeros}})
        self.assertNotIn("nan", self.succeeds("quantize", "z", "-o", "out", "--as", "compressed-tensors").stdout)

    def test_every_stored_scale_is_a_positive_number(self):
        zeros = self.shards["model-00001-of-00002.safetensors"]["model.layers.0.self_attn.o_proj.weight"]
        zeros.data = bytes(len(zeros.data))
        self.write_model("z", self.shards)
        self.succeeds("quantize", "z", "-o", "out", "--as", "compressed-tensors", "--scale", "sse")
        tensors, _ = self.read("out")
        for name in self.weights():
            self.assertLess(max(tensors[name + "_scale"].data), 0x7F)
            self.assertTrue(0 < tensors[name + "_global_scale"].numbers()[0] < float("inf"))
        self.assertEqual(set(tensors["model.layers.0.self_attn.o_proj.weight_packed"].data), {0})
        self.assertEqual(tensors["model.layers.0.self_attn.o_proj.weight_global_scale"].numbers(), [1.0])

    def test_sse_at_the_scale_that_the_loader_takes_is_that_of_the_plain_quantize(self):
        name = "model.layers.1.mlp.down_proj.weight"
        self.quantize("--scale", "sse")
        tensors, _ = self.read("out")
        d = float(reciprocal(tensors[name + "_global_scale"].numbers()[0]))
        self.succeeds("quantize", "m", "-o", "plain.safetensors", "--format", "nvfp4", "--scale", "sse", "--tensor", name, "--tensor-scale", repr(d))
        plain, _ = read_safetensors(self.path("plain.safetensors"))
        self.assertEqual(plain[name + ".tensor_scale"].numbers(), [d])
        self.assertEqual(tensors[name + "_packed"].data, plain[name + ".codes"].data)
        self.assertEqual(tensors[name + "_scale"].data, plain[name + ".scales"].data)

    def test_a_searched_tensor_scale_is_that_of_the_groups_rows_together(self):
        self.quantize("--tensor-scale", "headroom")
        tensors, _ = self.read("out")
        names = self.group("model.layers.1.mlp.up_proj.weight")
        together = [self.everything()[name] for name in names]
        write_safetensors(self.path("both.safetensors"), {"w": Tensor("BF16", [2 * INNER, HIDDEN], b"".join(t.data for t in together))})
        self.succeeds("quantize", "both.safetensors", "-o", "plain.safetensors", "--format", "nvfp4", "--tensor-scale", "headroom")
        d = read_safetensors(self.path("plain.safetensors"))[0]["w.tensor_scale"].numbers()[0]
        for name in names:
            self.assertEqual(tensors[name + "_global_scale"].numbers()[0], best_encode_scale(Fraction(d)))


class ModelOpt(ModelCase):
    def test_tensors_are_those_of_the_layout(self):
        self.quantize(layout="modelopt")
        tensors, shard_of = self.read("out")
        for name in self.weights():
            self.assertEqual(shard_of[name], self.shard_of(name))
            stored = tensors[name + "_scale_2"]
            self.assertEqual((stored.dtype, stored.shape), ("F32", []))
            self.assertEqual(tensors[name + "_scale"].dtype, "F8_E4M3")
            d = self.joint_scale(self.group(name))
            self.assertEqual(Fraction(stored.numbers()[0]), d, name)
            self.check_weight(name, tensors[name], tensors[name + "_scale"], d)
        self.check_left(tensors, self.weights())
        self.check_other_files("out", "hf_quant_config.json")

    def test_both_configurations(self):
        self.quantize("--exclude", "*.1.*o_proj*", layout="modelopt")
        left = ["lm_head", "model.layers.0.mlp.gate", "model.layers.1.mlp.gate", "model.layers.1.self_attn.o_proj"]
        said = json.loads((self.path("out") / "hf_quant_config.json").read_text())
        self.assertEqual(said["producer"]["name"], "modelopt")
        self.assertIn("fp4scope", said["producer"]["version"])
        self.assertEqual(said["quantization"], {"quant_algo": "W4A16_NVFP4", "kv_cache_quant_algo": None, "group_size": 16, "exclude_modules": left})
        config = json.loads((self.path("out") / "config.json").read_text())["quantization_config"]
        self.assertEqual((config["quant_method"], config["quant_algo"], config["ignore"]), ("modelopt", "W4A16_NVFP4", left))
        self.assertEqual(config["config_groups"]["group_0"], {"weights": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}, "targets": ["Linear"]})

    def test_one_file_without_an_index_is_a_model_too(self):
        tensors = self.everything()
        self.write_model("one", {"model.safetensors": tensors})
        self.succeeds("quantize", "one", "-o", "out", "--as", "modelopt")
        index = json.loads((self.path("out") / "model.safetensors.index.json").read_text())
        self.assertEqual(set(index["weight_map"].values()), {"model.safetensors"})
        self.quantize(layout="modelopt", out="two")
        self.assertEqual(self.read("out")[0], self.read("two")[0])


class Fake(ModelCase):
    def test_every_name_dtype_shape_and_shard_stays_and_values_are_the_decoded_ones(self):
        self.quantize("--format", "nvfp4", layout="fake")
        tensors, shard_of = self.read("out")
        self.assertEqual(shard_of, {name: self.shard_of(name) for name in self.everything()})
        for name, tensor in self.everything().items():
            self.assertEqual((tensors[name].dtype, tensors[name].shape), (tensor.dtype, tensor.shape))
        for name in self.weights():
            d = self.joint_scale(self.group(name))
            values = reference.dequantize("nvfp4", *reference.quantize("nvfp4", rows_of(self.everything()[name]), 16, d)[:2], d)
            expected = [reference.to_dtype(v, "BF16") for row in values for v in row]
            self.assertEqual([Fraction(x) for x in tensors[name].numbers()], expected, name)
        self.check_left(tensors, self.weights())
        self.assertEqual((self.path("out") / "config.json").read_text(), CONFIG)

    def test_any_format_and_columns_that_the_block_does_not_divide(self):
        name = "model.layers.0.mlp.down_proj.weight"
        self.shards["model-00001-of-00002.safetensors"][name] = matrix(random.Random(3), HIDDEN, 40)
        self.write_model("odd", self.shards)
        outcome = self.succeeds("quantize", "odd", "-o", "out", "--as", "fake", "--format", "if4", "--tensor", "*down_proj.weight")
        self.assertIn(f"{name}: padded with zeros", outcome.stderr)
        self.succeeds("quantize", "odd", "-o", "plain.safetensors", "--format", "if4", "--fake-quant", "--tensor", "*down_proj.weight")
        plain, _ = read_safetensors(self.path("plain.safetensors"))
        self.assertEqual(self.read("out")[0], plain)


class Words(ModelCase):
    def test_overrides_select_and_exclude(self):
        self.quantize("--exclude", "*.0.*", "--override", "*.mlp.*=format:mxfp4", "--override", "*.mlp.up_proj.weight=keep",
                      "--override", "*o_proj*=scale:sse,tensor-scale:2.5")
        tensors, _ = self.read("out")
        layer = "model.layers.1."
        for name in [name for name in self.everything() if ".0." in name] + [layer + "mlp.up_proj.weight"]:
            self.assertEqual(tensors[name], self.everything()[name])
        for name in ("gate_proj", "down_proj"):
            name = f"{layer}mlp.{name}.weight"
            self.check_weight(name, tensors[name + "_packed"], tensors[name + "_scale"], Fraction(1), "mxfp4")
        self.assertEqual(tensors[layer + "self_attn.o_proj.weight_global_scale"].numbers(), [float(best_encode_scale(Fraction(5, 2)))])
        said = json.loads((self.path("out") / "config.json").read_text())["quantization_config"]
        self.assertEqual(said["format"], "mixed-precision")
        groups = said["config_groups"]
        self.assertEqual(groups["group_0"]["targets"], [f"{layer}self_attn.{n}" for n in ("k_proj", "o_proj", "q_proj", "v_proj")])
        self.assertEqual(groups["group_1"]["targets"], [layer + "mlp.down_proj", layer + "mlp.gate_proj"])
        self.assertEqual([groups[g]["format"] for g in groups], ["nvfp4-pack-quantized", "mxfp4-pack-quantized"])
        self.assertIn(layer + "mlp.up_proj", said["ignore"])
        self.assertIn("model.layers.0.self_attn.q_proj", said["ignore"])

    def test_words_name_the_groups_and_what_is_left(self):
        outcome = self.quantize("--override", "*.1.*q_proj*=keep")
        lines = outcome.stderr.splitlines()
        self.assertIn("fp4scope: one tensor scale for each fused group: 2 of gate_proj+up_proj, 1 of k_proj+q_proj+v_proj, 1 of k_proj+v_proj", lines)
        self.assertTrue(any("1 fused group is not quantized alike, such as that of model.layers.1.self_attn." in line for line in lines), lines)
        self.assertTrue(any("4 heads, embeddings, norms or routers (lm_head.weight, model.embed_tokens.weight, model.layers.0.mlp.gate.weight, ...)" in line for line in lines), lines)
        self.assertTrue(any("4 of fewer than two dimensions" in line for line in lines), lines)

    def test_tensor_takes_what_is_left_by_default(self):
        self.quantize("--tensor", "lm_head.weight")
        tensors, _ = self.read("out")
        self.assertIn("lm_head.weight_packed", tensors)
        self.assertIn("model.layers.0.mlp.up_proj.weight", tensors)

    def test_the_summary_as_json(self):
        outcome = self.quantize("--json", layout="modelopt")
        j = json.loads(outcome.stdout)
        self.assertEqual([t["tensor"] for t in j["tensors"]], sorted(self.weights(), key=lambda n: (self.shard_of(n), n)))
        tensors, _ = self.read("out")
        for row in j["tensors"]:
            name = row["tensor"]
            self.assertEqual((row["rows"], row["cols"]), tuple(self.everything()[name].shape))
            self.assertEqual(row["tensor_scale"], tensors[name + "_scale_2"].numbers()[0])
            d = Fraction(row["tensor_scale"])
            codes, scales = reference.unpack(tensors[name].data, row["cols"]), tensors[name + "_scale"]
            scale_rows = [list(scales.data[i:i + scales.shape[1]]) for i in range(0, len(scales.data), scales.shape[1])]
            values = reference.dequantize("nvfp4", codes, scale_rows, d)
            original = rows_of(self.everything()[name])
            lost = sum((Fraction(x) - v) ** 2 for a, b in zip(original, values) for x, v in zip(a, b))
            whole = sum(Fraction(x) ** 2 for a in original for x in a)
            self.assertAlmostEqual(row["weight_error"], float(lost / whole) ** 0.5, places=12)
            self.assertAlmostEqual(row["bits_per_weight"], 4.5 + 32 / (row["rows"] * row["cols"]))
        groups = {row["group"] for row in j["tensors"] if "q_proj" in row["tensor"] or "v_proj" in row["tensor"]}
        self.assertEqual(len(groups), 2)
        self.assertEqual(j["total"]["bytes_out"], sum(len(t.data) for t in tensors.values()))
        self.assertIn("lm_head.weight", j["left"])

    def test_threads_change_nothing(self):
        self.quantize("--threads", "1", "--scale", "4over6")
        self.quantize("--threads", "3", "--scale", "4over6", out="two")
        self.assertEqual(self.bytes_of("out"), self.bytes_of("two"))

    def test_a_weight_of_several_pieces_is_that_of_the_plain_quantize(self):
        rng = random.Random(9)
        row = matrix(rng, 1, 2048).data
        rows = [row[i:] + row[:i] for i in range(0, 2200, 2)]
        name = "model.layers.0.mlp.up_proj.weight"
        tensors = {name: Tensor("BF16", [2200, 2048], b"".join(rows + rows))}
        self.write_model("tall", {"model.safetensors": tensors})
        for layout, words in (("modelopt", []), ("fake", ["--rounding", "stochastic", "--seed", "5"])):
            outcome = self.succeeds("quantize", "tall", "-o", layout, "--as", layout, "--json", *words)
            fake = ["--fake-quant"] if layout == "fake" else []
            plain = self.succeeds("quantize", "tall/model.safetensors", "-o", "plain.safetensors", "--format", "nvfp4", "--json", *words, *fake)
            got, _ = read_safetensors(self.path(layout) / "model.safetensors")
            expected, _ = read_safetensors(self.path("plain.safetensors"))
            if fake:
                self.assertEqual(got[name].data, expected[name].data)
            else:
                self.assertEqual(got[name].data, expected[name + ".codes"].data)
                self.assertEqual(got[name + "_scale"].data, expected[name + ".scales"].data)
            ours, theirs = json.loads(outcome.stdout)["tensors"][0], json.loads(plain.stdout)["tensors"][0]
            for column in ("weight_error", "sqnr_db", "bits_per_weight"):
                self.assertAlmostEqual(ours[column], theirs[column], delta=1e-12 * abs(theirs[column]), msg=column)

    def test_errors_of_methods_that_correct_values_and_of_if4(self):
        for form, scale in (("mxfp4", "residual"), ("if4", "naive"), ("mxfp4", "naive")):
            out = form + scale
            ours = json.loads(self.quantize("--format", form, "--scale", scale, "--no-fuse", "--json", layout="fake", out=out).stdout)["tensors"]
            plain = self.succeeds("quantize", "m", "-o", out + ".safetensors", "--format", form, "--scale", scale, "--fake-quant", "--json", "--tensor", "*proj.weight")
            theirs = {row["tensor"]: row for row in json.loads(plain.stdout)["tensors"]}
            for row in ours:
                self.assertAlmostEqual(row["weight_error"], theirs[row["tensor"]]["weight_error"], places=13)

    def test_hessians_by_name_from_a_folder(self):
        rng = random.Random(5)
        self.path("h").mkdir()
        files = {"a": {}, "b": {}}
        for i, name in enumerate(self.weights()):
            cols = self.everything()[name].shape[1]
            blocks = []
            for _ in range(cols // 16):
                x = [[rng.gauss(0, 1) for _ in range(16)] for _ in range(32)]
                blocks += [sum(row[a] * row[b] for row in x) for a in range(16) for b in range(16)]
            files["ab"[i % 2]][name if i % 3 else name.removesuffix(".weight")] = floats([cols // 16, 16, 16], blocks, "F64")
        for file, tensors in files.items():
            write_safetensors(self.path("h") / f"{file}.safetensors", tensors)
        self.quantize("--scale", "hessian", "--hessian", "h", "--no-fuse", layout="modelopt")
        tensors, _ = self.read("out")
        name = self.weights()[1]
        self.succeeds("quantize", "m", "-o", "plain.safetensors", "--format", "nvfp4", "--scale", "hessian", "--tensor", name, "--hessian", f"h/b.safetensors:{name}")
        plain, _ = read_safetensors(self.path("plain.safetensors"))
        self.assertEqual((tensors[name].data, tensors[name + "_scale"].data), (plain[name + ".codes"].data, plain[name + ".scales"].data))
        (self.path("h") / "b.safetensors").unlink()
        self.fails(1, ["holds no H of", "which hessian needs"], "quantize", "m", "-o", "no", "--as", "modelopt", "--scale", "hessian", "--hessian", "h")

    def test_columns_that_loaders_do_not_take_are_left_with_a_word(self):
        name = "model.layers.0.mlp.down_proj.weight"
        self.shards["model-00001-of-00002.safetensors"][name] = matrix(random.Random(3), HIDDEN, 48)
        self.write_model("odd", self.shards)
        outcome = self.succeeds("quantize", "odd", "-o", "out", "--as", "modelopt")
        self.assertIn(f"1 of columns that are no multiple of 32 ({name})", outcome.stderr)
        self.assertEqual(self.read("out")[0][name], self.shards["model-00001-of-00002.safetensors"][name])
        said = json.loads((self.path("out") / "config.json").read_text())["quantization_config"]
        self.assertIn(name.removesuffix(".weight"), said["ignore"])
        self.fails(1, [name, "48 columns are no multiple of 32"], "quantize", "odd", "-o", "no", "--as", "modelopt", "--pad", "error")


class Refusals(ModelCase):
    def refuses(self, code, needles, *words, folder="m"):
        self.fails(code, needles, "quantize", folder, "-o", "no", *words)
        self.assertFalse(self.path("no").exists())

    def test_words_that_have_no_place(self):
        self.refuses(2, ["--as", "unknown layout 'modelop'", "modelopt"], "--as", "modelop")
        self.refuses(2, ["--as modelopt", "holds no mxfp4 in blocks of 32", "nvfp4 in blocks of 16"], "--as", "modelopt", "--format", "mxfp4")
        self.refuses(2, ["--as compressed-tensors", "nvint4"], "--as", "compressed-tensors", "--format", "nvint4")
        self.refuses(2, ["nvfp4 in blocks of 32"], "--as", "compressed-tensors", "--block", "32")
        self.refuses(2, ["--hadamard", "has no place with --as"], "--as", "modelopt", "--hadamard")
        self.refuses(2, ["--activations", "has no place"], "--as", "modelopt", "--activations", "x:y")
        self.refuses(2, ["--scale", "needs H"], "--as", "modelopt", "--scale", "hessian")
        self.refuses(2, ["--resume", "model's folder"], "--format", "nvfp4", "--resume")
        self.refuses(2, ["--override", "model's folder"], "--format", "nvfp4", "--override", "*=keep")
        self.refuses(2, ["--format", "is required"])

    def test_overrides(self):
        for text, needle in (("x", "names no tensors"), ("*=colour:red", "unknown key 'colour'"), ("*=format", "no KEY:VALUE"), ("*=block:x", "no block size"),
                             ("*=format:nvfp5", "nvfp4"), ("*=format:if4", "holds no if4"), ("*=keep,scale:sse", "keeps what it also changes")):
            self.refuses(2, ["--override", needle], "--as", "compressed-tensors", "--override", text)
        self.refuses(1, ["no weight that is quantized matches --override"], "--as", "modelopt", "--override", "*.9.*=scale:sse")

    def test_inputs(self):
        self.refuses(2, ["is a file", "leave --as out"], "--as", "modelopt", folder="m/model-00001-of-00002.safetensors")
        self.refuses(1, ["m", "no tensor to quantize"], "--as", "modelopt", "--tensor", "nothing*")
        self.write_model("bare", self.shards, config=None)
        self.refuses(1, ["bare", "no config.json"], "--as", "modelopt", folder="bare")
        self.write_model("done", self.shards, config='{"quantization_config": {}}')
        self.refuses(1, ["done", "has a quantization_config already"], "--as", "modelopt", folder="done")
        self.write_model("text", self.shards, config="[1]")
        self.refuses(1, ["text", "not a JSON object"], "--as", "modelopt", folder="text")
        name = "model.layers.0.mlp.up_proj.weight"
        bad = self.shards["model-00001-of-00002.safetensors"][name]
        bad.data = b"\x80\x7f" + bad.data[2:]
        self.write_model("inf", self.shards)
        self.fails(1, [name, "row 0, column 0 is inf"], "quantize", "inf", "-o", "no", "--as", "modelopt", notices=2)
        self.assertFalse(self.path("no").exists())

    def test_an_output_that_is_there(self):
        self.path("no").mkdir()
        self.fails(1, ["no", "is there already"], "quantize", "m", "-o", "no", "--as", "modelopt")
        self.fails(2, ["lies in m"], "quantize", "m", "-o", "m/out", "--as", "modelopt")


class Resume(ModelCase):
    """More and larger shards, so that a kill falls somewhere."""

    def setUp(self):
        super().setUp()
        rng = random.Random(7)
        block = b"".join(struct.pack("<f", bfloat(rng, 0.02))[2:] for _ in range(1 << 14))
        self.shards = {}
        for i in range(4):
            tensors = {f"model.layers.{i}.mlp.{name}.weight": Tensor("BF16", [256, 1024], block * 16) for name in ("up_proj", "gate_proj", "down_proj")}
            self.shards[f"model-{i + 1:05}-of-00004.safetensors"] = tensors
        self.write_model("big", self.shards)
        self.words = ["quantize", "big", "--as", "compressed-tensors", "--scale", "sse", "--json"]
        start = time.monotonic()
        self.whole = json.loads(self.succeeds(*self.words, "-o", "whole").stdout)
        self.seconds = time.monotonic() - start
        self.expected = self.bytes_of("whole")

    def records(self, out):
        try:
            return [name for name in os.listdir(self.path(out + ".partial") / "records") if ".tmp-" not in name]
        except FileNotFoundError:
            return []

    def start(self, out, *words):
        return subprocess.Popen(harness.command(*self.words, "-o", out, *words), cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def check_resumed(self, out):
        if self.path(out).exists():  # the kill came after the rename
            self.assertEqual(self.bytes_of(out), self.expected)
            return None
        outcome = self.succeeds(*self.words, "-o", out, "--resume")
        self.assertEqual(self.bytes_of(out), self.expected)
        self.assertFalse(self.path(out + ".partial").exists())
        summary = json.loads(outcome.stdout)
        self.assertEqual(summary["tensors"], self.whole["tensors"])
        return summary["total"]["shards_kept"]

    def test_kills_at_random_moments(self):
        rng = random.Random(int(os.environ.get("FP4SCOPE_SEED", "11")))
        for number in range(4):
            out = f"out{number}"
            child = self.start(out)
            time.sleep(rng.uniform(0, self.seconds))
            child.kill()
            child.communicate()
            self.assertTrue(not self.path(out).exists() or self.bytes_of(out) == self.expected, "neither whole nor absent")
            self.check_resumed(out)

    def test_a_kill_after_each_shard_keeps_those_before(self):
        for count in (1, 2, 3):
            out = f"after{count}"
            child = self.start(out)
            while child.poll() is None and len(self.records(out)) < count:
                time.sleep(0.0005)
            child.kill()
            child.communicate()
            kept = self.check_resumed(out)
            self.assertTrue(kept is None or kept >= count, kept)

    def test_a_signal_leaves_the_finished_shards_and_says_so(self):
        child = self.start("out")
        while child.poll() is None and len(self.records("out")) < 1:
            time.sleep(0.0005)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate()
        if child.returncode != 0:
            self.assertEqual(child.returncode, 130)
            self.assertIn("interrupted; finished shards wait in out.partial for --resume", err.splitlines()[-1])
            self.assertFalse(self.path("out").exists())
        self.check_resumed("out")

    def test_a_run_in_progress_is_not_taken_for_one_that_was_stopped(self):
        child = self.start("out")
        while child.poll() is None and len(self.records("out")) < 1:
            time.sleep(0.0005)
        outcome = self.run_here(*self.words, "-o", "out")
        self.assertIsNone(child.poll(), "too fast to be met")
        child.communicate()
        self.assertIn("out.partial: is being written by another run", outcome.stderr)

    def test_a_run_that_finishes_no_shard_leaves_nothing(self):
        first = self.shards["model-00001-of-00004.safetensors"]
        name = "model.layers.0.mlp.down_proj.weight"
        first[name] = Tensor("BF16", first[name].shape, b"\x80\x7f" + first[name].data[2:])
        self.write_model("inf", self.shards)
        before = sorted(os.listdir(self.folder))
        self.fails(1, [name, "inf"], "quantize", "inf", "--as", "modelopt", "-o", "no", notices=1)
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    def stopped(self):
        child = self.start("out")
        while child.poll() is None and len(self.records("out")) < 1:
            time.sleep(0.0005)
        child.kill()
        child.communicate()
        self.assertFalse(self.path("out").exists(), "too fast to be killed")

    def test_what_is_left_is_not_taken_for_other_work(self):
        self.stopped()
        before = self.bytes_of("out.partial")
        self.fails(1, ["out.partial", "--resume"], *self.words, "-o", "out")
        self.fails(1, ["out.partial", "other options"], *self.words, "-o", "out", "--resume", "--no-fuse")
        self.fails(1, ["out.partial", "other options"], *self.words, "-o", "out", "--resume", "--exclude", "*up_proj*")
        os.utime(self.path("big") / "model-00004-of-00004.safetensors")
        self.fails(1, ["out.partial", "another input"], *self.words, "-o", "out", "--resume")
        self.assertEqual(self.bytes_of("out.partial"), before)

    def test_a_folder_of_somebody_else_is_not_touched(self):
        (self.path("out.partial") / "checkpoint").mkdir(parents=True)
        (self.path("out.partial") / "checkpoint" / "mine").write_text("mine")
        for words in ([], ["--resume"]):
            self.fails(1, ["out.partial", "in the way"], *self.words, "-o", "out", *words)
        self.assertEqual(self.bytes_of("out.partial"), {"checkpoint/mine": b"mine"})

    def test_two_writers_do_not_meet(self):
        child = self.start("out")
        while child.poll() is None and not (self.path("out.partial") / "work").exists():
            time.sleep(0.0005)
        outcome = self.run_here(*self.words, "-o", "out", "--resume")
        _, err = child.communicate()
        self.assertEqual(child.returncode, 0, err)
        if outcome.returncode != 0:  # otherwise the first had ended
            self.assertRegex(outcome.stderr, "is being written by another run|is there already")
        self.assertEqual(self.bytes_of("out"), self.expected)

    def test_temporary_files_of_a_killed_run_do_not_reach_the_checkpoint(self):
        self.stopped()
        (self.path("out.partial") / "checkpoint" / "model-00002-of-00004.safetensors.tmp-1-0").write_bytes(b"half")
        self.check_resumed("out")


TORCH_SCRIPT = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
from save_hessians import Hessians
torch.manual_seed(1)
model = torch.nn.Sequential(torch.nn.Linear(32, 48), torch.nn.ReLU(), torch.nn.Linear(48, 8))
batches = [torch.randn(3, 5, 32) for _ in range(4)]
for name, block in (("whole", None), ("blocks", 16)):
    with Hessians(model, block) as hessians:
        for x in batches:
            model(x)
    model(batches[0])  # the hooks are gone
    hessians.save(name)
x = torch.cat(batches).reshape(-1, 32)
for layer, value in ((0, x), (2, torch.relu(model[0](x)))):
    value = value.detach().double()
    print(*(value.T @ value).flatten().tolist())
"""


class SaveHessians(Case):
    """notebooks-data/save_hessians.py, where PyTorch is."""

    def test_sums_are_those_of_the_inputs_and_symmetric(self):
        python = os.environ.get("FP4SCOPE_TORCH_PYTHON", sys.executable)
        if subprocess.run([python, "-c", "import torch, numpy"], capture_output=True, check=False).returncode != 0:
            self.skipTest("no PyTorch (FP4SCOPE_TORCH_PYTHON names a Python that has it)")
        source = Path(__file__).resolve().parents[2] / "notebooks-data"
        outcome = subprocess.run([python, "-c", TORCH_SCRIPT, str(source)], cwd=self.folder, capture_output=True, text=True, check=True)
        whole, _ = read_safetensors(self.path("whole") / "hessians-00001.safetensors")
        blocks, _ = read_safetensors(self.path("blocks") / "hessians-00001.safetensors")
        for layer, cols, line in ((0, 32, outcome.stdout.splitlines()[0]), (2, 48, outcome.stdout.splitlines()[1])):
            expected = [float(word) for word in line.split()]
            got = whole[f"{layer}.weight"]
            self.assertEqual((got.dtype, got.shape), ("F64", [cols, cols]))
            h = got.numbers()
            for i in range(cols):
                for j in range(cols):
                    self.assertAlmostEqual(h[i * cols + j], expected[i * cols + j], places=4)
                    self.assertEqual(h[i * cols + j], h[j * cols + i])
            self.assertEqual(blocks[f"{layer}.weight"].shape, [cols // 16, 16, 16])
            for at, value in enumerate(blocks[f"{layer}.weight"].numbers()):
                b, i, j = at // 256 * 16, at // 16 % 16, at % 16
                self.assertAlmostEqual(value, h[(b + i) * cols + b + j], places=9)
