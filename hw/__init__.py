"""Synthesizable Amaranth: encoders, column engine, cells, sequencer."""
