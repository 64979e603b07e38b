#!/usr/bin/env bash
# PyTorch on a CPU: backwards through a depthwise convolution with stride 2, bfloat16 is far slower
# than float32, not faster.
#
# Expected: bfloat16 moves half of the bytes, and forwards it is indeed faster; so autocast should
# help a network of such convolutions (MobileNet, EfficientNet) in training.
# Seen with torch 2.14.1 on x86-64 with AVX-512 BF16, one thread: the gradient by the input of
# 672 channels, 5x5, stride 2, 20x20 pixels, batch 16, channels last, takes 4 ms in float32 and
# 147 ms in bfloat16. With stride 1 bfloat16 is the faster one: 6.5 against 8.7 ms.
# What we do: modeling_findtrack/efficientnet_lite.py runs its strided convolutions in the dtype of
# its weights, whatever autocast says.
#
# Fails if bfloat16 is less than 4 times as slow as float32 any more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 numpy
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PY'
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
print("torch", torch.__version__)


def backward(dtype, stride):
    """Median milliseconds of the gradient by the input."""
    x = torch.randn(16, 672, 20, 20, dtype=dtype).to(memory_format=torch.channels_last)
    x.requires_grad_(True)
    weight = torch.randn(672, 1, 5, 5, dtype=dtype)
    times = []
    for _ in range(7):
        y = F.conv2d(x, weight, None, stride, 2, 1, 672)
        gradient = torch.ones_like(y)
        start = time.process_time()
        y.backward(gradient)
        times.append(1000 * (time.process_time() - start))
    return sorted(times)[3]


ratios = {}
for stride in (1, 2):
    single, half = (backward(dtype, stride) for dtype in (torch.float32, torch.bfloat16))
    ratios[stride] = half / single
    print(f"stride {stride}: float32 {single:.1f} ms, bfloat16 {half:.1f} ms, ratio {half / single:.1f}")
sys.exit(0 if ratios[2] >= 4 else 1)
PY
