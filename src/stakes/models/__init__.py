"""Networks, their split into features and head, checkpoints, and training from nothing."""

from stakes.models.augment import crop_and_flip
from stakes.models.checkpoint import load_checkpoint, save_checkpoint
from stakes.models.classifier import Classifier
from stakes.models.fold import fold_batchnorm
from stakes.models.pretrain import Epoch, channel_statistics, pretrain
from stakes.models.projector import Projector
from stakes.models.recipe import PretrainSettings, recipe
from stakes.models.registry import available, build_network
from stakes.models.resnet import ResNet, Stem

__all__ = [
    "Classifier",
    "Epoch",
    "PretrainSettings",
    "Projector",
    "ResNet",
    "Stem",
    "available",
    "build_network",
    "channel_statistics",
    "crop_and_flip",
    "fold_batchnorm",
    "load_checkpoint",
    "pretrain",
    "recipe",
    "save_checkpoint",
]
