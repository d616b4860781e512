"""fewstep: few-step generators distilled from discrete diffusion models.

A kind of component is a folder, named like the word in `fewstep list`. Below the kinds lies the ground (`core`,
`runtime`), above them what is done with a run. A room imports only rooms below it; `python -m tests.rooms` prints them.

Importing this package loads no torch: each public name is loaded when it is first used. `__init__.pyi` lists the names,
so that type checkers and editors know what they are.

No file is a component: `pipeline` is a face like this one.
"""

import lazy_loader

from fewstep.core.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
