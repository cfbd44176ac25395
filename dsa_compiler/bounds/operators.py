"""Every ONNX operator by category: what counts as one element operation of it, and in which cost class.

`required` marks the work that only the vector engine can do (machine.md, "Lower bound"); the rest of an
operator's element operations is linear or a reduction, and is counted as a denominator alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from onnx import NodeProto

SIMPLE, DIVIDE, TRANSCENDENTAL = "simple", "divide", "transcendental"
CLASS_ORDER = (SIMPLE, DIVIDE, TRANSCENDENTAL)
"""Cost classes of element operations, cheapest first."""


class Kind(Enum):
    """The category of an operator: which formula counts its work."""

    ACTIVATION = "activation"  # non-linear, one operand
    NONLINEAR = "non-linear elementwise"  # several operands
    PRODUCT = "elementwise product"  # non-linear if both operands vary
    QUOTIENT = "elementwise quotient"  # non-linear if the divisor varies
    POWER = "power"
    LINEAR = "linear elementwise"
    BATCH_NORM = "batch norm"
    QUANTIZE = "quantization"
    SOFTMAX = "softmax"
    NORMALIZATION = "normalization"
    SCALING = "scaling by a norm"  # root mean square, Lp
    RESPONSE_NORM = "local response normalization"
    MATRIX = "matrix"
    RECURRENT = "recurrent"
    ATTENTION = "attention"
    MAX_POOL = "max pooling"
    POOL = "pooling"
    GLOBAL_MAX_POOL = "global max pooling"
    REDUCTION = "reduction"  # global pooling included
    SCAN = "scan"
    SORT = "sort"
    RESAMPLE = "resampling"
    SUPPRESSION = "suppression"
    MOVEMENT = "data movement"
    CONTROL = "control flow"
    OPAQUE = "not counted"  # strings, sequences, random numbers, trees


@dataclass(frozen=True)
class OperatorClass:
    """Category of an operator and the cost class of one element operation of it."""

    kind: Kind
    cost: str = SIMPLE


_GROUPS: tuple[tuple[Kind, str, str], ...] = (
    (
        Kind.ACTIVATION,
        SIMPLE,
        "Abs Ceil Clip Floor HardSigmoid HardSwish IsInf IsNaN LeakyRelu Not BitwiseNot Relu Round Shrink Sign "
        "ThresholdedRelu PRelu Binarizer QLinearLeakyRelu",
    ),
    (Kind.ACTIVATION, DIVIDE, "Reciprocal"),
    (
        Kind.ACTIVATION,
        TRANSCENDENTAL,
        "Acos Acosh Asin Asinh Atan Atanh BiasGelu Celu Cos Cosh Elu Erf Exp FastGelu Gelu Log Mish QLinearSigmoid "
        "QuickGelu Selu Sigmoid Silu Sin Sinh Softplus Softsign Sqrt Swish SwiGLU Tan Tanh",
    ),
    (
        Kind.NONLINEAR,
        SIMPLE,
        "And BitShift BitwiseAnd BitwiseOr BitwiseXor Equal Greater GreaterOrEqual Less LessOrEqual Max Min Or Where "
        "Xor",
    ),
    (Kind.NONLINEAR, DIVIDE, "Mod"),
    (Kind.PRODUCT, SIMPLE, "Mul QLinearMul RotaryEmbedding"),
    (Kind.QUOTIENT, DIVIDE, "Div"),
    (Kind.POWER, TRANSCENDENTAL, "Pow"),
    (
        Kind.LINEAR,
        SIMPLE,
        "Add Affine Cast CastLike DequantizeLinear ImageScaler Imputer Mean Neg QLinearAdd Scaler Sub Sum",
    ),
    (Kind.BATCH_NORM, SIMPLE, "BatchNormalization"),
    (Kind.QUANTIZE, SIMPLE, "QuantizeLinear DynamicQuantizeLinear"),
    (Kind.SOFTMAX, TRANSCENDENTAL, "Softmax LogSoftmax QLinearSoftmax"),
    (
        Kind.NORMALIZATION,
        SIMPLE,
        "LayerNormalization InstanceNormalization GroupNormalization MeanVarianceNormalization "
        "SkipLayerNormalization GroupNorm",
    ),
    (
        Kind.SCALING,
        SIMPLE,
        "RMSNormalization LpNormalization SimplifiedLayerNormalization SkipSimplifiedLayerNormalization Normalizer",
    ),
    (Kind.RESPONSE_NORM, TRANSCENDENTAL, "LRN"),
    (
        Kind.MATRIX,
        SIMPLE,
        "CausalConvWithState Conv ConvInteger ConvTranspose DeformConv DynamicQuantizeMatMul Einsum FusedConv "
        "FusedGemm FusedMatMul Gemm LinearRegressor MatMul MatMulInteger MatMulIntegerToFloat MatMulNBits QGemm "
        "QLinearConv QLinearMatMul",
    ),
    (Kind.RECURRENT, TRANSCENDENTAL, "DynamicQuantizeLSTM GRU LSTM RNN"),
    (Kind.ATTENTION, TRANSCENDENTAL, "Attention FlexAttention MultiHeadAttention"),
    (Kind.MAX_POOL, SIMPLE, "MaxPool"),
    (Kind.POOL, SIMPLE, "AveragePool LpPool QLinearAveragePool"),
    (Kind.GLOBAL_MAX_POOL, SIMPLE, "GlobalMaxPool"),
    (
        Kind.REDUCTION,
        SIMPLE,
        "ArgMax ArgMin GlobalAveragePool GlobalLpPool Hardmax QLinearGlobalAveragePool ReduceL1 ReduceL2 "
        "ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare",
    ),
    (Kind.SCAN, SIMPLE, "CumProd CumSum"),
    (Kind.SORT, SIMPLE, "TopK Unique"),
    (Kind.RESAMPLE, SIMPLE, "AffineGrid GridSample MaxRoiPool Resize RoiAlign Upsample"),
    (Kind.SUPPRESSION, SIMPLE, "NonMaxSuppression"),
    (
        Kind.MOVEMENT,
        SIMPLE,
        "ArrayFeatureExtractor BitCast CenterCropPad Col2Im Compress Concat Constant ConstantOfShape Crop "
        "DepthToSpace Dropout Expand EyeLike FeatureVectorizer Flatten Gather GatherElements GatherND Identity "
        "MaxUnpool NonZero OneHot Pad QLinearConcat Range Reshape ReverseSequence Scatter ScatterElements ScatterND "
        "Shape Size Slice SpaceToDepth Split Squeeze TensorScatter Tile Transpose Trilu Unsqueeze",
    ),
    (Kind.CONTROL, SIMPLE, "If Loop Scan SequenceMap"),
    (
        Kind.OPAQUE,
        SIMPLE,
        "Bernoulli BlackmanWindow ConcatFromSequence Det DFT HammingWindow HannWindow ImageDecoder LinearAttention "
        "MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement "
        "RandomNormal RandomNormalLike RandomUniform RandomUniformLike RegexFullMatch SequenceAt SequenceConstruct "
        "SequenceEmpty SequenceErase SequenceInsert SequenceLength SoftmaxCrossEntropyLoss SplitToSequence STFT "
        "StringConcat StringNormalizer StringSplit TfIdfVectorizer",
    ),
)

OPERATORS: Mapping[str, OperatorClass] = MappingProxyType(
    {name: OperatorClass(kind, cost) for kind, cost, names in _GROUPS for name in names.split()}
)
"""Operators of the default domain and of com.microsoft by name."""

RANDOM = frozenset(
    ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"]
)
"""Operators whose result differs from run to run, even for constant operands."""


def classify(op_type: str) -> OperatorClass:
    """The category of an operator; an operator that nobody knows is opaque."""
    return OPERATORS.get(op_type, OperatorClass(Kind.OPAQUE))


_SHAPE_OPERANDS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "Clip": (1, 2),
        "ConstantOfShape": (0,),
        "Expand": (1,),
        "If": (0,),
        "Loop": (0, 1),
        "OneHot": (1,),
        "Pad": (1, 3),
        "Range": (0, 1, 2),
        "Reshape": (1,),
        "Resize": (1, 2, 3),
        "Slice": (1, 2, 3, 4),
        "Split": (1,),
        "Squeeze": (1,),
        "Tile": (1,),
        "TopK": (1,),
        "Trilu": (1,),
        "Unsqueeze": (1,),
        "Upsample": (1,),
    }
)
"""Operands that are attributes in all but name: a program holds them, not the memory."""


def memory_operands(node: NodeProto) -> list[str]:
    """The operands of a node that lie in memory, each once: not axes, sizes and bounds."""
    skipped = _SHAPE_OPERANDS.get(node.op_type, ())
    if classify(node.op_type).kind is Kind.REDUCTION:
        skipped = (1,)
    return list(dict.fromkeys(name for index, name in enumerate(node.input) if name and index not in skipped))
