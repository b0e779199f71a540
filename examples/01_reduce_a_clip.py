"""The reduction alone: features of eight frames in, a tenth of the tokens out, as frames come."""

import torch

from aot import AOTConfig, ClipCompressor, FrameFeatures, concatenate

SIDE, DIM = 27, 896


def encode(num_frames: int) -> FrameFeatures:
    """Stands for a vision encoder: tokens, and the attention each received at two layers."""
    tokens = torch.randn(num_frames, SIDE * SIDE, DIM)
    local, deep = torch.rand(2, num_frames, SIDE * SIDE).softmax(dim=2)
    return FrameFeatures(tokens, local, deep, grid=(SIDE, SIDE))


torch.manual_seed(0)
compressor = ClipCompressor(AOTConfig.for_retention(0.10, grid=(SIDE, SIDE), clip_frames=8))
emitted, state = compressor.push(encode(2))
parts = [emitted]
for _ in range(3):  # two frames at a time; the state is all that stays between two pushes
    emitted, state = compressor.push(encode(2), state)
    parts.append(emitted)
for emitted in parts:
    print(f"{len(emitted.tokens):4} tokens could be read before the clip was whole")
clip = concatenate([*parts, compressor.finish(state)])

before = 8 * 14 * 14  # the model's own pooling halves the grid
print(f"{len(clip.tokens)} of {before} tokens kept, {len(clip.tokens) / before:.1%}")
