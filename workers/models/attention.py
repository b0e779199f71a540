"""Attention received by every patch, read in single layers while SDPA runs everywhere.

The attention a token *receives* in a layer is a column sum of the softmax matrix
P = softmax(q kᵀ · scaling) over keys: received[h, j] = Σ_i P[h, i, j]. Its mean over tokens is 1,
since every row of P adds up to 1. SDPA never forms P, so a probed layer computes the sums beside
it. A CPU takes a block of queries at a time: one extra q kᵀ, about 2 MiB of memory, no
t x heads x n x n. An accelerator takes one launch, in which scores never leave the registers
(`aot.kernels.attention`), where flash attention gives the rows' sums with its output, else two.

`PROBED_SDPA` is an entry of transformers' attention interface: SDPA that, in a module carrying an
`AttentionProbe`, leaves the sums there. The interface passes the module but none of the model's
keyword arguments, so the probe is an attribute of the module, and thread-local: two threads may
run one encoder.
"""

import threading
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from aot.kernels import runs_kernels
from workers.errors import UnsupportedModel

PROBED_SDPA = "sdpa_with_received"
WORKING_BYTES = 2 * 1024**2
"""Scores and probabilities of one block on a CPU: about one L2 cache."""
WORKING_BYTES_ACCELERATOR = 256 * 1024**2
"""The same on an accelerator, which wants few large kernels."""
_PROBE = "attention_probe"
_KERNEL_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class AttentionProbe(threading.local):
    """Holds what one layer's tokens received in the calling thread's last forward pass.

    A layer that attends within parts of its input is called for one after the other.
    """

    def __init__(self) -> None:
        self._received: list[Tensor] = []

    def clear(self) -> None:
        """Forget what a pass left that did not come to its end."""
        self._received.clear()

    def put(self, received: Float[Tensor, "b n"]) -> None:
        """Keep what the tokens of a part received, behind what the parts before it did."""
        self._received.append(received)

    def take(self) -> Float[Tensor, "b n"]:
        """The sums, averaged over heads, float32; taken once."""
        received, self._received = self._received, []
        if not received:
            raise UnsupportedModel(
                "a probed layer left no attention sums: its attention does not go through the "
                "attention interface; use a tower of transformers' own classes"
            )
        return received[0] if len(received) == 1 else torch.cat(received)


def probe_attention(attention: nn.Module) -> AttentionProbe:
    """Attach a probe to a self-attention module whose model runs `PROBED_SDPA`."""
    probe = getattr(attention, _PROBE, None) or AttentionProbe()
    setattr(attention, _PROBE, probe)
    return probe


class ProbedLayers:
    """The probes of a tower's local and global layer, which may be one and the same."""

    def __init__(self, local_attention: nn.Module, global_attention: nn.Module) -> None:
        self._local = probe_attention(local_attention)
        self._global = probe_attention(global_attention)

    def clear(self) -> None:
        """Forget what a pass left that did not come to its end."""
        self._local.clear()
        self._global.clear()

    def take(self) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
        """What tokens received in the local and in the global layer; taken once."""
        received = self._local.take()
        return received, received if self._global is self._local else self._global.take()


def attention_received(
    query: Float[Tensor, "b h n c"],
    key: Float[Tensor, "b h n c"],
    scaling: float,
    working_bytes: int | None = None,
    log_sums: Float[Tensor, "b h n"] | None = None,
) -> Float[Tensor, "b h n"]:
    """Column sums of softmax(query keyᵀ · scaling) over keys, head by head, in float32.

    `log_sums`, logarithms of the rows' sums where the layer's attention gave them, spare the
    kernels a launch.

    Memory beyond the result is about `working_bytes` (default by device), whatever b, h and n;
    next to none where the kernels run.
    """
    if working_bytes is None and _has_kernels(query):
        return _received_by_kernels(query, key, scaling, log_sums)
    if working_bytes is None:
        on_cpu = query.device.type == "cpu"
        working_bytes = WORKING_BYTES if on_cpu else WORKING_BYTES_ACCELERATOR
    received = torch.zeros(query.shape[:3], dtype=torch.float32, device=query.device)
    for frames, heads, rows in _blocks(query.shape[:3], working_bytes):
        block = query[frames, heads, rows].float() * scaling
        scores = block @ key[frames, heads].float().transpose(-1, -2)
        received[frames, heads] += torch.softmax(scores, dim=-1).sum(-2)
    return received


def _has_kernels(query: Tensor) -> bool:
    return runs_kernels(query.device) and query.dtype in _KERNEL_DTYPES


def _received_by_kernels(
    query: Float[Tensor, "b h n c"],
    key: Float[Tensor, "b h n c"],
    scaling: float,
    log_sums: Float[Tensor, "b h n"] | None,
) -> Float[Tensor, "b h n"]:
    """`attention_received` in one launch, or two without the logarithms of the rows' sums."""
    from aot.kernels import attention as kernels  # Triton is there now

    query, key = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key))
    if log_sums is None:
        sums = kernels.attention_log_sums(query, key, scaling)
    else:
        sums = log_sums.contiguous()
    return kernels.attention_received(query, key, sums, scaling)


def _blocks(shape: torch.Size, working_bytes: int) -> Iterator[tuple[slice, slice, slice]]:
    """Slices of (b, h, n) whose scores and probabilities fit `working_bytes`."""
    num_frames, num_heads, num_tokens = shape
    fitting_rows = max(1, working_bytes // (2 * 4 * num_tokens))
    rows = min(num_tokens, fitting_rows)
    heads = max(1, min(num_heads, fitting_rows // num_tokens))
    frames = max(1, fitting_rows // (num_tokens * num_heads))
    for frame in range(0, num_frames, frames):
        for head in range(0, num_heads, heads):
            for row in range(0, num_tokens, rows):
                yield (
                    slice(frame, frame + frames),
                    slice(head, head + heads),
                    slice(row, row + rows),
                )


def _probed_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    probe: AttentionProbe | None = getattr(module, _PROBE, None)
    if probe is not None:
        if attention_mask is not None:
            raise UnsupportedModel(
                "got an attention mask in a probed layer, expected full attention among the "
                "patches of a frame; use a tower without masks"
            )
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        if _runs_flash(module, query, key, value, kwargs):
            flash = torch.ops.aten._scaled_dot_product_flash_attention
            output, log_sums = flash(query, key, value, scale=scale)[:2]
            probe.put(attention_received(query, key, scale, log_sums=log_sums).mean(1))
            return output.transpose(1, 2).contiguous(), None
        probe.put(attention_received(query, key, scale).mean(1))
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **kwargs
    )


def _runs_flash(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]
) -> bool:
    """Whether flash attention itself may take the place of SDPA, which keeps its log-sums."""
    causal = options.get("is_causal", getattr(module, "is_causal", True))
    if causal or options.get("dropout") or not (query.is_cuda and _has_kernels(query)):
        return False
    if query.shape != key.shape:
        return False
    given = torch.backends.cuda.SDPAParams(query, key, value, None, 0.0, False, False)
    return torch.backends.cuda.can_use_flash_attention(given)


AttentionInterface.register(PROBED_SDPA, _probed_sdpa)
