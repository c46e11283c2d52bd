#!/usr/bin/env bash
# From PyTorch to the file that the board loads: export, prune, convert. Each step fails, and with it the pipeline, where
# a check of its result does. RKNN_PYTHON: an interpreter with rknn-toolkit2, where this environment has none.
set -euo pipefail
cd "$(dirname "$0")"
python export.py net.onnx
onnxprune prune --summary "${GITHUB_STEP_SUMMARY:-}"
onnxprune rknn net.pruned.onnx --against net.onnx --target rk3588 --dtype fp16 -o net.rknn ${RKNN_PYTHON:+--python "$RKNN_PYTHON"}
