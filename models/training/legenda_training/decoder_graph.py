"""The decoder as an ONNX graph with an in-place KV cache, written row by row.

Opset 24: `TensorScatter` writes the new keys and values to a fixed buffer at `write_indices[b]`.
`Attention` reads the first `nonpad_kv_seqlen[b]` of them with a causal mask from `position_ids`.
Rows of different length can therefore share a batch, and a slot is reused by overwriting it.

Weights are stored as float16, each followed by a `Cast` to float32 (a runtime folds it on load).
B batch, S sequence, L max_length, C hidden width, H query heads, K key/value heads, D head width.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from transformers import LlamaConfig

OPSET = 24


class GraphBuilder:
    """Collects nodes and initializers; every method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._count = 0

    def node(self, kind: str, *inputs: str, name: str | None = None, **attributes) -> str:
        """Adds a node with one output."""
        if name is None:
            self._count += 1
            name = f"{kind.lower()}_{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: np.ndarray, name: str | None = None) -> str:
        """Adds an initializer unchanged."""
        if name is None:
            self._count += 1
            name = f"constant_{self._count}"
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def ints(self, *values: int) -> str:
        """Adds a 1-D int64 constant."""
        return self.constant(np.array(values, np.int64))

    def weight(self, value: np.ndarray, name: str) -> str:
        """Adds a float32 weight, stored as float16 and followed by a Cast."""
        self.constant(value.astype(np.float16), name)
        return self.node("Cast", name, to=TensorProto.FLOAT, name=name + "_float")


def rms_norm(graph: GraphBuilder, x: str, weight: np.ndarray, eps: float, name: str) -> str:
    """Adds x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    square = graph.node("Pow", x, graph.constant(np.array(2.0, np.float32)))
    mean = graph.node("ReduceMean", square, graph.ints(-1), keepdims=1)
    shifted = graph.node("Add", mean, graph.constant(np.array(eps, np.float32)))
    unit = graph.node("Div", x, graph.node("Sqrt", shifted))
    return graph.node("Mul", graph.constant(weight.astype(np.float32), name), unit)


def decoder_graph(config: LlamaConfig, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Builds the graph from a Llama state dict (`layers.0.self_attn.q_proj.weight`, ...), float32.

    `lm_head.weight` [vocabulary, C] must be among the weights.
    """
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim, width, eps = config.head_dim, config.hidden_size, config.rms_norm_eps
    layers = config.num_hidden_layers
    graph = GraphBuilder()

    def linear(x: str, key: str) -> str:
        stored = graph.weight(np.ascontiguousarray(weights[key].T), key)
        return graph.node("MatMul", x, stored)

    positions = graph.node("Cast", "position_ids", to=TensorProto.FLOAT)
    positions = graph.node("Unsqueeze", positions, graph.ints(-1))
    theta = config.rope_parameters["rope_theta"]
    inverse = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    angles = graph.node("Mul", positions, graph.constant(inverse.astype(np.float32)))
    cosine, sine = graph.node("Cos", angles), graph.node("Sin", angles)

    length = graph.node("Shape", "past_key_values.0.key", start=2, end=3)
    length = graph.node("Squeeze", length, graph.ints(0))
    zero, one = graph.constant(np.array(0, np.int64)), graph.constant(np.array(1, np.int64))
    keys = graph.node("Range", zero, length, one)
    reach = graph.node("Unsqueeze", "position_ids", graph.ints(1, 3))
    mask = graph.node("LessOrEqual", keys, reach)

    split_q = graph.ints(0, 0, heads, head_dim)
    split_kv = graph.ints(0, 0, kv_heads, head_dim)
    merge = graph.ints(0, 0, heads * head_dim)

    def spread(x: str, shape: str) -> str:
        """Reshapes [B, S, heads * D] to [B, heads, S, D]."""
        return graph.node("Transpose", graph.node("Reshape", x, shape), perm=[0, 2, 1, 3])

    hidden = "inputs_embeds"
    for i in range(layers):
        prefix = f"layers.{i}."
        normed = rms_norm(
            graph,
            hidden,
            weights[prefix + "input_layernorm.weight"],
            eps,
            prefix + "input_layernorm.weight",
        )
        query = spread(linear(normed, prefix + "self_attn.q_proj.weight"), split_q)
        key = spread(linear(normed, prefix + "self_attn.k_proj.weight"), split_kv)
        value = spread(linear(normed, prefix + "self_attn.v_proj.weight"), split_kv)
        query = graph.node("RotaryEmbedding", query, cosine, sine)
        key = graph.node("RotaryEmbedding", key, cosine, sine)
        key = graph.node(
            "TensorScatter",
            f"past_key_values.{i}.key",
            key,
            "write_indices",
            name=f"present.{i}.key",
            axis=-2,
            mode="linear",
        )
        value = graph.node(
            "TensorScatter",
            f"past_key_values.{i}.value",
            value,
            "write_indices",
            name=f"present.{i}.value",
            axis=-2,
            mode="linear",
        )
        attended = graph.node(
            "Attention",
            query,
            key,
            value,
            mask,
            "",
            "",
            "nonpad_kv_seqlen",
            scale=float(head_dim) ** -0.5,
        )
        attended = graph.node("Transpose", attended, perm=[0, 2, 1, 3])
        attended = graph.node("Reshape", attended, merge)
        hidden = graph.node("Add", hidden, linear(attended, prefix + "self_attn.o_proj.weight"))
        normed = rms_norm(
            graph,
            hidden,
            weights[prefix + "post_attention_layernorm.weight"],
            eps,
            prefix + "post_attention_layernorm.weight",
        )
        gate = linear(normed, prefix + "mlp.gate_proj.weight")
        gate = graph.node("Mul", gate, graph.node("Sigmoid", gate))
        inner = graph.node("Mul", gate, linear(normed, prefix + "mlp.up_proj.weight"))
        hidden = graph.node("Add", hidden, linear(inner, prefix + "mlp.down_proj.weight"))

    sequence = graph.node("Shape", "inputs_embeds", start=1, end=2)
    keep = graph.node("Unsqueeze", "num_logits_to_keep", graph.ints(0))
    start = graph.node(
        "Where",
        graph.node("Equal", keep, graph.ints(0)),
        graph.ints(0),
        graph.node("Sub", sequence, keep),
    )
    kept = graph.node("Slice", hidden, start, sequence, graph.ints(1))
    normed = rms_norm(graph, kept, weights["norm.weight"], eps, "norm.weight")
    stored = graph.weight(np.ascontiguousarray(weights["lm_head.weight"].T), "lm_head.weight")
    graph.node("MatMul", normed, stored, name="logits")

    def floats(name: str, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    def integers(name: str, *shape: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.INT64, shape)

    cache_shape = ("batch", kv_heads, "max_length", head_dim)
    cache = [f"{i}.{part}" for i in range(layers) for part in ("key", "value")]
    inputs = [
        floats("inputs_embeds", "batch", "sequence", width),
        integers("position_ids", "batch", "sequence"),
        integers("write_indices", "batch"),
        integers("nonpad_kv_seqlen", "batch"),
        integers("num_logits_to_keep"),
        *(floats("past_key_values." + part, *cache_shape) for part in cache),
    ]
    outputs = [
        floats("logits", "batch", "kept", config.vocab_size),
        *(floats("present." + part, *cache_shape) for part in cache),
    ]
    proto = helper.make_graph(graph.nodes, "legenda_decoder", inputs, outputs, graph.initializers)
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=11,
        producer_name="legenda_training",
    )
    onnx.checker.check_model(model)
    return model


def embed_tokens_graph(table: np.ndarray) -> onnx.ModelProto:
    """Maps `input_ids` int64 [B, S] to `inputs_embeds` float32 [B, S, C]; the table is float16."""
    graph = GraphBuilder()
    graph.constant(table.astype(np.float16), "embed_tokens.weight")
    rows = graph.node("Gather", "embed_tokens.weight", "input_ids")
    graph.node("Cast", rows, to=TensorProto.FLOAT, name="inputs_embeds")
    proto = helper.make_graph(
        graph.nodes,
        "legenda_embed_tokens",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ("batch", "sequence"))],
        [
            helper.make_tensor_value_info(
                "inputs_embeds", TensorProto.FLOAT, ("batch", "sequence", table.shape[1])
            )
        ],
        graph.initializers,
    )
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
        producer_name="legenda_training",
    )
    onnx.checker.check_model(model)
    return model
