# SPDX-License-Identifier: Apache-2.0
"""A live timm model as ours, of the class of that name, with weights and configuration.

The module is read as it stands, not as it was built: after `reset_classifier`,
`prune_intermediate_layers` or a new head by hand. Modules are known by class and by
attributes; neither torch nor timm is imported, but torch to run a copy of timm's.
"""

from __future__ import annotations

from .build import from_timm
from .options import read_options

__all__ = ["from_timm", "read_options"]
