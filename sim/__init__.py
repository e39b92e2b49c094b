"""Simulation: Verilator builds, memory models, cocotb benches."""
