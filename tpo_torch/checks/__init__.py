"""Input checks of the torch mirror: `tpo_ref.checks` without a host synchronisation.

Shapes and dtypes are always checked. Values are checked where reading them costs nothing: on the CPU, outside
`torch.compile`. On an accelerator a NaN stays a visible NaN in the loss of its group (deviation D6).
"""

from tpo_torch.checks.arrays import all_hold as all_hold
from tpo_torch.checks.arrays import array as array
from tpo_torch.checks.arrays import dense as dense
from tpo_torch.checks.arrays import finite as finite
from tpo_torch.checks.arrays import finite_log_weights as finite_log_weights
from tpo_torch.checks.arrays import log_weights as log_weights
from tpo_torch.checks.arrays import mask_for as mask_for
from tpo_torch.checks.arrays import same_device as same_device
from tpo_torch.checks.arrays import same_shape as same_shape
from tpo_torch.checks.groups import deviations as deviations
from tpo_torch.checks.groups import distribution as distribution
from tpo_torch.checks.groups import figures as figures
from tpo_torch.checks.groups import flags as flags
from tpo_torch.checks.groups import group as group
from tpo_torch.checks.groups import labels as labels
from tpo_torch.checks.groups import lengths as lengths
from tpo_torch.checks.groups import log_probabilities as log_probabilities
from tpo_torch.checks.groups import masses as masses
from tpo_torch.checks.groups import probabilities as probabilities
from tpo_torch.checks.groups import rollout as rollout
from tpo_torch.checks.groups import scores as scores
from tpo_torch.checks.groups import successes as successes
from tpo_torch.checks.groups import token_log_weights as token_log_weights
from tpo_torch.checks.numbers import axes as axes
from tpo_torch.checks.numbers import choice as choice
from tpo_torch.checks.numbers import divisor as divisor
from tpo_torch.checks.numbers import non_negative as non_negative
from tpo_torch.checks.numbers import positive as positive
from tpo_torch.checks.numbers import real as real
from tpo_torch.checks.numbers import share as share
from tpo_torch.checks.numbers import shown as shown
from tpo_torch.checks.numbers import truth as truth
from tpo_torch.checks.numbers import whole as whole
