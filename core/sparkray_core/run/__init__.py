"""The shell around the models: processes, loops and the effects carried out. It decides nothing."""
