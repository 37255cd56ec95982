"""The compiled bandit runs, under the name of the first version: `tpo_ref.bandits.compiled`."""

from tpo_ref.bandits.compiled import many_contexts as many_contexts
from tpo_ref.bandits.compiled import needle as needle
from tpo_ref.bandits.compiled import sampled_candidates as sampled_candidates
from tpo_ref.bandits.compiled import single_context as single_context
