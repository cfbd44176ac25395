"""DLRM: a recommender with embedding tables, pairwise interaction and two perceptrons."""

from __future__ import annotations

from onnx import ModelProto, TensorProto

from models.builder import GraphBuilder, Tensor

BOTTOM = (512, 256, 128)
TOP = (1024, 1024, 512, 256)


def dlrm(
    batch: int = 1, *, tables: int = 26, rows: int = 10_000, dense_features: int = 13, seed: int = 26
) -> ModelProto:
    """DLRM with `tables` embedding tables of [rows, 128].

    Inputs `dense` [batch, dense_features] float32 and `sparse` [batch, tables] int64 row numbers; output
    [batch, 1], a probability.
    """
    build = GraphBuilder("dlrm", seed)
    dense = build.input("dense", (batch, dense_features))
    sparse = build.input("sparse", (batch, tables), TensorProto.INT64)
    x = _perceptron(build, dense, BOTTOM, "none")
    embedded = [_embedding(build, sparse, table, rows) for table in range(tables)]
    x = _perceptron(build, interaction(build, x, embedded), TOP, "none")
    return build.output("output", build.sigmoid(build.gemm(x, 1)))


def interaction(build: GraphBuilder, x: Tensor, embedded: list[Tensor]) -> Tensor:
    """x beside the dot products of all pairs among x and `embedded`, each [batch, width]."""
    batch, width = x.shape
    count = len(embedded) + 1
    vectors = build.reshape(build.concat([x, *embedded], axis=1), (batch, count, width))
    products = build.matmul(vectors, build.transpose(vectors, (0, 2, 1)))
    flat = build.reshape(products, (batch, count * count))
    pairs = [row * count + column for row in range(count) for column in range(row)]
    return build.concat([x, build.gather(flat, build.indices(pairs), axis=1)], axis=1)


def _embedding(build: GraphBuilder, sparse: Tensor, table: int, rows: int) -> Tensor:
    """The rows of one table that a column of `sparse` names, [batch, 128]."""
    width = BOTTOM[-1]
    values = build.constant("table", build.normal((rows, width), width**-0.25))
    return build.gather(values, build.gather(sparse, build.indices(table), axis=1))


def _perceptron(build: GraphBuilder, x: Tensor, widths: tuple[int, ...], after: str) -> Tensor:
    for width in widths:
        x = build.relu(build.gemm(x, width, after=after))
        after = "relu"
    return x
