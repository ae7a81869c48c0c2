"""`python -m tce_tf.train` with a ResNet-18 of two blocks: for tests of what goes on between processes.

python tests/small_train.py --data=... --workdir=... and all other flags of train
"""

from tce_tf import command, train
from tce_tf.modeling import resnet

SMALL = ((1, 1), False)


if __name__ == "__main__":
    resnet.STAGES["resnet18"] = SMALL
    command.run(train.main, train.define_flags)
