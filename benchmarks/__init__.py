"""vitpool beside the engines its users would pick instead: `python -m benchmarks`."""
