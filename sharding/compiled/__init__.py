"""Compiles programs with XLA for any device, present or not, and reads their costs.

`targets` makes GPUs to compile for, and `machines` has their memory and peak speeds.
`proof` compiles a program and collects its memory, FLOPs and collectives; `hlo` counts
these in the compiler's text, which `hlo_text` parses (`hlo_traffic`: memory traffic);
`roofline` bounds the time from below.
"""
