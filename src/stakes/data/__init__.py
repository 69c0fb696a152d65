"""Images and labels: sources, image sets, and the split into what is forgotten and what is kept."""

from stakes.data.forget import ForgetSplit, split_forget
from stakes.data.images import ImageSet
from stakes.data.sources import Source, open_source

__all__ = ["ForgetSplit", "ImageSet", "Source", "open_source", "split_forget"]
