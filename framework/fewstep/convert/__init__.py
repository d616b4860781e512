"""Public checkpoints of the field, converted into fewstep's backbones.

No file is a component.
"""

from fewstep.convert.importing import Imported, ImportRequest, import_checkpoint
from fewstep.convert.layouts import LAYOUTS, Layout, from_public, to_public

__all__ = ["LAYOUTS", "ImportRequest", "Imported", "Layout", "from_public", "import_checkpoint", "to_public"]
