"""Is the anchor healthy, is there a signal, who gets the weight: figures of one update. Last axis = group.

Each function gives one number per group: 1 or 0 for yes or no, and NaN where a group has no answer, which
`group_mean` leaves out (deviation D53). So the mean of a yes or no is a share. All are detached.
"""

from tpo_torch.diagnostics.anchor import DOMINANCE_ALARM as DOMINANCE_ALARM
from tpo_torch.diagnostics.anchor import UNMOVED_TV as UNMOVED_TV
from tpo_torch.diagnostics.anchor import AnchorHealth as AnchorHealth
from tpo_torch.diagnostics.anchor import anchor_dominance as anchor_dominance
from tpo_torch.diagnostics.anchor import anchor_health as anchor_health
from tpo_torch.diagnostics.anchor import kl_ceiling as kl_ceiling
from tpo_torch.diagnostics.anchor import mode_moves as mode_moves
from tpo_torch.diagnostics.anchor import normalised_entropy as normalised_entropy
from tpo_torch.diagnostics.anchor import summarise as summarise
from tpo_torch.diagnostics.candidates import correlation as correlation
from tpo_torch.diagnostics.candidates import duplicate_rate as duplicate_rate
from tpo_torch.diagnostics.means import group_mean as group_mean
from tpo_torch.diagnostics.signal import all_fail as all_fail
from tpo_torch.diagnostics.signal import winners_losers_weight as winners_losers_weight
from tpo_torch.diagnostics.signal import zero_variance as zero_variance
