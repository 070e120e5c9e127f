"""Small networks as ONNX files of other producers, for `tests/test_onnx_read.py`.

Each producer wants an environment of its own (the versions are those of the files in `tests/files`):

    pip install tensorflow-cpu==2.21.0 keras==3.15.1 tf2onnx==1.17.0 && python make.py keras ../../tests/files
    pip install jax==0.10.2 flax==0.12.8 jax2onnx==0.17.1 && python make.py jax ../../tests/files

Both draw the same kind of network: images (N, 32, 32, 3), channels last, through a convolution with SAME padding and stride 2, a
norm with random statistics, a depth-wise convolution, a squeeze-and-excitation, a residual addition, pools, and a dense layer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

SIZE, CLASSES = 32, 10


def keras(folder: Path) -> None:
    """keras_cnn.onnx, by tf2onnx."""
    import numpy as np
    import tensorflow as tf
    import tf2onnx
    from keras import Model, layers, utils

    utils.set_random_seed(0)
    image = layers.Input((SIZE, SIZE, 3), name="image")
    x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(image)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    short = layers.MaxPooling2D(2, padding="same")(x)
    x = layers.Conv2D(24, 1, activation="swish")(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    x = layers.LeakyReLU(0.1)(layers.BatchNormalization()(x))
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(24, 1, activation="sigmoid")(layers.Conv2D(8, 1, activation="relu")(gate))
    x = layers.Conv2D(16, 1)(layers.Multiply()([x, gate]))
    x = layers.Concatenate()([layers.Add()([x, short]), layers.AveragePooling2D(3, strides=1, padding="same")(x)])
    x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(32, 3, activation="elu")(x)
    x = layers.Dense(CLASSES)(layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(x)))
    model = Model(image, x)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            low = (0.5, -0.5, -0.5, 0.5)  # gamma, beta, mean, variance
            layer.set_weights([rng.uniform(a, a + 1, w.shape) for a, w in zip(low, layer.get_weights(), strict=True)])
    signature = [tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32, name="image")]
    tf2onnx.convert.from_function(
        tf.function(lambda image: model(image, training=False)), signature, opset=17, output_path=str(folder / "keras_cnn.onnx")
    )


def jax(folder: Path) -> None:
    """jax_cnn.onnx, by jax2onnx."""
    import jax
    import onnx
    from flax import nnx
    from jax2onnx import to_onnx

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.stem = nnx.Conv(3, 16, (3, 3), strides=2, padding="SAME", use_bias=False, rngs=rngs)
            self.norm = nnx.BatchNorm(16, use_running_average=True, rngs=rngs)
            self.wide = nnx.Conv(16, 24, (1, 1), rngs=rngs)
            self.depth = nnx.Conv(24, 24, (3, 3), padding="SAME", feature_group_count=24, rngs=rngs)
            self.less = nnx.Conv(24, 8, (1, 1), rngs=rngs)
            self.more = nnx.Conv(8, 24, (1, 1), rngs=rngs)
            self.narrow = nnx.Conv(24, 16, (1, 1), rngs=rngs)
            self.last = nnx.Conv(16, 32, (3, 3), strides=2, padding="SAME", rngs=rngs)
            self.head = nnx.Linear(32, CLASSES, rngs=rngs)
            keys = jax.random.split(jax.random.key(1), 4)
            norm, draw = self.norm, jax.random.uniform
            norm.scale.value, norm.bias.value = draw(keys[0], (16,)) + 0.5, draw(keys[1], (16,)) - 0.5
            norm.mean.value, norm.var.value = draw(keys[2], (16,)) - 0.5, draw(keys[3], (16,)) + 0.5

        def __call__(self, x: jax.Array) -> jax.Array:
            x = nnx.relu(self.norm(self.stem(x)))
            y = nnx.silu(self.depth(nnx.gelu(self.wide(x))))
            y = y * nnx.sigmoid(self.more(nnx.relu(self.less(y.mean((1, 2), keepdims=True)))))
            x = nnx.max_pool(x + self.narrow(y), window_shape=(2, 2), strides=(2, 2))
            return self.head(nnx.relu(self.last(x)).mean((1, 2)))

    model = to_onnx(Net(nnx.Rngs(0)), [("B", SIZE, SIZE, 3)], model_name="jax_cnn")
    onnx.save(model, folder / "jax_cnn.onnx")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("producer", choices=("keras", "jax"))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    {"keras": keras, "jax": jax}[options.producer](options.folder)


if __name__ == "__main__":
    main()
