"""Training: `train(config, run_dir, device)` makes or continues a run.

`start` is what a run needs, `state` what a step changes, `inputs` what it sees, `steps` what it
does, `loop` when.
"""
