"""What an option is chosen from, where a verb and what it calls share the words; without libraries, so that `--help` starts at once."""

from typing import Literal

SplitName = Literal["evaluation", "validation", "training"]
LostBy = Literal["channels", "rank"]  # what parameters are lost by; rank: of the folded layers
Format = Literal["ckpt", "hw7-8bit", "hw7-16bit", "safetensors", "onnx", "onnx-int8"]
