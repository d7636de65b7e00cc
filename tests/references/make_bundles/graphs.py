"""Edits exported graphs without changing their results."""

from pathlib import Path

import onnx
import torch


def shorten(model: onnx.ModelProto) -> onnx.ModelProto:
    """Shortens internal names and removes the metadata of the exporter.

    Half of a tiny graph is names like `/model/layers.0/self_attn/q_proj/MatMul_output_0`, and the
    metadata contains local file names. Inputs, outputs and operators do not change.
    """
    interface_names = {value.name for value in [*model.graph.input, *model.graph.output]} | {""}
    short: dict[str, str] = {}

    def rename(name: str) -> str:
        if name in interface_names:
            return name
        return short.setdefault(name, f"t{len(short)}")

    def clean(graph: onnx.GraphProto) -> None:
        del graph.value_info[:]
        for value in [*graph.initializer, *graph.input, *graph.output]:
            value.name = rename(value.name)
            value.doc_string = ""
        for node in graph.node:
            node.name = ""
            node.doc_string = ""
            node.input[:] = [rename(name) for name in node.input]
            node.output[:] = [rename(name) for name in node.output]
            del node.metadata_props[:]
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    clean(attribute.g)

    clean(model.graph)
    for function in model.functions:
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    return model


def copy_short(source: Path, target: Path) -> None:
    """Copies a graph and shortens its names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(shorten(onnx.load(source)), target)


def merge(folder: Path, shapes: dict[str, list]) -> None:
    """Merges the graphs of the first and later steps; `shapes` are those of outputs."""
    # Not every environment has optimum.
    from optimum.onnx import merge_decoders

    paths = [folder / "decoder_model.onnx", folder / "decoder_with_past_model.onnx"]
    graphs = [onnx.load(path) for path in paths]
    for graph in graphs:
        # Merging needs the same output shapes in both graphs.
        for index, output in enumerate(list(graph.graph.output)):
            dtype = output.type.tensor_type.elem_type
            shaped = onnx.helper.make_tensor_value_info(output.name, dtype, shapes[output.name])
            graph.graph.output[index].CopyFrom(shaped)
    merged = folder / "decoder_model_merged.onnx"
    merge_decoders(*graphs, save_path=str(merged), strict=False)
    onnx.save(shorten(onnx.load(merged)), merged)
    for path in paths:
        path.unlink()


def trace(
    module: torch.nn.Module,
    inputs: dict[str, torch.Tensor],
    outputs: dict[str, dict[int, str]],
    axes: dict[str, dict[int, str]],
    target: Path,
) -> None:
    """Exports a module through TorchScript, for graphs that optimum cannot export.

    The module takes the inputs in order; `outputs` and `axes` name the dynamic sizes.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        module.eval(),
        tuple(inputs.values()),
        str(target),
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_axes={name: sizes for name, sizes in {**axes, **outputs}.items() if sizes},
        opset_version=18,
        dynamo=False,
    )
    copy_short(target, target)
