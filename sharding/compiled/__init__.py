"""What XLA's compiler says of a program, for devices that need not be here.

`targets` makes GPUs to compile for, and `machines` knows what they hold and do. `proof`
compiles a program and collects its memory, FLOPs and collectives; `hlo` counts these in
the compiler's text, which `hlo_text` parses (`hlo_traffic`: memory traffic); `roofline`
bounds the time from below.
"""
