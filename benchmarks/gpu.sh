#!/usr/bin/env bash
# Shows in under 8 minutes what this project does on a GPU: the tests that need one, and the benchmarks that a GPU changes.
# It needs CUDA, PyTorch and `pip install -c constraints.txt -e ".[test,benchmarks]"`, and writes gpu.json and gpu.log
# into the folder that the first argument names (by default the current one).
set -euo pipefail
output=$(realpath "${1:-.}")
cd "$(dirname "$0")/.."
python - <<'CHECK'
import torch

if not torch.cuda.is_available():
    raise SystemExit("gpu.sh: PyTorch sees no GPU here")
print(torch.cuda.get_device_name(), "PyTorch", torch.__version__, "CUDA", torch.version.cuda)
CHECK
{
  timeout 150 python -m pytest -m gpu -n 0 -q || echo "FAILED: the tests that need a GPU"
  timeout 300 python -m benchmarks loops softmax lists encoder-step runs --output "$output/gpu.json"
} 2>&1 | tee "$output/gpu.log"
