# SPDX-License-Identifier: Apache-2.0
"""The old name of `vitpool.checkpoint.live_timm`."""

from .checkpoint.live_timm import from_timm as from_timm
from .checkpoint.live_timm import read_options as read_options
