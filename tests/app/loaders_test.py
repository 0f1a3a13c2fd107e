#!/usr/bin/env python3
"""Directories that `fp4scope convert` writes, read by the libraries that users load them with, and the values compared bit by bit.

    loaders_test.py PROGRAM         under a Python that has torch, safetensors, compressed-tensors, transformers, gguf
    FP4SCOPE_LOADERS_PYTHON=...     that Python, for ctest; without a library its tests are skipped, without any all are
"""
import importlib
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
if os.environ.get("FP4SCOPE_LOADERS_PYTHON") and "FP4SCOPE_LOADERS_RUNNING" not in os.environ:
    os.environ["FP4SCOPE_LOADERS_RUNNING"] = "1"
    python = os.environ["FP4SCOPE_LOADERS_PYTHON"]
    os.execv(python, [python, *sys.argv])

import numpy as np

import checkpoint_fixtures as fixtures
import harness


def library(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


torch, safetensors, transformers, gguf = (library(name) for name in ("torch", "safetensors", "transformers", "gguf"))
compressed = library("compressed_tensors") if torch else None
UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"


def needs(*libraries):
    return unittest.skipUnless(all(libraries), "a library is not installed")


def load(folder):
    """All tensors of a folder, by safetensors' own reader and torch's types."""
    from safetensors.torch import load_file
    tensors = {}
    for shard in sorted(Path(folder).glob("*.safetensors")):
        tensors.update(load_file(shard))
    index = json.loads((Path(folder) / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors)
    return tensors


def exactly_bf16(values):
    """float64 values that bfloat16 holds, as such."""
    tensor = torch.from_numpy(values).to(torch.bfloat16)
    assert np.array_equal(tensor.double().numpy(), values)
    return tensor


def same_bits(a, b):
    """Same type, shape and bits; of zeros the sign too."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


class Loaders(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="fp4scope-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def convert(self, source, layout, *words):
        out = self.folder / f"out{len(list(self.folder.iterdir()))}"
        outcome = harness.run("convert", source, "-o", out, "--as", layout, *words)
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        return out

    def decompressed(self, folder, weight):
        """By compressed-tensors' own configuration and decompressor, in bfloat16."""
        from compressed_tensors.compressors.base import BaseCompressor
        from compressed_tensors.quantization import QuantizationConfig
        said = json.loads((folder / "config.json").read_text())["quantization_config"]
        config = QuantizationConfig.model_validate(said)
        scheme = next(iter(config.config_groups.values()))
        self.assertTrue(BaseCompressor.get_value_from_registry(scheme.format).can_compress(torch.nn.Linear, scheme))
        module = weight.removesuffix("weight")
        local = {name.removeprefix(module): t for name, t in load(folder).items() if name.startswith(module)}
        return BaseCompressor.get_value_from_registry(scheme.format).decompress(local, scheme)["weight"]


@needs(torch, safetensors, compressed)
class CompressedTensors(Loaders):
    def test_decompresses_nvfp4_to_our_values_bit_for_bit(self):
        weights = [fixtures.random_weight(UP, "nvfp4", 8, 64, 1, 2.0 ** -10), fixtures.random_weight(DOWN, "nvfp4", 6, 96, 2, 0.25)]
        out = self.convert(fixtures.modelopt(self.folder / "in", weights, shards=2), "compressed-tensors")
        for w in weights:
            self.assertTrue(same_bits(self.decompressed(out, w.name), exactly_bf16(w.values)))

    def test_decompresses_mxfp4_to_our_values_bit_for_bit(self):
        weights = [fixtures.random_weight(UP, "mxfp4", 8, 64, 1), fixtures.random_weight(DOWN, "mxfp4", 6, 96, 2)]
        out = self.convert(fixtures.compressed_tensors(self.folder / "in", weights), "compressed-tensors")
        for w in weights:
            self.assertTrue(same_bits(self.decompressed(out, w.name), exactly_bf16(w.values)))

    def test_decompresses_nvfp4_made_of_mxfp4_to_the_mxfp4_values_bit_for_bit(self):
        w = fixtures.random_weight(UP, "mxfp4", 8, 64, 3)
        out = self.convert(fixtures.compressed_tensors(self.folder / "in", [w]), "compressed-tensors", "--format", "nvfp4")
        got, expected = self.decompressed(out, UP), exactly_bf16(w.values)
        self.assertTrue(same_bits(got, expected))

    def test_divides_by_S_which_differs_from_multiplying_by_D_by_an_ulp(self):
        """RNE32(RNE32(s / S) e) is its order: another than vLLM's D = RNE32(1 / S), so values agree within 2^-22."""
        from compressed_tensors.quantization import QuantizationArgs
        from compressed_tensors.quantization.lifecycle.forward import dequantize
        w = fixtures.random_weight(UP, "nvfp4", 64, 256, 5)
        tensors = load(self.convert(fixtures.modelopt(self.folder / "in", [w]), "compressed-tensors"))
        arguments = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16)
        elements = torch.from_numpy(fixtures.E2M1[w.codes].astype(np.float32))
        got = dequantize(elements, tensors[UP + "_scale"].float(), args=arguments, global_scale=tensors[UP + "_global_scale"]).numpy()
        step = fixtures.E4M3[w.scales].astype(np.float32) / w.s
        self.assertTrue(np.array_equal(got, np.repeat(step, 16, axis=1) * elements.numpy()))
        ours = w.loaded().values
        nonzero = ours != 0
        self.assertLess(np.abs(got[nonzero] / ours[nonzero] - 1).max(), 2.0 ** -22)

    def test_converts_modelopt_to_the_same_tensors_as_we_do(self):
        try:
            from compressed_tensors.entrypoints.convert import ModelOptNvfp4Converter
        except ImportError:
            self.skipTest("this compressed-tensors has no converter")
        for seed in range(8):
            w = fixtures.random_weight(UP, "nvfp4", 8, 64, seed)
            source = fixtures.modelopt(self.folder / f"in{seed}", [w], input_scale=float(np.float32(w.d) * 3))
            from safetensors.torch import load_file
            theirs = ModelOptNvfp4Converter(targets=["re:.*proj$"], ignore=[]).process(load_file(source / "model.safetensors"))
            ours = load(self.convert(source, "compressed-tensors"))
            self.assertEqual(sorted(ours), sorted(theirs))
            for name in ours:
                self.assertTrue(same_bits(ours[name].reshape(-1), theirs[name].reshape(-1)), name)


@needs(torch, safetensors, compressed, transformers)
class Transformers(Loaders):
    def tiny(self, folder):
        """A llama of one layer, and a modelopt checkpoint of it with other linear weights: (model, those weights)."""
        config = transformers.LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
                                          num_key_value_heads=4, vocab_size=32, tie_word_embeddings=False)
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
        weights, rest = [], {}
        for name, tensor in model.state_dict().items():
            if name.endswith("proj.weight"):
                weights.append(fixtures.random_weight(name, "nvfp4", *tensor.shape, len(weights), 2.0 ** -10))
            else:
                rest[name] = harness.Tensor("BF16", tensor.shape, tensor.contiguous().view(torch.uint8).numpy().tobytes())
        saved, fixtures.REST = fixtures.REST, rest
        try:
            fixtures.modelopt(folder, weights, input_scale=None)
        finally:
            fixtures.REST = saved
        said = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config.to_dict(), "architectures": ["LlamaForCausalLM"],
                                                        "dtype": "bfloat16", "quantization_config": said["quantization_config"]}))
        return model, weights

    def test_loads_a_converted_model_whose_linear_layers_compute_with_our_values(self):
        model, weights = self.tiny(self.folder / "in")
        out = self.convert(self.folder / "in", "compressed-tensors")
        loaded = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16)
        state = model.state_dict()
        for w in weights:
            state[w.name] = exactly_bf16(w.values)
        model.load_state_dict(state)
        model.model.rotary_emb = loaded.model.rotary_emb  # no part of a checkpoint; .to(bfloat16) rounded ours
        tokens = torch.arange(12).reshape(2, 6)
        with torch.no_grad():
            self.assertTrue(same_bits(loaded(tokens).logits, model(tokens).logits))
        decompressed = loaded.state_dict()  # at the first forward
        for name, tensor in state.items():
            self.assertTrue(same_bits(decompressed[name], tensor), name)

    def test_loads_what_quantize_writes_with_the_values_of_its_codes(self):
        """`quantize --as` of a model that transformers saved; its codes, scales and S decoded here in the loader's order."""
        config = transformers.LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                                          num_key_value_heads=4, vocab_size=32, tie_word_embeddings=False)
        transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(self.folder / "in")
        for form in ("nvfp4", "mxfp4"):
            out = self.folder / form
            outcome = harness.run("quantize", self.folder / "in", "-o", out, "--as", "compressed-tensors", "--format", form)
            self.assertEqual(outcome.returncode, 0, outcome.stderr)
            loaded = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16)
            with torch.no_grad():
                self.assertTrue(torch.isfinite(loaded(torch.arange(12).reshape(2, 6)).logits).all())
            stored, state = load(out), loaded.state_dict()
            names = [name.removesuffix("_packed") for name in stored if name.endswith("_packed")]
            self.assertEqual(len(names), 14)
            for name in names:
                packed = stored[name + "_packed"].numpy()
                codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
                scales = fixtures.SCALE[form][stored[name + "_scale"].view(torch.uint8).numpy()].astype(np.float32)
                if form == "nvfp4":
                    scales = scales / stored[name + "_global_scale"].numpy()
                values = fixtures.E2M1[codes].astype(np.float32) * np.repeat(scales, fixtures.BLOCK[form], axis=1)
                self.assertTrue(same_bits(state[name], torch.from_numpy(values).to(torch.bfloat16)), name)

    def test_gpt_oss_experts_unpack_to_our_values(self):
        try:
            from transformers.integrations.mxfp4 import convert_moe_packed_tensors
        except ImportError:
            self.skipTest("this transformers has no such function")
        experts = fixtures.random_experts("model.layers.0.mlp.experts.gate_up_proj", 3, 8, 64, 5)
        folder = fixtures.gpt_oss(self.folder / "in", [experts])
        from safetensors.torch import load_file
        source = load_file(folder / "model.safetensors")
        theirs = convert_moe_packed_tensors(source[experts.name + "_blocks"], source[experts.name + "_scales"])
        out = self.convert(folder, "compressed-tensors")
        for e in range(3):
            ours = self.decompressed(out, f"model.layers.0.mlp.experts.{e}.gate_up_proj.weight")
            self.assertTrue(same_bits(ours, exactly_bf16(experts.values[e])))
            self.assertTrue(torch.equal(theirs[e].T if theirs[e].shape != ours.shape else theirs[e], ours))


@needs(gguf)
class Gguf(Loaders):
    def test_dequantizes_to_the_values_of_our_conversion_bit_for_bit(self):
        weights = [fixtures.random_weight("blk.0.ffn_up.weight", "nvfp4", 6, 128, 1, 0.5),
                   fixtures.random_weight("blk.0.ffn_down.weight", "mxfp4", 5, 96, 2)]
        path = fixtures.gguf(self.folder / "m.gguf", weights)
        theirs = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}
        tensors = harness.read_safetensors(self.convert(path, "compressed-tensors") / "model.safetensors")[0]
        for w in weights:
            rows = w.codes.shape[0]
            bytes_of = lambda suffix: np.frombuffer(tensors[w.name + suffix].data, np.uint8).reshape(rows, -1)
            packed = bytes_of("_packed")
            codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(rows, -1)
            ours = fixtures.Weight(w.name, w.format, codes, bytes_of("_scale"), w.d)
            self.assertTrue(np.array_equal(theirs[w.name].astype(np.float64) * float(w.d), ours.values))


def main():
    harness.PROGRAM = str(Path(sys.argv.pop(1)).resolve())
    found = [m.__name__.replace("_", "-") for m in (torch, safetensors, compressed, transformers, gguf) if m]
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in found) or "no library", file=sys.stderr)
    outcome = unittest.main(exit=False).result
    if len(outcome.skipped) == outcome.testsRun:
        print("skipped: none of the libraries is installed")
        return 77
    return 0 if outcome.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
