"""Environments of the bandits, under the name of the first version: `tpo_ref.bandits.environments`."""

from tpo_ref.bandits.environments import CORRECT as CORRECT
from tpo_ref.bandits.environments import ManyContexts as ManyContexts
from tpo_ref.bandits.environments import Needle as Needle
from tpo_ref.bandits.environments import SampledCandidates as SampledCandidates
from tpo_ref.bandits.environments import SingleContext as SingleContext
from tpo_ref.bandits.environments import chain_to_logits as chain_to_logits
from tpo_ref.bandits.environments import check_run as check_run
from tpo_ref.bandits.environments import initial_logits as initial_logits
from tpo_ref.bandits.environments import sample as sample
from tpo_ref.bandits.environments import stream as stream
