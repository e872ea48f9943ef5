"""Turns the public int8 ONNX of Kokoro-82M v1.0 into one small file of tensors, and reads that file back as floats.

The weights stay in the 8 bits that they come in; what is left in floats is kept as float16. The whole is a safetensors
file behind zlib's Huffman-only coding, which suits noise-like bytes better than a dictionary coder does.
"""

from __future__ import annotations

import argparse
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load, save

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

SCALE, ZERO = ":scale", ":zero"
Arrays = dict[str, np.ndarray]
LSTM_GATES = (0, 2, 3, 1)  # ONNX orders the gates i o f c, torch i f c o


class Graph:
    """Initializers by name, and who makes and who reads each value."""

    def __init__(self, graph: GraphProto) -> None:
        from onnx import numpy_helper

        self.arrays = {init.name: np.array(numpy_helper.to_array(init)) for init in graph.initializer}
        self.maker = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.nodes = list(graph.node)

    def weight_scale(self, node: NodeProto) -> np.ndarray:
        """The weight's own scale: integer product -> (bias) -> Cast -> Mul by (input scale x weight scale)."""
        value = node.output[0]
        while True:
            (reader,) = self.readers[value]
            value = reader.output[0]
            if reader.op_type == "Mul":
                break
        product = next(self.maker[name] for name in reader.input if self.maker[name].op_type == "Mul")
        return next(self.arrays[name] for name in product.input if name in self.arrays)


def module_path(node_name: str) -> str:
    """'/decoder/decoder/generator/ups.0/ConvTranspose' -> 'decoder.generator.ups.0', as the original model names it."""
    parts = node_name.strip("/").split("/")[:-1]
    parts = [part for part, after in zip(parts, [*parts[1:], ""], strict=True) if not after.startswith(part + ".")]
    path = ".".join(parts)
    path = re.sub(r"^encoder\.(F0|N|shared)\b", r"encoder.predictor.\1", path)
    path = re.sub(r"^encoder\.(F0_proj|N_proj)", r"encoder.predictor.\1", path)
    return strip_wrapper(path)


def strip_wrapper(path: str) -> str:
    """The export wrapped the model in an 'encoder' and a 'decoder' module of its own."""
    return re.sub(r"^(encoder|decoder)\.", "", path, count=1)


def put_quantised(out: Arrays, key: str, weight: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> None:
    out[key] = np.ascontiguousarray(weight)
    out[key + SCALE] = np.atleast_1d(scale).astype(np.float32)
    out[key + ZERO] = np.atleast_1d(zero).astype(np.float32)


def add_product(out: Arrays, graph: Graph, node: NodeProto) -> None:
    """One ConvInteger or MatMulInteger: its weight, turned to torch's orientation."""
    key = module_path(node.name) + ".weight"
    if key in out or re.search(r"_\d+\.weight$", key):  # ALBERT's one layer is used twelve times
        return
    weight = graph.arrays[node.input[1]]
    zero = graph.arrays[node.input[3]] if len(node.input) > 3 else np.zeros(1)
    put_quantised(out, key, weight.T if node.op_type == "MatMulInteger" else weight, graph.weight_scale(node), zero)


def add_lstm(out: Arrays, graph: Graph, node: NodeProto) -> None:
    def regate(array: np.ndarray) -> np.ndarray:
        return np.concatenate([np.split(array, 4)[gate] for gate in LSTM_GATES])

    path = module_path(node.name)
    bias = graph.arrays[node.input[3]]
    for direction in range(2):
        suffix = "_l0_reverse" if direction else "_l0"
        for kind, weight, scale, zero in (("ih", 1, 8, 9), ("hh", 2, 10, 11)):
            arrays = [graph.arrays[node.input[slot]][direction] for slot in (weight, scale, zero)]
            put_quantised(out, f"{path}.weight_{kind}{suffix}", regate(arrays[0].T), arrays[1], arrays[2])
        for kind, half in zip(("ih", "hh"), np.split(bias[direction], 2), strict=True):
            out[f"{path}.bias_{kind}{suffix}"] = regate(half)


def add_table(out: Arrays, graph: Graph, node: NodeProto) -> None:
    """An embedding: Gather of 8-bit rows, then DequantizeLinear."""
    (reader,) = graph.readers[node.output[0]]
    key = strip_wrapper(node.input[0].removesuffix("_quantized"))
    put_quantised(out, key, *(graph.arrays[name] for name in (node.input[0], *reader.input[1:3])))


def collect(graph: Graph) -> Arrays:
    out: Arrays = {}
    for name, array in graph.arrays.items():
        if re.match(r"(encoder|decoder)\.", name) and array.dtype == np.float32 and not name.endswith("_scale"):
            out[strip_wrapper(name)] = array
    for node in graph.nodes:
        if node.op_type in ("ConvInteger", "MatMulInteger"):
            add_product(out, graph, node)
        elif node.op_type == "DynamicQuantizeLSTM":
            add_lstm(out, graph, node)
        elif node.op_type == "Gather" and node.input[0].endswith("weight_quantized"):
            add_table(out, graph, node)
        elif node.op_type in ("Conv", "ConvTranspose", "MatMul") and node.input[1] in graph.arrays:
            weight = graph.arrays[node.input[1]]
            out[module_path(node.name) + ".weight"] = weight.T if node.op_type == "MatMul" else weight
    return {key: array for key, array in out.items() if ".istft." not in key}  # torch.istft does that part


def tensors_of(arrays: Arrays) -> dict[str, torch.Tensor]:
    """float16 for the big floats: the exporter left two upsampling convolutions unquantised."""
    tensors = {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in arrays.items()}
    return {key: t.half() if t.dtype == torch.float32 and t.numel() > 4096 else t for key, t in tensors.items()}


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in float32, dequantised."""
    raw = load(zlib.decompress(path.read_bytes()))
    state: dict[str, Any] = {}
    for key, tensor in raw.items():
        if key.endswith((SCALE, ZERO)):
            continue
        value = tensor.float()
        if key + SCALE in raw:
            shape = (-1,) + (1,) * (value.dim() - 1)
            value = (value - raw[key + ZERO].view(shape)) * raw[key + SCALE].view(shape)
        state[key] = value.contiguous()
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onnx", type=Path, required=True, help="kokoro-v1.0.int8.onnx")
    parser.add_argument("--out", type=Path, required=True, help="for example kokoro.st.z")
    args = parser.parse_args()
    import onnx

    packer = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    tensors = tensors_of(collect(Graph(onnx.load(args.onnx).graph)))
    data = packer.compress(save(tensors)) + packer.flush()
    args.out.write_bytes(data)
    print(f"{args.out}: {len(tensors)} tensors, {len(data) / 2**20:.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
