"""fp4scope convert: layout to layout, held against the fixtures' codes, scales and values, which share nothing with the program."""
import json
import os
import struct
import unittest

import numpy as np

import checkpoint_fixtures as fixtures
import harness
from harness import Case, read_safetensors

UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"


def nvfp4(d=None):
    return [fixtures.random_weight(UP, "nvfp4", 6, 64, 1, d), fixtures.random_weight(DOWN, "nvfp4", 5, 96, 2, d)]


def mxfp4(exponents=None):
    return [fixtures.random_weight(UP, "mxfp4", 6, 64, 3, exponents=exponents),
            fixtures.random_weight(DOWN, "mxfp4", 5, 96, 4, exponents=exponents)]


def tensors_of(folder):
    """All tensors of a folder, which its index names, each in the shard that it names."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    tensors = {}
    for shard in sorted(set(index["weight_map"].values())):
        part, metadata = read_safetensors(folder / shard)
        assert metadata["format"] == "pt"
        assert all(index["weight_map"][name] == shard for name in part)
        tensors.update(part)
    assert sorted(tensors) == sorted(index["weight_map"])
    assert index["metadata"]["total_size"] == sum(len(t.data) for t in tensors.values())
    return tensors


def f32(tensor):
    assert tensor.dtype == "F32"
    return np.float32(struct.unpack("<f", tensor.data)[0])


def quantization(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


class Conversion(Case):
    def convert(self, source, target, layout, *words):
        return json.loads(self.succeeds("convert", source, "-o", target, "--as", layout, "--json", *words).stdout)

    def check_compressed(self, tensors, w, d=None):
        """Field by field: names, dtypes, shapes, bytes; S > 0 whose reciprocal is d."""
        rows, cols = w.codes.shape
        self.assertEqual(tensors[w.name + "_packed"], fixtures.u8(fixtures.pack(w.codes)))
        self.assertEqual(tensors[w.name + "_packed"].shape, [rows, cols // 2])
        scale = tensors[w.name + "_scale"]
        self.assertEqual(scale, fixtures.e4m3(w.scales) if w.format == "nvfp4" else fixtures.u8(w.scales))
        self.assertEqual(scale.shape, [rows, cols // w.block])
        self.assertNotIn(w.name, tensors)
        if w.format == "mxfp4":
            self.assertNotIn(w.name + "_global_scale", tensors)
            self.assertLess(max(scale.data), 255)
            return
        self.assertLess(max(scale.data), 127)
        self.assertEqual(tensors[w.name + "_global_scale"].shape, [1])
        self.assertEqual(np.float32(1) / f32(tensors[w.name + "_global_scale"]), w.d if d is None else d)

    def check_modelopt(self, tensors, w):
        rows, cols = w.codes.shape
        self.assertEqual(tensors[w.name], fixtures.u8(fixtures.pack(w.codes)))
        self.assertEqual(tensors[w.name + "_scale"], fixtures.e4m3(w.scales))
        self.assertEqual(tensors[w.name + "_scale"].shape, [rows, cols // 16])
        self.assertEqual(tensors[w.name + "_scale_2"].shape, [])
        self.assertEqual(f32(tensors[w.name + "_scale_2"]), w.d)

    def check_rest(self, folder, tensors):
        for name, tensor in fixtures.REST.items():
            self.assertEqual(tensors[name], tensor)
        self.assertEqual((folder / "tokenizer.json").read_text(), fixtures.TOKENIZER)
        config = json.loads((folder / "config.json").read_text())
        for key in ("architectures", "hidden_size"):
            self.assertEqual(config[key], fixtures.CONFIG[key])


class Nvfp4(Conversion):
    def test_modelopt_to_compressed_tensors_keeps_codes_and_scales_and_names_each_moved_tensor_scale(self):
        weights = nvfp4(1.25 * 2.0 ** -12)
        lost = next(d for d in (np.float32((1.75 + n * 2.0 ** -23) * 2.0 ** -12) for n in range(64))
                    if np.float32(1) / (np.float32(1) / d) != d)
        weights[0].d = lost
        back = weights[0].loaded()
        fixtures.modelopt(self.path("in"), weights, shards=2)
        j = self.convert("in", "out", "compressed-tensors")
        tensors = tensors_of(self.path("out"))
        self.check_compressed(tensors, weights[0], back.d)
        self.check_compressed(tensors, weights[1])
        self.check_rest(self.path("out"), tensors)
        self.assertEqual(j["moved"], 1)
        rows = {row["name"]: row for row in j["weights"]}
        ulps = int(back.d.view(np.int32)) - int(weights[0].d.view(np.int32))
        self.assertEqual((rows[UP]["ulps"], rows[DOWN]["ulps"]), (ulps, 0))
        self.assertEqual(abs(ulps), 1)
        self.assertEqual(rows[UP]["relative_change"], float(back.d) / float(weights[0].d) - 1)
        some = weights[0].codes % 8 > 0
        ratio = back.values[some] / weights[0].values[some]
        self.assertLess(np.abs(ratio - 1 - rows[UP]["relative_change"]).max(), 1e-15)
        text = self.succeeds("convert", "in", "-o", "again", "--as", "compressed-tensors").stdout
        self.assertIn("1 of 2 tensor scales", text)

    def test_compressed_tensors_to_modelopt_changes_no_value(self):
        weights = nvfp4()
        fixtures.compressed_tensors(self.path("in"), weights)
        j = self.convert("in", "out", "modelopt")
        self.assertEqual(j["moved"], 0)
        tensors = tensors_of(self.path("out"))
        for w in weights:
            self.check_modelopt(tensors, w.loaded())
        self.check_rest(self.path("out"), tensors)

    def test_there_and_back_is_the_same_bytes_for_a_tensor_scale_that_survives(self):
        for first, second, write in (("compressed-tensors", "modelopt", fixtures.modelopt),
                                     ("modelopt", "compressed-tensors", fixtures.compressed_tensors)):
            weights = nvfp4(1.25 * 2.0 ** -11)
            folder = write(self.path(f"in-{first}"), weights)
            self.convert(folder, f"mid-{first}", first)
            self.convert(f"mid-{first}", f"out-{first}", second)
            self.assertEqual(tensors_of(self.path(f"out-{first}")), read_safetensors(folder / "model.safetensors")[0])

    def test_activations_keep_their_scheme_with_the_reciprocal_input_scale(self):
        fixtures.modelopt(self.path("in"), nvfp4(2.0 ** -9), input_scale=0.0078125)
        self.convert("in", "out", "compressed-tensors")
        tensors = tensors_of(self.path("out"))
        scale = tensors[UP.removesuffix("weight") + "input_global_scale"]
        self.assertEqual((f32(scale), scale.shape), (128.0, [1]))
        arguments = quantization(self.path("out"))["config_groups"]["group_0"]["input_activations"]
        self.assertEqual((arguments["dynamic"], arguments["num_bits"], arguments["group_size"]), ("local", 4, 16))
        self.convert("out", "back", "modelopt")
        self.assertEqual(f32(tensors_of(self.path("back"))[UP.removesuffix("weight") + "input_scale"]), 0.0078125)
        said = json.loads((self.path("back") / "hf_quant_config.json").read_text())["quantization"]["quant_algo"]
        self.assertEqual(said, "NVFP4")

    def test_weights_alone_say_so_in_the_configuration(self):
        fixtures.modelopt(self.path("in"), nvfp4(), input_scale=None)
        self.convert("in", "out", "compressed-tensors")
        config = quantization(self.path("out"))
        group = config["config_groups"]["group_0"]
        self.assertEqual((config["quant_method"], config["format"]), ("compressed-tensors", "nvfp4-pack-quantized"))
        self.assertIsNone(group["input_activations"])
        weights = group["weights"]
        self.assertEqual((weights["num_bits"], weights["type"], weights["strategy"], weights["group_size"]),
                         (4, "float", "tensor_group", 16))
        self.convert("out", "back", "modelopt")
        self.assertEqual(quantization(self.path("back"))["quant_algo"], "W4A16_NVFP4")
        self.assertFalse((self.path("out") / "hf_quant_config.json").exists())

    def test_an_fp8_cache_keeps_its_scheme_and_its_scales_where_each_layout_has_them(self):
        folder = fixtures.modelopt(self.path("in"), nvfp4())
        tensors, metadata = read_safetensors(folder / "model.safetensors")
        attention = "model.layers.0.self_attn."
        scales = {"k": fixtures.f32(0.5), "v": fixtures.f32(0.25)}
        tensors.update({f"{attention}{kind}_proj.{kind}_scale": scale for kind, scale in scales.items()})
        harness.write_safetensors(folder / "model.safetensors", tensors, metadata)
        beside = folder / "hf_quant_config.json"
        stated = json.loads(beside.read_text())
        stated["quantization"]["kv_cache_quant_algo"] = "FP8"
        beside.write_text(json.dumps(stated))
        self.convert("in", "ct", "compressed-tensors")
        for kind, scale in scales.items():
            self.assertEqual(tensors_of(self.path("ct"))[f"{attention}{kind}_scale"], scale)
            self.assertNotIn(f"{attention}{kind}_proj.{kind}_scale", tensors_of(self.path("ct")))
        self.assertEqual(quantization(self.path("ct"))["kv_cache_scheme"],
                         {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True})
        self.convert("ct", "back", "modelopt")
        for kind, scale in scales.items():
            self.assertEqual(tensors_of(self.path("back"))[f"{attention}{kind}_proj.{kind}_scale"], scale)
        self.assertEqual(quantization(self.path("back"))["kv_cache_scheme"], {"num_bits": 8, "type": "float", "dynamic": False})
        said = json.loads((self.path("back") / "hf_quant_config.json").read_text())["quantization"]
        self.assertEqual(said["kv_cache_quant_algo"], "FP8")

    def test_another_scheme_of_the_cache_is_left_out_with_a_word(self):
        folder = fixtures.modelopt(self.path("in"), nvfp4())
        beside = folder / "hf_quant_config.json"
        beside.write_text(beside.read_text().replace('"kv_cache_quant_algo": null', '"kv_cache_quant_algo": "NVFP4"'))
        outcome = self.succeeds("convert", "in", "-o", "out", "--as", "compressed-tensors")
        self.assertIn("keys and values, NVFP4, is left out", outcome.stderr)
        self.assertIsNone(quantization(self.path("out"))["kv_cache_scheme"])

    def test_fouroversix_flat_and_swizzled_to_both(self):
        weights = [fixtures.random_weight(UP, "nvfp4", 128, 64, 1, 1.25 * 2.0 ** -10),
                   fixtures.random_weight(DOWN, "nvfp4", 128, 128, 2, 1.5 * 2.0 ** -9)]
        for swizzled in (False, True):
            fixtures.fouroversix(self.path(f"in{swizzled}"), weights, blackwell=swizzled)
            for layout, check in (("modelopt", self.check_modelopt), ("compressed-tensors", None)):
                out = self.path(f"{layout}{swizzled}")
                self.convert(f"in{swizzled}", out, layout)
                tensors = tensors_of(out)
                for w in weights:
                    check(tensors, w) if check else self.check_compressed(tensors, w, w.loaded().d)


class Mxfp4(Conversion):
    def test_experts_become_weights_of_their_own(self):
        experts = fixtures.random_experts("model.layers.0.mlp.experts.gate_up_proj", 3, 4, 64, 5)
        fixtures.gpt_oss(self.path("in"), [experts])
        self.convert("in", "out", "compressed-tensors")
        tensors = tensors_of(self.path("out"))
        for e in range(3):
            name = f"model.layers.0.mlp.experts.{e}.gate_up_proj.weight"
            self.check_compressed(tensors, fixtures.Weight(name, "mxfp4", experts.codes[e], experts.scales[e]))
        self.assertEqual(tensors["model.layers.0.mlp.experts.gate_up_proj_bias"].shape, [3, 4])
        self.check_rest(self.path("out"), tensors)
        group = quantization(self.path("out"))["config_groups"]["group_0"]
        self.assertEqual((group["format"], group["weights"]["group_size"]), ("mxfp4-pack-quantized", 32))

    def test_mxfp4_to_nvfp4_keeps_every_code_and_value(self):
        for layout in ("compressed-tensors", "modelopt"):
            weights = mxfp4(exponents=(-9, 8))
            fixtures.compressed_tensors(self.path(f"in-{layout}"), weights)
            j = self.convert(f"in-{layout}", f"out-{layout}", layout, "--format", "nvfp4")
            self.assertEqual(j["moved"], 0)
            tensors = tensors_of(self.path(f"out-{layout}"))
            for w in weights:
                packed = tensors[w.name + ("_packed" if layout == "compressed-tensors" else "")]
                self.assertEqual(packed, fixtures.u8(fixtures.pack(w.codes)))
                scales = np.frombuffer(tensors[w.name + "_scale"].data, np.uint8).reshape(len(w.codes), -1)
                d = (np.float32(1) / f32(tensors[w.name + "_global_scale"]) if layout == "compressed-tensors"
                     else f32(tensors[w.name + "_scale_2"]))
                got = fixtures.Weight(w.name, "nvfp4", w.codes, scales, d)
                self.assertLess(scales.max(), 127)
                self.assertTrue(np.array_equal(got.values, w.values))

    def test_a_span_of_2_to_the_18_is_refused_with_the_count(self):
        w = fixtures.random_weight(UP, "mxfp4", 1, 96, 6)
        w.codes[:] = 2
        w.scales[:] = [[100, 118, 117]]
        fixtures.compressed_tensors(self.path("in"), [w])
        self.fails(1, [UP, "2 of 6 blocks of 16"], "convert", "in", "-o", "out", "--as", "modelopt", "--format", "nvfp4")
        self.leaves("in")
        w.scales[:] = [[101, 118, 117]]
        fixtures.compressed_tensors(self.path("in"), [w])
        self.convert("in", "out", "modelopt", "--format", "nvfp4")

    def test_nvfp4_to_mxfp4_is_refused(self):
        fixtures.modelopt(self.path("in"), nvfp4())
        self.fails(2, ["--format", "mxfp4"], "convert", "in", "-o", "out", "--as", "compressed-tensors", "--format", "mxfp4")

    def test_mxfp4_as_modelopt_names_the_mend(self):
        fixtures.compressed_tensors(self.path("in"), mxfp4())
        self.fails(1, [DOWN, "mxfp4", "--format nvfp4"], "convert", "in", "-o", "out", "--as", "modelopt")


class Gguf(Conversion):
    def test_mxfp4_and_nvfp4_blocks_become_rows_of_nibbles(self):
        weights = [fixtures.random_weight("blk.0.ffn_up.weight", "nvfp4", 6, 128, 1, 1.25 * 2.0 ** -10),
                   fixtures.random_weight("blk.0.ffn_down.weight", "mxfp4", 5, 96, 2)]
        fixtures.gguf(self.path("m.gguf"), weights)
        self.convert("m.gguf", "out", "compressed-tensors")
        tensors = tensors_of(self.path("out"))
        for w in weights:
            self.check_compressed(tensors, w)
        self.assertEqual(tensors["output_norm.weight"].numbers(), [1, 2, -1, 0])
        groups = quantization(self.path("out"))
        self.assertEqual((groups["format"], len(groups["config_groups"])), ("mixed-precision", 2))


class Refusals(Conversion):
    def test_words(self):
        fixtures.modelopt(self.path("in"), nvfp4())
        self.fails(2, ["--as", "compressed-tensors"], "convert", "in", "-o", "out", "--as", "compressed-tensor")
        self.fails(2, ["--format", "nvfp4"], "convert", "in", "-o", "out", "--as", "modelopt", "--format", "nvfp")
        self.fails(2, ["in/out"], "convert", "in", "-o", "in/out", "--as", "modelopt")
        self.succeeds("convert", "in", "-o", "out", "--as", "modelopt")
        self.fails(1, ["out", "there already"], "convert", "in", "-o", "out", "--as", "modelopt")

    def test_what_another_layout_cannot_say(self):
        fixtures.fp_quant(self.path("fp"), nvfp4())
        self.fails(1, ["rotated"], "convert", "fp", "-o", "out", "--as", "modelopt")
        folder = fixtures.modelopt(self.path("awq"), nvfp4())
        tensors, metadata = read_safetensors(folder / "model.safetensors")
        tensors[UP.removesuffix("weight") + "pre_quant_scale"] = harness.floats([64], [1.0] * 64)
        harness.write_safetensors(folder / "model.safetensors", tensors, metadata)
        self.fails(1, ["pre_quant_scale", "activations"], "convert", "awq", "-o", "out", "--as", "compressed-tensors")
        self.leaves("fp", "awq")

    def test_a_nan_or_negative_scale_is_named(self):
        for bad in (0x7F, 0x80, 0xFF):
            w = nvfp4()[0]
            w.scales[3, 2] = bad
            fixtures.modelopt(self.path(f"in{bad}"), [w])
            self.fails(1, [UP, "block 2 of row 3", f"0x{bad:02x}"], "convert", f"in{bad}", "-o", "out", "--as", "compressed-tensors")
            self.assertFalse(self.path("out").exists())
            self.assertFalse(self.path("out.partial").exists())

    def test_input_scales_that_no_calibration_makes(self):
        for value in (0.0, -1.0, float("nan"), float("inf")):
            fixtures.modelopt(self.path("in"), nvfp4(), input_scale=value)
            self.fails(1, ["input_scale", "no input scale is"], "convert", "in", "-o", "out", "--as", "compressed-tensors")
            self.leaves("in")

    def test_weights_that_the_result_could_not_say(self):
        folder = fixtures.modelopt(self.path("in"), nvfp4())
        tensors, metadata = read_safetensors(folder / "model.safetensors")
        name = "model.layers.0.self_attn.o_proj.weight"
        eight = {**tensors, name: harness.Tensor("F8_E4M3", [4, 32], bytes(128)), name + "_scale": fixtures.f32(0.5)}
        harness.write_safetensors(folder / "model.safetensors", eight, metadata)
        self.fails(1, [name, "F8_E4M3", "could not say"], "convert", "in", "-o", "out", "--as", "compressed-tensors")
        deep = dict(tensors)
        deep[UP] = harness.Tensor("U8", [2, 1, 3, 32], tensors[UP].data)
        deep[UP + "_scale"] = harness.Tensor("F8_E4M3", [2, 1, 3, 4], tensors[UP + "_scale"].data)
        harness.write_safetensors(folder / "model.safetensors", deep, metadata)
        self.fails(1, [UP, "4 dimensions"], "convert", "in", "-o", "out", "--as", "compressed-tensors")
        self.leaves("in")

    def test_a_link_to_nothing_is_told_before_the_work(self):
        fixtures.modelopt(self.path("in"), nvfp4())
        (self.path("in") / "merges.txt").symlink_to("nowhere")
        self.fails(1, ["in/merges.txt", "not there"], "convert", "in", "-o", "out", "--as", "compressed-tensors")
        self.leaves("in")

    def test_resume_goes_on_where_a_run_stopped(self):
        weights = nvfp4()
        fixtures.modelopt(self.path("in"), weights, shards=3)
        self.convert("in", "whole", "compressed-tensors")
        times = {path: os.stat(path).st_mtime_ns for path in self.path("in").iterdir()}
        weights[0].scales[0, 0] = 0x7F  # the last file's weight stops the run
        fixtures.modelopt(self.path("in"), weights, shards=3)
        for path, time in times.items():
            os.utime(path, ns=(time, time))
        self.fails(1, [UP, "0x7f"], "convert", "in", "-o", "out", "--as", "compressed-tensors")
        self.assertFalse(self.path("out").exists())
        fixtures.modelopt(self.path("in"), nvfp4(), shards=3)
        self.fails(1, ["another input"], "convert", "in", "-o", "out", "--as", "compressed-tensors", "--resume")
        for path, time in times.items():
            os.utime(path, ns=(time, time))
        j = self.convert("in", "out", "compressed-tensors", "--resume")
        self.assertEqual((j["kept"], j["shards"]), (2, 3))
        self.assertEqual(tensors_of(self.path("out")), tensors_of(self.path("whole")))


class Reciprocal(unittest.TestCase):
    def test_the_share_of_tensor_scales_that_survive_is_2_sqrt_2_minus_2(self):
        """All 2^23 mantissas, in binary32: as S = RNE32(1 / D) loses them, and as no neighbour of S would keep them."""
        one = np.float32(1)
        d = (np.arange(1 << 23, dtype=np.uint32) | np.uint32(0x3F800000)).view(np.float32)
        s = one / d
        back = one / s
        steps = back.view(np.int32).astype(np.int64) - d.view(np.int32)
        self.assertEqual(dict(zip(*(a.tolist() for a in np.unique(steps, return_counts=True)))),
                         {-1: 720186, 0: 6949350, 1: 719072})
        self.assertAlmostEqual(6949350 / 2 ** 23, 2 * 2 ** .5 - 2, places=6)
        lost = steps != 0
        self.assertGreater(d[lost].min(), 2 ** .5)
        for toward in (np.float32(0), np.float32(2)):
            self.assertFalse(np.any(one / np.nextafter(s[lost], toward) == d[lost]))
        self.assertLess(np.abs(back.astype(np.float64) / d - 1).max(), 8.43e-8)
