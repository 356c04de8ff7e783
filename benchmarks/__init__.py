# SPDX-License-Identifier: Apache-2.0
"""vitpool beside the engines its users would pick instead: `python -m benchmarks`."""
