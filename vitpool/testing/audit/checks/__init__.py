# SPDX-License-Identifier: Apache-2.0
"""The checks, a family a file; `registry.py` has their order."""
