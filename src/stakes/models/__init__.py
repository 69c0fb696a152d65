"""Networks, their split into features and head, and checkpoints."""

from stakes.models.checkpoint import load_checkpoint, save_checkpoint
from stakes.models.classifier import Classifier
from stakes.models.projector import Projector
from stakes.models.registry import available, build_network
from stakes.models.resnet import ResNet, Stem

__all__ = [
    "Classifier",
    "Projector",
    "ResNet",
    "Stem",
    "available",
    "build_network",
    "load_checkpoint",
    "save_checkpoint",
]
