"""The rules by family: what each joins of the formulas in the stems. `tpo_torch.rules` lists them all."""
