#!/usr/bin/env python3
"""A model of 7 billion weights in BF16 to measure with: 32 layers, all of the same random values, in shards of four.

    synthetic_model.py FOLDER [--layers 32] [--hidden 4096] [--inner 11008] [--vocabulary 32000] [--seed 1]

Values are bell-shaped by octaves: a low byte at random, and a high byte (sign and exponent) by the shares of N(0, 0.02^2).
13.5 GB as it stands; one layer, 405 MB, is held in memory.
"""
import argparse
import json
import math
import random
import struct
from pathlib import Path

LAYERS_A_SHARD = 4


def high_bytes(spread):
    """256 high bytes of BF16, each for 1/256 of N(0, spread^2)."""
    def below(x):
        return math.erf(x / spread / math.sqrt(2))
    shares = [(byte, below(4.0 ** (byte - 0x3F) * 2) - below(4.0 ** (byte - 0x3F) / 2)) for byte in range(0x36, 0x3F)]
    table = []
    for byte, share in shares:
        table += [byte] * round(128 * share)
    table = (table + [0x3C] * 128)[:128]
    return bytes(table + [byte | 0x80 for byte in table])


def bfloats(rng, count, table):
    data = bytearray(2 * count)
    data[0::2] = rng.randbytes(count)
    data[1::2] = rng.randbytes(count).translate(table)
    return bytes(data)


def write_shard(path, tensors):
    """tensors: {name: (shape, bytes)}"""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, data in tensors.values():
            file.write(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, value in (("layers", 32), ("hidden", 4096), ("inner", 11008), ("vocabulary", 32000), ("seed", 1)):
        parser.add_argument("--" + name, type=int, default=value)
    a = parser.parse_args()
    a.folder.mkdir(parents=True)
    rng, table = random.Random(a.seed), high_bytes(0.02)
    shapes = {f"self_attn.{n}_proj.weight": [a.hidden, a.hidden] for n in "qkvo"}
    shapes.update({"mlp.gate_proj.weight": [a.inner, a.hidden], "mlp.up_proj.weight": [a.inner, a.hidden], "mlp.down_proj.weight": [a.hidden, a.inner]})
    layer = {name: (shape, bfloats(rng, shape[0] * shape[1], table)) for name, shape in shapes.items()}
    layer["input_layernorm.weight"] = ([a.hidden], b"\x80\x3f" * a.hidden)
    layer["post_attention_layernorm.weight"] = ([a.hidden], b"\x80\x3f" * a.hidden)
    shards = []
    for first in range(0, a.layers, LAYERS_A_SHARD):
        shards.append({f"model.layers.{i}.{name}": value for i in range(first, min(first + LAYERS_A_SHARD, a.layers)) for name, value in layer.items()})
    vocabulary = ([a.vocabulary, a.hidden], bfloats(rng, a.vocabulary * a.hidden, table))
    shards.append({"model.embed_tokens.weight": vocabulary, "lm_head.weight": vocabulary, "model.norm.weight": layer["input_layernorm.weight"]})
    weight_map, total = {}, 0
    for number, tensors in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        write_shard(a.folder / file, tensors)
        weight_map.update({name: file for name in tensors})
        total += sum(len(data) for _, data in tensors.values())
    (a.folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n")
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": a.hidden, "intermediate_size": a.inner,
              "num_hidden_layers": a.layers, "vocab_size": a.vocabulary, "torch_dtype": "bfloat16"}
    (a.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(f"{total} bytes in {len(shards)} shards")


if __name__ == "__main__":
    main()
