"""Training: `train(config, run_dir, device)` makes or continues a run.

`start` has what a run needs before its first step, `state` what a step changes, `steps` what a step
computes, and `loop` when all that happens.
"""
