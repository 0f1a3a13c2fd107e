#!/usr/bin/env python3
"""Saves H = X^T X of every linear layer of a running PyTorch model, by the name of its weight, for `quantize --hessian`.

    from save_hessians import Hessians
    with Hessians(model, block=16) as hessians:   # block=None: H whole, [K, K], for gptq and the like
        for batch in calibration:
            model(**batch)
    hessians.save("h")                            # h/hessians-00001.safetensors, ...
    # fp4scope quantize MODEL -o OUT --as compressed-tensors --scale hessian --hessian h

or for a Hugging Face model and a text file, one sample a line:

    save_hessians.py MODEL TEXT -o h [--block 16 | --whole] [--tokens 512] [--samples 128]

X holds all tokens that reach a layer, one a row. H is summed in float64 batch by batch, not divided by their number, and
made symmetric to the bit (the lower triangle is the upper one's). Diagonal blocks of 16 take K * 16 * 8 bytes a layer, the
whole H takes K * K * 8. A layer that no token reaches, an expert perhaps, is left out with a word.
"""
import argparse
import json
import struct
import sys
from pathlib import Path

import torch


def is_linear(module):
    return isinstance(module, torch.nn.Linear)


class Hessians:
    """Forward pre-hooks on a model's linear layers; a context that removes them."""

    def __init__(self, model, block=None, device=None, chosen=is_linear):
        self.block, self.device, self.sums, self.hooks = block, device, {}, []
        for name, module in model.named_modules():
            if not chosen(module):
                continue
            cols = module.weight.shape[1]
            if block and cols % block:
                print(f"{name}: {cols} columns are no multiple of {block}, left out", file=sys.stderr)
                continue
            self.sums[name + ".weight"] = None
            self.hooks.append(module.register_forward_pre_hook(self.hook(name + ".weight")))

    def hook(self, name):
        def see(_, inputs):
            self.add(name, inputs[0])
        return see

    @torch.no_grad()
    def add(self, name, x):
        """Adds X^T X of x [..., K]."""
        x = x.detach().reshape(-1, x.shape[-1]).to(device=self.device or x.device, dtype=torch.float64)
        if self.block:
            x = x.reshape(x.shape[0], -1, self.block).permute(1, 0, 2)  # [K / block, tokens, block]
        h = x.transpose(-1, -2) @ x
        self.sums[name] = h if self.sums[name] is None else self.sums[name].add_(h)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()
        self.hooks = []

    def save(self, folder, bytes_a_file=4 << 30):
        """Files of about that many bytes; one layer at a time is copied."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        part, size, number = [], 0, 1
        for name, h in self.sums.items():
            if h is None:
                print(f"{name}: no token came by, left out", file=sys.stderr)
                continue
            if part and size + h.numel() * 8 > bytes_a_file:
                write(folder / f"hessians-{number:05}.safetensors", part)
                part, size, number = [], 0, number + 1
            part.append((name, h))
            size += h.numel() * 8
        if part:
            write(folder / f"hessians-{number:05}.safetensors", part)


def symmetric(h):
    upper = torch.triu(h)
    return upper + torch.triu(h, 1).transpose(-1, -2)


def write(path, tensors):
    """A .safetensors file of float64 tensors."""
    header, offset = {}, 0
    for name, h in tensors:
        header[name] = {"dtype": "F64", "shape": list(h.shape), "data_offsets": [offset, offset + h.numel() * 8]}
        offset += h.numel() * 8
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, h in tensors:
            file.write(symmetric(h).cpu().contiguous().numpy().astype("<f8").tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--block", type=int, default=16)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--samples", type=int, default=128)
    a = parser.parse_args()
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(a.model)
    model = AutoModelForCausalLM.from_pretrained(a.model, torch_dtype="auto", device_map="auto").eval()
    lines = [line for line in a.text.read_text(encoding="utf-8").splitlines() if line.strip()][:a.samples]
    with Hessians(model, None if a.whole else a.block) as hessians, torch.no_grad():
        for line in lines:
            ids = tokenizer(line, return_tensors="pt", truncation=True, max_length=a.tokens)
            model(**ids.to(model.device))
    hessians.save(a.output)


if __name__ == "__main__":
    main()
