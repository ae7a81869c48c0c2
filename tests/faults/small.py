"""Any command of the project with a ResNet-18 of two blocks, for jobs that are run a hundred times.

python tests/faults/small.py train --data=... --workdir=... and all other flags of the command
"""

import importlib
import sys

from tce_tf import command
from tce_tf.modeling import resnet

if __name__ == "__main__":
    resnet.STAGES["resnet18"] = ((1, 1), False)
    module = importlib.import_module(f"tce_tf.{sys.argv[1]}")
    command.run(module.main, module.define_flags, sys.argv[2:])
