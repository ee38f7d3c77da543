"""Reads the machine code (SASS) of GPU kernels: what a kernel will cost, without a device."""
