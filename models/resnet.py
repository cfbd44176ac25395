"""ResNet-18 and ResNet-50 (the variant that strides in the 3x3 convolution), 1000 classes."""

from __future__ import annotations

from onnx import ModelProto

from models.builder import GraphBuilder, Tensor, Window

RESIDUAL_SCALE = 0.5  # gain of a branch's last batch norm: the sum over blocks stays within float16's comfort


def resnet18(
    batch: int = 1, *, image: int = 224, classes: int = 1000, seed: int = 18, fold_batch_norm: bool = True
) -> ModelProto:
    """ResNet-18: input [batch, 3, image, image], output logits [batch, classes]."""
    return _resnet("resnet18", _Block, (2, 2, 2, 2), batch, image, classes, seed, fold_batch_norm)


def resnet50(
    batch: int = 1, *, image: int = 224, classes: int = 1000, seed: int = 50, fold_batch_norm: bool = True
) -> ModelProto:
    """ResNet-50: input [batch, 3, image, image], output logits [batch, classes]."""
    return _resnet("resnet50", _Bottleneck, (3, 4, 6, 3), batch, image, classes, seed, fold_batch_norm)


def _resnet(
    name: str,
    block: type[_Block],
    depths: tuple[int, ...],
    batch: int,
    image: int,
    classes: int,
    seed: int,
    fold_batch_norm: bool,
) -> ModelProto:
    build = GraphBuilder(name, seed, fold_batch_norm)
    x = build.input("input", (batch, 3, image, image))
    x = build.relu(build.conv_bn(x, 64, Window(7, 2, 3), after="none"))
    x = build.max_pool(x, Window(3, 2, 1))
    for stage, depth in enumerate(depths):
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 else 1
            x = block(build, 64 << stage, stride).apply(x)
    return build.output("output", build.gemm(build.global_pool(x), classes, scale=2.0))


class _Block:
    """One residual block of `width` channels inside: main branch plus shortcut, then ReLU."""

    expansion = 1

    def __init__(self, build: GraphBuilder, width: int, stride: int) -> None:
        self.build, self.width, self.stride = build, width, stride

    def apply(self, x: Tensor) -> Tensor:
        """The block's output for x [N, C, H, W]."""
        return self.build.relu(self.build.add(self.branch(x), self.shortcut(x)))

    def shortcut(self, x: Tensor) -> Tensor:
        """x itself, or its strided 1x1 projection where the shape changes."""
        channels = self.width * self.expansion
        if self.stride == 1 and x.shape[1] == channels:
            return x
        return self.build.conv_bn(x, channels, Window(1, self.stride))

    def branch(self, x: Tensor) -> Tensor:
        """The residual branch."""
        build = self.build
        y = build.relu(build.conv_bn(x, self.width, Window(3, self.stride, 1)))
        return build.conv_bn(y, self.width, Window(3, 1, 1), scale=RESIDUAL_SCALE)


class _Bottleneck(_Block):
    expansion = 4

    def branch(self, x: Tensor) -> Tensor:
        build = self.build
        y = build.relu(build.conv_bn(x, self.width, Window(1)))
        y = build.relu(build.conv_bn(y, self.width, Window(3, self.stride, 1)))
        return build.conv_bn(y, self.width * self.expansion, Window(1), scale=RESIDUAL_SCALE)
