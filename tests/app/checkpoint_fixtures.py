"""Small quantized checkpoints of every layout, written with numpy alone, and the exact values that each holds.

    weights = [random_weight("model.layers.0.mlp.up_proj.weight", "nvfp4", 8, 64, seed=1)]
    modelopt(folder, weights)               # weight, weight_scale, weight_scale_2 = D, input_scale; both config files
    compressed_tensors(folder, weights)     # weight_packed, weight_scale, weight_global_scale = S, RNE32(1 / S) = D
    gpt_oss(folder, [random_experts(...)])  # *_blocks, *_scales, *_bias
    fp_quant, fouroversix, gguf             # the same way; gguf writes one file

A Weight has codes [R, C] (uint8, one an element), scales [R, C/block] (uint8), d (float32, the multiplier on decode, 1
without) and values [R, C] (float64). A value is e * s * d: 2, 4 and 24 significant bits for NVFP4, exact in binary64.
Every writer takes shards=N (an index.json and N files), and adds tensors that belong to no weight (REST) and a file that is
no tensor (tokenizer.json). Layouts: nibbles low first except in gguf, whose byte j of a block has elements j and j + half.
"""
import json
import struct
from pathlib import Path

import numpy as np

import harness
from harness import Tensor

E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6])
E4M3 = np.array([(c & 7) / 512 if c < 8 else (8 + (c & 7)) / 8 * 2.0 ** ((c >> 3) - 7) for c in range(127)] + [np.nan])
UE8M0 = np.array([2.0 ** (c - 127) for c in range(255)] + [np.nan])
SCALE = {"nvfp4": E4M3, "mxfp4": UE8M0}
BLOCK = {"nvfp4": 16, "mxfp4": 32}
REST = {"model.norm.weight": Tensor("BF16", [4], bytes.fromhex("803f004080bf0000")),
        "model.embed_tokens.weight": Tensor("BF16", [2, 4], bytes(range(16)))}
TOKENIZER = '{"version": "1.0"}\n'
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64}


class Weight:
    def __init__(self, name, form, codes, scales, d=1.0):
        self.name, self.format, self.block = name, form, BLOCK[form]
        self.codes, self.scales, self.d = codes.astype(np.uint8), scales.astype(np.uint8), np.float32(d)

    @property
    def values(self):
        step = SCALE[self.format][self.scales] * np.float64(self.d)
        return E2M1[self.codes] * np.repeat(step, self.block, axis=-1)

    @property
    def s(self):
        """RNE32(1 / d), the reciprocal that an exporter stores."""
        return np.float32(1) / self.d

    def loaded(self):
        """The same with the D that a loader of the stored S decodes with."""
        return Weight(self.name, self.format, self.codes, self.scales, np.float32(1) / self.s)


def random_weight(name, form, rows, cols, seed, d=None, exponents=None):
    """Codes of every kind, -0 too; positive finite scales; `exponents`: the range of a UE8M0 scale, (least, largest)."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 16, (rows, cols))
    least, largest = (1, 126) if form == "nvfp4" else [127 + e for e in exponents or (-9, 8)]
    scales = random.integers(least, largest + 1, (rows, cols // BLOCK[form]))
    if form == "nvfp4" and d is None:
        d = np.float32(random.uniform(1, 2) * 2.0 ** -random.integers(8, 20))
    return Weight(name, form, codes, scales, 1.0 if d is None else d)


def random_experts(name, experts, rows, cols, seed):
    """MXFP4 [E, N, K], as gpt_oss takes it: codes [E, N, K], scales [E, N, K/32]."""
    flat = random_weight(name, "mxfp4", experts * rows, cols, seed)
    return Weight(name, "mxfp4", flat.codes.reshape(experts, rows, cols), flat.scales.reshape(experts, rows, -1))


def pack(codes):
    """Low nibble first."""
    return (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)


def u8(array):
    return Tensor("U8", array.shape, array.astype(np.uint8).tobytes())


def e4m3(array):
    return Tensor("F8_E4M3", array.shape, array.astype(np.uint8).tobytes())


def f32(value, shape=()):
    return Tensor("F32", shape, struct.pack("<f", value))


def write_folder(folder, tensors, config, shards=1, texts=None):
    """A checkpoint's folder: shards and their index, config.json, tokenizer.json and other texts. Returns it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = list(tensors)
    if shards == 1:
        harness.write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
    else:
        where = {}
        for i in range(shards):
            part = {name: tensors[name] for name in names[i::shards]}  # a weight's tensors fall into different shards
            file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            harness.write_safetensors(folder / file, part, {"format": "pt"})
            where.update({name: file for name in part})
        index = {"metadata": {"total_size": sum(len(t.data) for t in tensors.values())}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}, indent=2))
    (folder / "tokenizer.json").write_text(TOKENIZER)
    for name, text in (texts or {}).items():
        (folder / name).write_text(text)
    return folder


def modelopt(folder, weights, shards=1, input_scale=0.0078125):
    """T = X.weight: T, T_scale, T_scale_2 = D (shape []), X.input_scale. MXFP4: T and T_scale U8."""
    tensors = dict(REST)
    for w in weights:
        tensors[w.name] = u8(pack(w.codes))
        tensors[w.name + "_scale"] = e4m3(w.scales) if w.format == "nvfp4" else u8(w.scales)
        if w.format == "nvfp4":
            tensors[w.name + "_scale_2"] = f32(w.d)
            if input_scale is not None:
                tensors[w.name.removesuffix("weight") + "input_scale"] = f32(input_scale)
    algorithm = {"nvfp4": "NVFP4", "mxfp4": "MXFP4"}[weights[0].format]
    quantization = {"quant_algo": algorithm, "kv_cache_quant_algo": None, "group_size": weights[0].block,
                    "exclude_modules": ["lm_head"]}
    inside = {"config_groups": {"group_0": {"weights": {"dynamic": False, "num_bits": 4, "type": "float",
                                                        "group_size": weights[0].block}, "targets": ["Linear"]}},
              "ignore": ["lm_head"], "quant_algo": algorithm, "quant_method": "modelopt",
              "producer": {"name": "modelopt", "version": "0.37.0"}}
    text = json.dumps({"producer": {"name": "modelopt", "version": "0.37.0"}, "quantization": quantization}, indent=2)
    return write_folder(folder, tensors, {"quantization_config": inside}, shards, {"hf_quant_config.json": text})


def compressed_tensors(folder, weights, shards=1, input_scale=None):
    """T_packed, T_scale, T_global_scale = S = RNE32(1 / D) (shape [1]); MXFP4: T_packed and T_scale U8."""
    tensors = dict(REST)
    for w in weights:
        tensors[w.name + "_packed"] = u8(pack(w.codes))
        tensors[w.name + "_scale"] = e4m3(w.scales) if w.format == "nvfp4" else u8(w.scales)
        if w.format == "nvfp4":
            tensors[w.name + "_global_scale"] = f32(w.s, [1])
            if input_scale is not None:
                tensors[w.name.removesuffix("weight") + "input_global_scale"] = f32(input_scale, [1])
    form = weights[0].format
    arguments = {"num_bits": 4, "type": "float", "symmetric": True, "dynamic": False, "group_size": weights[0].block,
                 "strategy": "tensor_group" if form == "nvfp4" else "group",
                 "scale_dtype": "torch.float8_e4m3fn" if form == "nvfp4" else "torch.uint8"}
    inside = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": arguments, "input_activations": None,
                                            "output_activations": None, "format": f"{form}-pack-quantized"}},
              "format": f"{form}-pack-quantized", "quant_method": "compressed-tensors", "ignore": ["lm_head"],
              "quantization_status": "compressed", "kv_cache_scheme": None, "global_compression_ratio": None}
    return write_folder(folder, tensors, {"quantization_config": inside}, shards)


def gpt_oss(folder, weights, shards=1):
    """Experts [E, N, K]: T_blocks [E, N, K/32, 16], T_scales [E, N, K/32], T_bias BF16 [E, N]."""
    tensors = dict(REST)
    for w in weights:
        experts, rows, cols = w.codes.shape
        tensors[w.name + "_blocks"] = u8(pack(w.codes).reshape(experts, rows, cols // 32, 16))
        tensors[w.name + "_scales"] = u8(w.scales)
        tensors[w.name + "_bias"] = Tensor("BF16", [experts, rows], bytes(2 * experts * rows))
    inside = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.embed_tokens", "lm_head"]}
    return write_folder(folder, tensors, {"quantization_config": inside, "model_type": "gpt_oss"}, shards)


def fp_quant(folder, weights, shards=1):
    """X.qweight, X.scales (E4M3 or E8M0 bytes, U8), X.weight_global_scale = S and X.act_global_scale (F32 [1])."""
    tensors = dict(REST)
    for w in weights:
        module = w.name.removesuffix("weight")
        tensors[module + "qweight"] = u8(pack(w.codes))
        tensors[module + "scales"] = u8(w.scales)
        tensors[module + "weight_global_scale"] = f32(w.s, [1])
        tensors[module + "act_global_scale"] = f32(1.0, [1])
    inside = {"quant_method": "fp_quant", "forward_dtype": weights[0].format, "forward_method": "abs_max",
              "hadamard_group_size": 32, "modules_to_not_convert": ["lm_head"], "store_master_weights": False}
    return write_folder(folder, tensors, {"quantization_config": inside}, shards)


def swizzle(scales):
    """[M, K] of codes in the order of the tensor cores: 128 x 4 tiles, padded with zeros, flat."""
    rows, cols = scales.shape
    high, wide = (rows + 127) // 128, (cols + 3) // 4
    padded = np.zeros((high * 128, wide * 4), np.uint8)
    padded[:rows, :cols] = scales
    return padded.reshape(high, 4, 32, wide, 4).transpose(0, 3, 2, 1, 4).reshape(-1)


def fouroversix(folder, weights, shards=1, scale_max=448, blackwell=False):
    """X.quantized_weight_{values, scale_factors, amax, metadata}: amax = 6 * scale_max * d, which has to be a binary32
    number; metadata = [rows, cols, padded rows, padded cols, 1, swizzled or not]; scale factors flat."""
    tensors = dict(REST)
    for w in weights:
        name = w.name.removesuffix("weight") + "quantized_weight_"
        rows, cols = w.codes.shape
        amax = np.float64(w.d) * 6 * scale_max
        assert np.float32(amax) == amax, "take a d of fewer bits"
        tensors[name + "values"] = u8(pack(w.codes))
        tensors[name + "scale_factors"] = e4m3(swizzle(w.scales) if blackwell else w.scales.reshape(-1))
        tensors[name + "amax"] = f32(amax, [1])
        facts = [rows, cols, rows, cols, 1, int(blackwell)]
        tensors[name + "metadata"] = Tensor("I32", [6], struct.pack("<6i", *facts))
    rule = {448: "static_6", 256: "mse"}[scale_max]
    inside = {"quant_method": "fouroversix", "dtype": "nvfp4", "weight_scale_rule": rule, "modules_to_not_convert": ["lm_head"]}
    return write_folder(folder, tensors, {"quantization_config": inside}, shards)


def ggml_block_bytes(w):
    """[R, bytes]: MXFP4 [E, 16 bytes] a block; NVFP4 [4 scales, 4 x 8 bytes] a super-block of 64."""
    half = w.block // 2
    blocks = w.codes.reshape(*w.scales.shape, w.block)
    nibbles = (blocks[..., :half] | blocks[..., half:] << 4).astype(np.uint8)
    rows = w.codes.shape[0]
    if w.format == "mxfp4":
        return np.concatenate([w.scales[..., None], nibbles], axis=-1).reshape(rows, -1)
    supers = w.scales.shape[1] // 4
    return np.concatenate([w.scales.reshape(rows, supers, 4), nibbles.reshape(rows, supers, 32)], axis=-1).reshape(rows, -1)


def gguf_text(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf(path, weights, tensor_scales=True):
    """One .gguf (version 3): F32 "output_norm.weight" [4], and the weights; D of NVFP4 as X.scale, F32 [1]."""
    entries = [("output_norm.weight", [4], 0, struct.pack("<4f", 1, 2, -1, 0))]
    for w in weights:
        kind = {"mxfp4": 39, "nvfp4": 40}[w.format]
        entries.append((w.name, list(w.codes.shape), kind, ggml_block_bytes(w).tobytes()))
        if w.format == "nvfp4" and tensor_scales:
            entries.append((w.name.removesuffix("weight") + "scale", [1], 0, struct.pack("<f", w.d)))
    words = [("general.architecture", "llama"), ("general.name", "fixture")]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(words))
    for key, text in words:
        head += gguf_text(key) + struct.pack("<I", 8) + gguf_text(text)
    data = b""
    for name, shape, kind, content in entries:
        head += gguf_text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        head += struct.pack("<IQ", kind, len(data))
        data += content + bytes(-len(content) % 32)
    Path(path).write_bytes(head + bytes(-len(head) % 32) + data)
    return Path(path)
