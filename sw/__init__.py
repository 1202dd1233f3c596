"""Systolith: run PyTorch-quantized models bit for bit on an open int8 FPGA accelerator."""
