"""Environments of the bandits, under the name of the first version: `tpo_ref.bandits.environments`."""

from tpo_ref.bandits.environments import ManyContexts as ManyContexts
from tpo_ref.bandits.environments import Needle as Needle
from tpo_ref.bandits.environments import SampledCandidates as SampledCandidates
from tpo_ref.bandits.environments import SingleContext as SingleContext
