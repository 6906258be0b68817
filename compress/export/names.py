"""Names in an exported graph, made from module paths.

The dynamo exporter names values after internal graph nodes (``getitem_3``) and says in metadata which module made
them. That metadata also holds stack traces and source paths, so it cannot ship. Before it is stripped, its useful half
moves into the names themselves:

* a value that leaves module ``layers.0.relu1`` is called ``layers.0.relu1``, on the second call ``layers.0.relu1#1``;
* a value inside a module is called ``layers.0/Add``;
* a node that owns a weight is called after the weight's module, every other node after its first value;
* a weight that the exporter transposed or folded gets its parameter's path back.

So a name means the same thing after every re-export of the same architecture, whatever the weights, and a quant plan
can be keyed by it. Graph inputs and outputs keep the names of the signature.
"""

import ast
from collections import Counter, defaultdict

import onnx

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"  # torch.export's scope of what it adds itself, such as sizes
FOLDED_BIAS_SUFFIX = ".weight_bias"  # what onnxscript calls the bias that comes from folding a BatchNorm


def _scopes(node: onnx.NodeProto) -> list[str]:
    """Module paths around `node`, outermost first, without the root and without the operation itself."""
    for prop in node.metadata_props:
        if prop.key == SCOPES_KEY:
            return [scope for scope in ast.literal_eval(prop.value)[:-1] if scope and scope != NO_MODULE]
    return []


class _Names:
    """Hands out each name once; a repeated name gets ``#1``, ``#2`` and so on."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = set(taken)
        self._calls: Counter[str] = Counter()

    def unique(self, base: str) -> str:
        name = base
        while name in self._taken:
            self._calls[base] += 1
            name = f"{base}#{self._calls[base]}"
        self._taken.add(name)
        return name


def name_by_module(model: onnx.ModelProto) -> None:
    """Renames nodes, values and folded weights after the modules they come from, in place.

    Args:
        model: a graph as the dynamo exporter returns it, metadata included, without subgraphs that need new names.
    """
    graph = model.graph
    consumers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            consumers[name].append(node)
    fixed = {value.name for value in (*graph.input, *graph.output)}
    initializers = {tensor.name for tensor in graph.initializer}
    names = _Names(fixed | initializers)
    renamed: dict[str, str] = {}
    for node in graph.node:
        scopes = _scopes(node)
        module = scopes[-1] if scopes else ""
        if node.op_type in WEIGHTED and len(node.input) > 1:
            weight = node.input[1]
            if weight in initializers and "." not in weight and module and len(consumers[weight]) == 1:
                renamed[weight] = names.unique(f"{module}.weight")
        for index, output in enumerate(node.output):
            if not output or output in fixed:
                continue
            leaves = module and any(module not in _scopes(consumer) for consumer in consumers[output])
            base = module if leaves else f"{module}/{node.op_type}"
            renamed[output] = names.unique(f"{base}:{index}" if index else base)
    for name in initializers:
        if name.endswith(FOLDED_BIAS_SUFFIX):
            bias = name.removesuffix(FOLDED_BIAS_SUFFIX) + ".bias"
            if bias not in initializers:
                renamed[name] = bias
    _rename(graph, renamed)
    _name_nodes(graph)


def _rename(graph: onnx.GraphProto, renamed: dict[str, str]) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = renamed.get(name, name)
    for item in (*graph.initializer, *graph.value_info):
        item.name = renamed.get(item.name, item.name)


def _name_nodes(graph: onnx.GraphProto) -> None:
    initializers = {tensor.name for tensor in graph.initializer}
    names = _Names(set())
    for node in graph.node:
        owner = ""
        if node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in initializers:
            owner = node.input[1].rpartition(".")[0]
        node.name = names.unique(owner or node.output[0])
