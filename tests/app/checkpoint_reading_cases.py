"""dequantize of other tools' checkpoints: every layout's exact values, and a clear line for every contradiction."""
import json
import struct

import numpy as np

import checkpoint_fixtures as fixtures
from harness import Case, Tensor, read_safetensors, write_safetensors

UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"


def nvfp4_weights(**more):
    return [fixtures.random_weight(UP, "nvfp4", 8, 64, 1, **more), fixtures.random_weight(DOWN, "nvfp4", 3, 32, 2, **more)]


def mxfp4_weights():
    return [fixtures.random_weight(UP, "mxfp4", 8, 64, 3), fixtures.random_weight(DOWN, "mxfp4", 3, 32, 4)]


class Layouts(Case):
    def values_of(self, path, dtype="f32"):
        self.succeeds("dequantize", path, "-o", "out.safetensors", "--dtype", dtype)
        return read_safetensors(self.path("out.safetensors"))[0]

    def check(self, path, weights, also=()):
        """Every weight's values, and nothing else but what belongs to no weight."""
        tensors = self.values_of(path)
        self.assertEqual(sorted(tensors), sorted([w.name for w in weights] + list(fixtures.REST) + list(also)))
        for name, tensor in fixtures.REST.items():
            self.assertEqual(tensors[name], tensor)
        for w in weights:
            self.assertEqual((tensors[w.name].dtype, tuple(tensors[w.name].shape)), ("F32", w.values.shape))
            got = np.frombuffer(tensors[w.name].data, np.uint32).reshape(w.values.shape)
            expected = w.values.astype(np.float32).view(np.uint32)
            wrong = np.argwhere(got != expected)
            if len(wrong):
                at = tuple(wrong[0])
                self.fail(f"{w.name} {at}: code 0x{w.codes[at]:x}, got 0x{got[at]:08x}, expected 0x{expected[at]:08x}")

    def test_modelopt(self):
        self.check(fixtures.modelopt(self.path("nv"), nvfp4_weights()), nvfp4_weights())
        self.check(fixtures.modelopt(self.path("mx"), mxfp4_weights()), mxfp4_weights())
        self.check(fixtures.modelopt(self.path("shards"), nvfp4_weights(), shards=3), nvfp4_weights())

    def test_modelopt_without_config_json_goes_by_hf_quant_config(self):
        folder = fixtures.modelopt(self.path("nv"), nvfp4_weights())
        (folder / "config.json").unlink()
        self.check(folder, nvfp4_weights())
        stated = json.loads((folder / "hf_quant_config.json").read_text())
        stated["quantization"]["group_size"] = 32
        (folder / "hf_quant_config.json").write_text(json.dumps(stated))
        self.fails(1, ["hf_quant_config.json", "groups of 32", "blocks of 16"], "dequantize", "nv", "-o", "x.safetensors")

    def test_compressed_tensors_decodes_with_the_reciprocal_of_what_it_stores(self):
        loaded = [w.loaded() for w in nvfp4_weights()]
        self.check(fixtures.compressed_tensors(self.path("nv"), nvfp4_weights()), loaded)
        self.check(fixtures.compressed_tensors(self.path("act"), nvfp4_weights(), input_scale=2.0), loaded)
        self.check(fixtures.compressed_tensors(self.path("mx"), mxfp4_weights(), shards=2), mxfp4_weights())

    def test_gpt_oss(self):
        experts = [fixtures.random_experts("model.layers.0.mlp.experts.gate_up_proj", 3, 4, 64, 5)]
        self.check(fixtures.gpt_oss(self.path("oss"), experts), experts, also=[experts[0].name + "_bias"])

    def test_fp_quant(self):
        self.check(fixtures.fp_quant(self.path("nv"), nvfp4_weights()), [w.loaded() for w in nvfp4_weights()])
        self.check(fixtures.fp_quant(self.path("mx"), mxfp4_weights()), mxfp4_weights())

    def test_fouroversix_with_both_maxima_and_swizzled_scales(self):
        weights = nvfp4_weights(d=2.0 ** -12)
        for scale_max in (448, 256):
            for blackwell in (False, True):
                name = f"f{scale_max}{blackwell}"
                self.check(fixtures.fouroversix(self.path(name), weights, scale_max=scale_max, blackwell=blackwell), weights)

    def test_gguf(self):
        nv = [fixtures.random_weight("blk.0.ffn_up.weight", "nvfp4", 8, 128, 1), fixtures.random_weight("blk.0.ffn_down.weight", "nvfp4", 3, 64, 2)]
        for weights, scaled in ((nv, True), (nv, False), (mxfp4_weights(), True)):
            path = fixtures.gguf(self.path("model.gguf"), weights, tensor_scales=scaled)
            tensors = self.values_of(path)
            self.assertEqual(sorted(tensors), sorted([w.name for w in weights] + ["output_norm.weight"]))
            for w in weights:
                expected = (w.values if scaled else w.values / np.float64(w.d)).astype(np.float32)
                self.assertEqual(tensors[w.name].data, expected.tobytes(), w.name)

    def test_a_gguf_that_is_cut_off_anywhere_is_refused(self):
        path = fixtures.gguf(self.path("model.gguf"), mxfp4_weights())
        whole = path.read_bytes()
        for length in (3, 8, 30, 70, 120, 200, len(whole) - 40):
            path.write_bytes(whole[:length])
            self.fails(1, ["model.gguf"], "dequantize", "model.gguf", "-o", "out.safetensors")
            self.assertFalse(self.path("out.safetensors").exists())

    def test_f4_codes_are_the_bytes_of_u8_and_count_elements(self):
        weights = nvfp4_weights()
        folder = fixtures.modelopt(self.path("nv"), weights)
        tensors, metadata = read_safetensors(folder / "model.safetensors")
        for w in weights:
            tensors[w.name] = Tensor("F4", w.codes.shape, tensors[w.name].data)
        write_safetensors(folder / "model.safetensors", tensors, metadata)
        self.check(folder, weights)

    def test_what_is_quantized_otherwise_is_copied_with_a_word(self):
        folder = fixtures.modelopt(self.path("nv"), nvfp4_weights())
        tensors, metadata = read_safetensors(folder / "model.safetensors")
        name = "model.layers.0.self_attn.o_proj.weight"
        tensors[name] = Tensor("F8_E4M3", [4, 32], bytes(128))
        write_safetensors(folder / "model.safetensors", tensors, metadata)
        outcome = self.succeeds("dequantize", "nv", "-o", "out.safetensors")
        self.assertIn(f"1 tensors are quantized in ways that are not read, the first {name}, F8_E4M3", outcome.stderr)
        self.assertEqual(read_safetensors(self.path("out.safetensors"))[0][name], tensors[name])

    def test_tensors_that_the_index_does_not_name_are_told(self):
        folder = fixtures.modelopt(self.path("nv"), nvfp4_weights(), shards=2)
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        del index["weight_map"]["model.norm.weight"]
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        told = "1 tensors of the shards are not in the index and not read, the first model.norm.weight"
        self.assertIn(told, self.succeeds("dequantize", "nv", "-o", "out.safetensors").stderr)
        self.assertIn(told, self.succeeds("convert", "nv", "-o", "out", "--as", "compressed-tensors").stderr)
        self.assertIn(told, self.succeeds("audit", "nv").stderr)

    def test_types_that_safetensors_does_not_have_are_left_out_of_a_gguf(self):
        path = fixtures.gguf(self.path("model.gguf"), mxfp4_weights())
        data = path.read_bytes()
        at = data.index(UP.encode()) + len(UP) + 4 + 2 * 8
        self.assertEqual(data[at], 39)
        path.write_bytes(data[:at] + bytes([14]) + data[at + 1:])
        outcome = self.succeeds("dequantize", path, "-o", "out.safetensors")
        self.assertIn(UP + ", GGML_14", outcome.stderr)
        self.assertIn("1 tensors of types that safetensors doesn't have are left out", outcome.stderr)
        self.assertEqual(sorted(read_safetensors(self.path("out.safetensors"))[0]), [DOWN, "output_norm.weight"])

    def test_a_file_of_ones_own_in_blocks_of_32(self):
        data = np.random.default_rng(6).standard_normal((4, 64)).astype(np.float32)
        write_safetensors(self.path("in.safetensors"), {"w": Tensor("F32", [4, 64], data.tobytes())})
        self.succeeds("quantize", "in.safetensors", "-o", "q.safetensors", "--format", "nvfp4", "--block", "32", "--dequantize")
        expected = read_safetensors(self.path("q.safetensors"))[0]["w.dequantized"]
        self.assertEqual(self.values_of("q.safetensors")["w"].data, expected.data)

    def test_other_dtypes_round_once(self):
        weights = nvfp4_weights()
        folder = fixtures.modelopt(self.path("nv"), weights)
        half = self.values_of(folder, "f16")[UP]
        self.assertEqual(half.data, weights[0].values.astype(np.float16).tobytes())
        bits = weights[0].values.astype(np.float32)  # exact: 2 + 4 + 24 bits are not, so the tie rule is checked by value
        brain = np.frombuffer(self.values_of(folder, "bf16")[UP].data, np.uint16).astype(np.uint32) << 16
        error = np.abs(brain.view(np.float32).reshape(bits.shape).astype(np.float64) - weights[0].values)
        self.assertTrue(np.all(error <= np.abs(weights[0].values) * 2.0 ** -8 + 2.0 ** -134))


class Contradictions(Case):
    """A checkpoint that lies: one line, nothing written."""

    def refused(self, needles, folder="ckpt"):
        self.fails(1, needles, "dequantize", folder, "-o", "out.safetensors")
        self.assertFalse(self.path("out.safetensors").exists())

    def change(self, edit, layout=fixtures.modelopt, weights=None):
        """A checkpoint whose tensors `edit` has changed."""
        folder = layout(self.path("ckpt"), weights or nvfp4_weights())
        tensors, metadata = read_safetensors(folder / "model.safetensors")
        edit(tensors)
        write_safetensors(folder / "model.safetensors", tensors, metadata)
        return folder

    def reconfigure(self, folder, edit, file="config.json"):
        stated = json.loads((folder / file).read_text())
        edit(stated)
        (folder / file).write_text(json.dumps(stated))

    def test_codes_without_scales(self):
        self.change(lambda t: t.pop(UP + "_scale"), fixtures.compressed_tensors)
        self.refused([UP + "_packed", "no '" + UP + "_scale'", "incomplete"])
        self.change(lambda t: t.pop(UP + "_scale"))
        self.refused([UP, "no '" + UP + "_scale'", "incomplete"])

    def test_scales_without_codes(self):
        self.change(lambda t: t.pop(UP))
        self.refused([UP + "_scale", "no '" + UP, "incomplete"])
        self.change(lambda t: t.pop(UP + "_packed"), fixtures.compressed_tensors)
        self.refused([UP + "_scale", "no '" + UP + "_packed'", "incomplete"])

    def test_a_weight_beside_its_codes(self):
        self.change(lambda t: t.update({UP: Tensor("BF16", [8, 64], bytes(1024))}), fixtures.compressed_tensors)
        self.refused([UP + "_packed", "beside the weight", "'" + UP + "'"])

    def test_a_tensor_scale_that_is_missing(self):
        self.change(lambda t: t.pop(UP + "_scale_2"))
        self.refused([UP + "_scale_2", "missing"])

    def test_scales_of_another_shape(self):
        def edit(t):
            t[UP + "_scale"] = Tensor("F8_E4M3", [4, 8], t[UP + "_scale"].data)
        self.change(edit)
        self.refused([UP + "_scale", "[4, 8]", "does not fit", "[8, 32]"])

    def test_a_packed_width_that_does_not_match(self):
        def edit(t):
            t[UP] = Tensor("U8", [8, 16], t[UP].data[:128])
        self.change(edit)
        self.refused([UP + "_scale", "blocks of 8", "nvfp4 has 16"])

    def test_tensor_scales_that_are_none(self):
        for value in (0.0, -1.0, float("inf"), float("nan")):
            def edit(t, v=value):
                t[UP + "_scale_2"] = Tensor("F32", [], struct.pack("<f", v))
            self.change(edit)
            self.refused([UP + "_scale_2", "no tensor scale is"])

        def two(t):
            t[UP + "_scale_2"] = Tensor("F32", [2], bytes(8))
        self.change(two)
        self.refused([UP + "_scale_2", "[2]", "one belongs"])

    def test_dtypes_that_are_not_the_layouts(self):
        def edit(t):
            t[UP + "_scale"] = Tensor("I8", t[UP + "_scale"].shape, t[UP + "_scale"].data)
        self.change(edit)
        self.refused([UP + "_scale", "I8", "F8_E4M3"])

    def test_a_configuration_that_contradicts_the_tensors(self):
        folder = fixtures.compressed_tensors(self.path("ckpt"), nvfp4_weights())
        config = json.loads((folder / "config.json").read_text())
        arguments = config["quantization_config"]["config_groups"]["group_0"]["weights"]
        arguments["group_size"] = 32
        (folder / "config.json").write_text(json.dumps(config))
        self.refused(["config.json", "groups of 32", "blocks of 16"])
        arguments["group_size"], arguments["num_bits"] = 16, 8
        (folder / "config.json").write_text(json.dumps(config))
        self.refused(["config.json", "8 bits", "has 4"])
        (folder / "config.json").write_text("{")
        self.refused(["config.json", "no JSON object"])

    def test_a_method_or_format_of_another_checkpoint(self):
        folder = fixtures.compressed_tensors(self.path("ckpt"), nvfp4_weights())
        self.reconfigure(folder, lambda j: j["quantization_config"].update({"quant_method": "modelopt"}))
        self.refused(["config.json", "quant_method modelopt", DOWN, "compressed_tensors"])
        folder = fixtures.compressed_tensors(self.path("ckpt"), nvfp4_weights())
        self.reconfigure(folder, lambda j: j["quantization_config"].update({"format": "mxfp4-pack-quantized"}))
        self.refused(["config.json", "says mxfp4", "is nvfp4"])
        folder = fixtures.fp_quant(self.path("ckpt"), nvfp4_weights())
        self.reconfigure(folder, lambda j: j["quantization_config"].update({"forward_dtype": "mxfp4"}))
        self.refused(["config.json", "says mxfp4", "is nvfp4"])

    def test_a_configuration_that_is_null_says_nothing(self):
        folder = fixtures.modelopt(self.path("ckpt"), nvfp4_weights())
        self.reconfigure(folder, lambda j: j.update({"quantization_config": None}))
        self.succeeds("dequantize", "ckpt", "-o", "out.safetensors")

    def test_two_configurations_of_which_one_contradicts_the_tensors(self):
        folder = fixtures.modelopt(self.path("ckpt"), nvfp4_weights())
        self.reconfigure(folder, lambda j: j["quantization"].update({"group_size": 32}), "hf_quant_config.json")
        self.refused(["hf_quant_config.json", "groups of 32", "blocks of 16"])

    def test_a_shard_that_is_not_there(self):
        folder = fixtures.modelopt(self.path("ckpt"), nvfp4_weights(), shards=2)
        (folder / "model-00002-of-00002.safetensors").unlink()
        self.refused(["model-00002-of-00002.safetensors"])

    def test_an_index_that_points_nowhere(self):
        folder = fixtures.modelopt(self.path("ckpt"), nvfp4_weights(), shards=2)
        index = folder / "model.safetensors.index.json"
        stated = json.loads(index.read_text())
        stated["weight_map"]["model.layers.7.weight"] = "model-00001-of-00002.safetensors"
        index.write_text(json.dumps(stated))
        self.refused(["model.layers.7.weight", "model-00001-of-00002.safetensors"])

    def test_an_output_that_is_an_input(self):
        folder = fixtures.modelopt(self.path("ckpt"), nvfp4_weights())
        before = (folder / "model.safetensors").read_bytes()
        (self.path("link.safetensors")).symlink_to("ckpt/model.safetensors")
        for out in ("ckpt/model.safetensors", "link.safetensors"):
            self.fails(2, ["-o", out, "file of the checkpoint"], "dequantize", "ckpt", "-o", out)
        self.assertEqual((folder / "model.safetensors").read_bytes(), before)

    def test_nothing_quantized(self):
        self.path("ckpt").mkdir()
        write_safetensors(self.path("ckpt") / "model.safetensors", fixtures.REST)
        self.refused(["no quantized weight", "compressed_tensors"])

    def test_codes_in_another_basis_are_left_to_their_own_reader(self):
        data = np.random.default_rng(6).standard_normal((4, 64)).astype(np.float32)
        write_safetensors(self.path("in.safetensors"), {"w": Tensor("F32", [4, 64], data.tobytes())})
        self.succeeds("quantize", "in.safetensors", "-o", "q.safetensors", "--format", "nvfp4", "--hadamard")
        self.succeeds("dequantize", "q.safetensors", "-o", "back.safetensors")
        self.assertEqual(read_safetensors(self.path("back.safetensors"))[0]["w"].shape, [4, 64])
