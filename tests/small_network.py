"""Commands of the project with a ResNet-18 of two blocks: for tests of what goes on around a network.

python tests/small_network.py train --data=... --workdir=... and all other flags of the command
"""

import importlib
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from tce_tf import command
from tce_tf.modeling import resnet

SMALL = ((1, 1), False)


if __name__ == "__main__":
    resnet.STAGES["resnet18"] = SMALL
    module = importlib.import_module(f"tce_tf.{sys.argv[1]}")
    command.run(module.main, module.define_flags, sys.argv[2:])
