"""Small networks with and without BatchNorm, trained on the same 10,000 images of Fashion-MNIST.

    python experiments/without_batchnorm.py --idx IDX --out fashion [--only vit]

IDX holds the four files of Fashion-MNIST as they are published (`train-images-idx3-ubyte.gz` and so on; MIT licence,
Debian's package `dataset-fashion-mnist` has them). Into OUT go `data`, the first 10,000 images of the train split and
the whole test split, and `vit`, `convnext` (both of `transformers`, with LayerNorm) and `resnet` (a ResNet-10 with
BatchNorm), each trained by AdamW without augmentation until it has most of its training images right.
"""

from __future__ import annotations

import argparse
import gzip
import io
import math
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from stakes.files import writing
from stakes.models import Classifier, build_network, save_checkpoint

NAMES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot"]
SIZE, IMAGES, BATCH, WARM_UP = 28, 10_000, 64, 200
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: label for label, name in enumerate(NAMES)}}


def vit() -> nn.Module:
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            image_size=SIZE,
            patch_size=4,
            hidden_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=256,
            **LABELS,
        )
    )


def convnext() -> nn.Module:
    return transformers.ConvNextForImageClassification(
        transformers.ConvNextConfig(
            image_size=SIZE,
            patch_size=2,
            num_stages=3,
            hidden_sizes=[32, 64, 128],
            depths=[1, 1, 2],
            **LABELS,
        )
    )


def resnet() -> nn.Module:
    return build_network("resnet10", num_classes=len(NAMES), width=24)


# Name: what builds it, epochs, lr.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, float]] = {
    "vit": (vit, 25, 1e-3),
    "convnext": (convnext, 15, 2e-3),
    "resnet": (resnet, 12, 2e-3),
}


def read(idx: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 28, 28) of bytes, and labels (n,)."""
    images = np.frombuffer(
        gzip.decompress((idx / f"{split}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16
    )
    labels = np.frombuffer(
        gzip.decompress((idx / f"{split}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8
    )
    return images.reshape(-1, SIZE, SIZE), labels


def write(images: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """As Parquet with three equal channels."""
    rows = []
    for image in images:
        Image.fromarray(image).convert("RGB").save(buffer := io.BytesIO(), "PNG", compress_level=1)
        rows.append({"bytes": buffer.getvalue(), "path": None})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    with writing(path) as new:
        columns = {"image": rows, "label": labels.astype(int).tolist()}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(new)


def train(name: str, images: Tensor, labels: Tensor) -> Classifier:
    build, epochs, most = NETWORKS[name]
    torch.manual_seed(0)
    network, draws = build(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=most, weight_decay=0.02)
    whole, step = len(images) // BATCH, 0
    for epoch in range(epochs):
        order, right = torch.randperm(len(images), generator=draws), 0
        network.train()
        for rows in order[: whole * BATCH].split(BATCH):
            lr = most * min(1, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / (epochs * whole)))
            for group in optimizer.param_groups:
                group["lr"] = lr
            answer = network((images[rows] - 0.5) / 0.5)
            logits = answer if isinstance(answer, Tensor) else answer.logits
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[rows]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            right, step = right + int((logits.argmax(1) == labels[rows]).sum()), step + 1
        print(
            f"{name}: epoch {epoch + 1} of {epochs}, {100 * right / (whole * BATCH):.1f} % right", flush=True
        )
    return Classifier.from_network(
        network.eval(), class_names=NAMES, input_size=(3, SIZE, SIZE), mean=(0.5,) * 3, std=(0.5,) * 3
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--idx", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=NETWORKS, action="append")
    given = parser.parse_args()
    images, labels = (part[:IMAGES] for part in read(given.idx, "train"))
    if not (given.out / "data").is_dir():
        write(images, labels, given.out / "data" / "train.parquet")
        write(*read(given.idx, "t10k"), given.out / "data" / "test.parquet")
    pixels = torch.tensor(images).float().div(255).unsqueeze(1).expand(-1, 3, -1, -1)
    for name in given.only or NETWORKS:
        save_checkpoint(train(name, pixels, torch.tensor(labels).long()), given.out / name)


if __name__ == "__main__":
    main()
