"""Safetensors bytes that depend on their content alone."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch


def stable_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Serialise tensors and metadata so that equal content gives equal bytes.

    The safetensors writer keeps metadata in a hash map whose order changes from one call to the next; here
    the header is written again with its keys sorted. Offsets count from the end of the header, so they stay.

    Example:
        >>> a = stable_bytes({"x": torch.zeros(2)}, {"b": "1", "a": "2"})
        >>> a == stable_bytes({"x": torch.zeros(2)}, {"a": "2", "b": "1"})
        True
    """
    from safetensors.torch import save

    raw: bytes = save({name: tensor.contiguous() for name, tensor in tensors.items()}, dict(metadata))
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.dumps(
        json.loads(raw[8:end]), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()
    header += b" " * (-len(header) % 8)  # the format aligns the data to 8 bytes
    return len(header).to_bytes(8, "little") + header + raw[end:]
